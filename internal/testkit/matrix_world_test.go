package testkit_test

import (
	"database/sql"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/store/sqlite"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/contract"
)

// otherTenant is a second tenant beside the one that there is from the start.
const otherTenant = "theirs"

// withOtherTenant adds otherTenant to a server's database, and returns its first
// admin's token: the API cannot make tenants.
func withOtherTenant(t testing.TB, cp *testkit.ControlPlane, db *sql.DB) string {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), "INSERT INTO tenants (id) VALUES (?)", otherTenant); err != nil {
		t.Fatal(err)
	}
	st, err := sqlite.Open(t.Context(), filepath.Join(cp.Data, "stella.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	_, text, err := access.NewService(st, time.Now).Create(t.Context(), otherTenant, "test", "their admin", api.RoleAdmin, 0)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// database opens a server's database beside it.
func database(t testing.TB, cp *testkit.ControlPlane) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file://"+filepath.Join(cp.Data, "stella.db")+"?_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// caller is who calls in a column.
type caller struct {
	column column
	http   *http.Client
	bearer string
	tokens *api.APIToken // of people
	agent  *handmade     // of agents
	jwt    string        // the agent's token for task endpoints
}

// matrix is the world of TestMatrixOfRoles: two tenants. What belongs to the
// first has a name with "ours" in it.
type matrix struct {
	*testing.T
	cp      *testkit.ControlPlane
	db      *sql.DB
	admin   *client.Client
	callers map[column]*caller
	own     *handmade // the agent whose paths are tried
	task    *api.AgentTask
	digest  string // of an artifact that the task needs
	n       int
	tables  map[string][]string // and their columns that are compared
	doc     *contract.Document
	// lastToken is a registration token that nobody has used.
	lastToken string
}

func newMatrix(t *testing.T, doc *contract.Document) *matrix {
	t.Helper()
	cp := testkit.StartServer(t, func(c *server.Config) {
		// Nothing is to change by itself.
		c.HeartbeatInterval, c.StaleAfter, c.DeadAfter, c.TaskLease = 10*time.Minute, time.Hour, time.Hour, time.Hour
	})
	m := &matrix{T: t, cp: cp, db: database(t, cp), doc: doc, admin: cp.Client, callers: map[column]*caller{}}
	theirs, err := client.New(client.Options{URL: cp.URL, Token: withOtherTenant(t, cp, m.db), CACert: cp.CA})
	m.ok(err)
	t.Cleanup(theirs.Close)
	for role, cs := range map[api.Role][2]column{
		api.RoleViewer: {asViewer, asForeignView}, api.RoleOperator: {asOperator, asForeignOper}, api.RoleAdmin: {asAdmin, asForeignAdmin},
	} {
		for i, of := range []*client.Client{m.admin, theirs} {
			tok, err := of.CreateAPIToken(t.Context(), api.APITokenRequest{Name: pickName(i) + string(role), Role: role})
			m.ok(err)
			m.callers[cs[i]] = &caller{column: cs[i], http: httpClient(tlsConfig(cp)), bearer: tok.Token, tokens: tok}
		}
	}
	m.callers[asNobody] = &caller{column: asNobody, http: httpClient(tlsConfig(cp))}
	m.callers[asBadToken] = &caller{column: asBadToken, http: httpClient(tlsConfig(cp)), bearer: "stl_" + strings.Repeat("a", 40)}
	for c, name := range map[column]string{asOwn: "ours-own", asAnother: "ours-another", asRevoked: "ours-revoked", asDeleted: "ours-deleted"} {
		m.callers[c] = m.newAgent(c, m.admin, name)
	}
	m.callers[asForeignAgent] = m.newAgent(asForeignAgent, theirs, "their-agent")
	m.own = m.callers[asOwn].agent
	m.things()
	_, err = m.admin.RevokeAgent(t.Context(), "ours-revoked")
	m.ok(err)
	m.ok(m.admin.DeleteAgent(t.Context(), "ours-deleted"))
	m.columns()
	m.lastToken = cp.Token()
	return m
}

func pickName(i int) string { return []string{"ours-", "their-"}[i] }

func (m *matrix) ok(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// name is a new name of something of ours.
func (m *matrix) name() string {
	m.n++
	return fmt.Sprintf("ours-%d", m.n)
}

func (m *matrix) newAgent(c column, of *client.Client, name string) *caller {
	m.Helper()
	tok, err := of.CreateRegistrationToken(m.Context(), api.RegistrationTokenRequest{Group: "a-group"})
	m.ok(err)
	h := registered(m, m.cp, tok.Token, api.RegisterRequest{Name: name, Capabilities: []string{"docker", "host"}})
	out := &caller{column: c, agent: h, http: httpClient(tlsConfig(m.cp, h.cert))}
	var jwt api.AgentToken
	status, body := call(m, out.http, http.MethodPost, m.cp.URL+"/api/v1/agents/token", nil, "{}")
	if status != http.StatusOK {
		m.Fatalf("token: %d %s", status, body)
	}
	into(m, body, &jwt)
	out.jwt = jwt.Token
	return out
}

// things makes what the first tenant has.
func (m *matrix) things() {
	m.Helper()
	ctx := m.Context()
	_, err := m.admin.CreateTarget(ctx, api.TargetRequest{Name: "ours-box", Kind: "host", Agent: m.own.id, Environment: "ours-env", Config: api.TargetConfig{Directory: "/opt/ours"}})
	m.ok(err)
	m.digest = m.artifact("ours-file")
	task, err := m.admin.SubmitTask(ctx, api.TaskRequest{
		Type: api.TaskUploadFiles, Target: "ours-box",
		Payload: marshal(m, api.UploadPayload{Files: []api.ArtifactReference{{Name: "ours", URL: api.ArtifactScheme + m.digest}}}),
	})
	m.ok(err)
	status, body := call(m, m.callers[asOwn].http, http.MethodPost, m.own.url("/heartbeat"), nil, api.HeartbeatRequest{MaxTasks: 1})
	var out api.HeartbeatResponse
	into(m, body, &out)
	if status != http.StatusOK || len(out.Tasks) != 1 || out.Tasks[0].ID != task.ID {
		m.Fatalf("the heartbeat handed out %d %s", status, body)
	}
	m.task = &out.Tasks[0]
	_, err = m.admin.SetSecret(ctx, "ours-secret", "hunter22")
	m.ok(err)
	_, err = m.admin.SendCommand(ctx, "ours-own", lasting())
	m.ok(err)
}

// artifact pushes a file that there was not yet.
func (m *matrix) artifact(name string) string {
	m.Helper()
	data := []byte("content of " + m.name())
	req := api.ArtifactRequest{Digest: digestOf(data), Size: int64(len(data)), Name: name}
	_, err := m.admin.BeginArtifact(m.Context(), req)
	m.ok(err)
	_, err = m.admin.AppendArtifact(m.Context(), req.Digest, 0, strings.NewReader(string(data)))
	m.ok(err)
	return req.Digest
}

// contents is what is in the database.
type contents []string

// ours is what belongs to the first tenant.
func (c contents) ours() contents {
	return slices.DeleteFunc(slices.Clone(c), func(row string) bool { return !strings.Contains(row, "tenant_id="+access.DefaultTenant+" ") })
}

// What changes by itself, because somebody was heard of, or some time after it
// was decided on, is not compared.
var (
	restless = []string{"audit", "audit_chains", "keys", "readiness", "goose_db_version", "artifact_trash", "artifact_chunks"}
	fleeting = []string{
		"last_used_at", "last_heartbeat", "resource_usage", "reported_status", "not_accepting", "transport",
		"commands.pending", "commands.delivered", "command_recipients.state", "command_recipients.delivered_at",
	}
)

func (m *matrix) columns() {
	m.Helper()
	m.tables = map[string][]string{}
	rows, err := m.db.QueryContext(m.Context(), `SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'`)
	m.ok(err)
	defer rows.Close()
	for rows.Next() {
		var table, col string
		m.ok(rows.Scan(&table, &col))
		if !slices.Contains(restless, table) && !slices.Contains(fleeting, col) && !slices.Contains(fleeting, table+"."+col) {
			m.tables[table] = append(m.tables[table], col)
		}
	}
	m.ok(rows.Err())
	if len(m.tables) < 15 {
		m.Fatalf("only %d tables were found", len(m.tables))
	}
}

func (m *matrix) dump() (all contents) {
	m.Helper()
	for table, cols := range m.tables {
		all = append(all, m.dumpOf(table, cols)...)
	}
	slices.Sort(all)
	return all
}

func (m *matrix) dumpOf(table string, cols []string) (all contents) {
	m.Helper()
	rows, err := m.db.QueryContext(m.Context(), "SELECT "+strings.Join(cols, ", ")+" FROM "+table)
	m.ok(err)
	defer rows.Close()
	for rows.Next() {
		values := make([]any, len(cols))
		at := make([]any, len(cols))
		for i := range values {
			at[i] = &values[i]
		}
		m.ok(rows.Scan(at...))
		line := table + " "
		for i, c := range cols {
			line += fmt.Sprintf("%s=%v ", c, values[i])
		}
		all = append(all, line)
	}
	m.ok(rows.Err())
	return all
}

// settle waits until what was begun before has been written.
func (m *matrix) settle() contents {
	m.Helper()
	last := m.dump()
	testkit.Eventually(m, 20*time.Second, "the database to be quiet", func() (bool, string) {
		now := m.dump()
		// A rollout that is about to queue its target's task, or to end.
		atWork := func(row string) bool {
			return strings.HasPrefix(row, "rollouts ") && (strings.Contains(row, "state=cancelling") || strings.Contains(row, "state=running") && !strings.Contains(row, `"task":`))
		}
		quiet := slices.Equal(last, now) && !slices.ContainsFunc(now, atWork)
		diff := ""
		if !quiet {
			diff = cmp.Diff(last, now)
		}
		last = now
		return quiet, diff
	})
	return last
}

func (m *matrix) same(cell string, before, after contents) {
	m.Helper()
	if !slices.Equal(before, after) {
		m.Errorf("%s has changed something (-before +after):\n%s", cell, cmp.Diff(before, after))
	}
}
