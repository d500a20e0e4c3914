package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/rollout"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/server/live"
	"stella-ops.org/stella/internal/store/sqlite"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

// listings are all that there are.
var listings = []string{
	"/api/v1/agents", "/api/v1/targets", "/api/v1/tasks", "/api/v1/admin/agent-tokens", "/api/v1/admin/api-tokens", "/api/v1/audit", "/api/v1/secrets", "/api/v1/rollouts",
	"/api/v1/commands",
}

// apart is how nobody is connected.
type apart struct{}

// Transport implements Links.
func (apart) Transport(string) string { return "" }

// Connected implements Links.
func (apart) Sole(context.Context, *fleet.Agent, fleet.Caller) error   { return nil }
func (apart) Polled(context.Context, *fleet.Agent, fleet.Caller) error { return nil }
func (apart) Connected(string) bool                                    { return false }

// Streaming implements Links.
func (apart) Streaming(string) bool { return false }

// OpenStream implements Links.
func (apart) OpenStream(context.Context, *fleet.Agent) (*live.Stream, func(bool), error) {
	return live.NewStream(1), func(bool) {}, nil
}

// ReconnectWindow implements Links.
func (apart) TrustSpread() time.Duration { return 0 }

func (apart) ReconnectWindow() time.Duration { return 0 }

// whole returns a server over a store with agents, targets, tasks, tokens and
// audit events in it, and an admin's token.
func whole(t *testing.T) (s *Server, token string) {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	ctx, now := t.Context(), time.Now().UTC()
	people := access.NewService(st, time.Now)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if token, err = people.First(ctx); err != nil {
		t.Fatal(err)
	}
	box, err := seal.NewBox(make([]byte, seal.KeySize))
	must(err)
	key, err := access.LoadKey(ctx, st, box)
	must(err)
	audit := access.NewLog(st, key, access.LogOptions{}, time.Now, slog.New(slog.DiscardHandler))
	for i := range 5 {
		id := fmt.Sprintf("a%d", i)
		must(st.Enrol(ctx, &enroll.Enrolment{At: now, Cert: enroll.Issued{Fingerprint: id, NotBefore: now, NotAfter: now.Add(time.Hour)}, Agent: &fleet.Agent{
			ID: id, TenantID: "default", Name: "agent-" + id, Lifecycle: api.LifecycleActive, Liveness: []api.Liveness{api.Live, api.Dead}[i%2],
			Environment: "prod", CertificateFingerprint: id, PublicKeyHash: id, CreatedAt: now, UpdatedAt: now,
		}}))
		must(st.InsertTarget(ctx, &target.Target{ID: "t" + id, TenantID: "default", Name: "target-" + id, Kind: "docker", AgentID: id, CreatedAt: now, UpdatedAt: now}))
		_, err := st.InsertTask(ctx, &task.Task{ID: "k" + id, TenantID: "default", Type: api.TaskInspect, TargetID: "t" + id, CreatedAt: now, ExpiresAt: now.Add(time.Hour)})
		must(err)
		must(st.InsertToken(ctx, &enroll.Token{ID: "r" + id, TenantID: "default", Hash: id, Name: "token-" + id, MaxUses: 1, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}))
		_, _, err = people.Create(ctx, "default", "me", "person-"+id, api.RoleViewer, 0)
		must(err)
		_, err = st.InsertCommand(ctx, &command.Command{
			ID: "c" + id, TenantID: "default", Type: "replay", To: command.Recipient{Scope: api.ScopeAgent, Name: "agent-" + id}, CreatedAt: now, ExpiresAt: now.Add(time.Hour),
		}, command.Pick{AgentID: id}, true)
		must(err)
		_, err = st.InsertRollout(ctx, &rollout.Rollout{ID: "o" + id, TenantID: "default", State: api.RolloutSucceeded, Version: 1, Sealed: []byte("x"), CreatedAt: now, UpdatedAt: now})
		must(err)
		must(st.PutSecret(ctx, &secret.Secret{TenantID: "default", Name: "secret-" + id, Sealed: []byte("x"), CreatedAt: now, UpdatedAt: now}))
		audit.Audit(ctx, access.Event{TenantID: "default", At: now, Actor: "actor-" + id, Action: "agent.revoke", Outcome: "ok"})
	}
	fleets := fleet.NewService(st, nil, time.Now)
	return New(Deps{
		Access: people, Audit: audit, Fleet: fleets, Targets: target.NewService(st, fleets, time.Now),
		Enroll: enroll.NewService(st, nil, enroll.Policy{}, audited{}, nil, nil, time.Now, slog.New(slog.DiscardHandler)),
		Tasks:  task.NewService(st, nil, nil, nil, nil, nil, audited{}, task.Options{}, time.Now, slog.New(slog.DiscardHandler)), Links: apart{}, Now: time.Now,
		Commands: command.NewService(st, nil, nil, nil, command.Options{}, time.Now, slog.New(slog.DiscardHandler)),
		Rollouts: rollout.NewService(st, nil, nil, nil, nil, time.Now, slog.New(slog.DiscardHandler)),
		Secrets:  secret.NewService(st, nil, nil, time.Now),
		Log:      slog.New(slog.DiscardHandler), Version: "test",
	}), token
}

// page is what a listing answers, whatever it lists.
type page struct {
	Items []struct {
		ID   string `json:"id"`
		Name string `json:"name"`
		Seq  int64  `json:"seq"`
	} `json:"items"`
	Next string `json:"next"`
	api.Problem
}

// asked asks a listing.
func asked(t *testing.T, s *Server, token, path string, query ...string) (int, page) {
	t.Helper()
	q := url.Values{}
	for i := 0; i+1 < len(query); i += 2 {
		if query[i+1] != "" {
			q.Add(query[i], query[i+1])
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path+"?"+q.Encode(), nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	var p page
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%s: %s", path, w.Body)
	}
	return w.Code, p
}

// What is wrong with a filter, an order or a cursor is a problem that names
// the parameter, in each listing.
func TestListingsRefuse(t *testing.T) {
	t.Parallel()
	s, token := whole(t)
	for _, path := range listings {
		_, first := asked(t, s, token, path, "limit", "1")
		if first.Next == "" {
			t.Fatalf("%s: there is one page only", path)
		}
		for _, c := range []struct{ name, value, location, want string }{
			{"filter", "colour=blue", "query.filter", `have no field "colour"`},
			{"filter", "id", "query.filter", "at character"},
			{"filter", strings.Repeat("x", 2001), "query.filter", "2000"},
			{"sort", "colour", "query.sort", "They can be sorted by"},
			{"cursor", "garbage", "query.cursor", "this is no cursor"},
			{"cursor", "019b0000-0000-7000-8000-000000000000", "query.cursor", "this is no cursor"},
		} {
			status, got := asked(t, s, token, path, c.name, c.value)
			if status != http.StatusUnprocessableEntity || got.Code != "invalid" || len(got.Errors) != 1 ||
				got.Errors[0].Location != c.location || !strings.Contains(got.Errors[0].Message, c.want) {
				t.Errorf("%s?%s=%.30s: %d %+v", path, c.name, c.value, status, got.Problem)
			}
		}
		other := "id"
		if path == "/api/v1/audit" {
			other = "at"
		}
		if path == "/api/v1/secrets" {
			other = "-name"
		}
		if path == "/api/v1/agents" || path == "/api/v1/targets" {
			other = "-id"
		}
		status, got := asked(t, s, token, path, "cursor", first.Next, "sort", other)
		if status != http.StatusUnprocessableEntity || len(got.Errors) != 1 || !strings.Contains(got.Errors[0].Message, "another order") {
			t.Errorf("%s: a cursor of another order: %d %+v", path, status, got.Problem)
		}
	}
}

// Each listing is paged in the same way: all rows, each once.
func TestListingsPage(t *testing.T) {
	t.Parallel()
	s, token := whole(t)
	for _, path := range listings {
		orders := []string{"", "name", "-name"}
		switch path {
		case "/api/v1/audit":
			orders = []string{"", "at", "-actor"}
		case "/api/v1/tasks":
			orders = []string{"", "id", "-createdAt"}
		case "/api/v1/rollouts":
			orders = []string{"", "id", "-createdAt"}
		case "/api/v1/commands":
			orders = []string{"", "type", "-createdAt"}
		}
		_, whole := asked(t, s, token, path)
		for _, order := range orders {
			seen := map[string]int{}
			for cursor, n := "", 0; n < 10; n++ {
				status, got := asked(t, s, token, path, "limit", "2", "sort", order, "cursor", cursor)
				if status != http.StatusOK {
					t.Fatalf("%s by %q: %d %+v", path, order, status, got.Problem)
				}
				for _, item := range got.Items {
					seen[fmt.Sprint(item.ID, item.Name, item.Seq)]++
				}
				if cursor = got.Next; cursor == "" {
					break
				}
			}
			want := map[string]int{}
			for _, item := range whole.Items {
				want[fmt.Sprint(item.ID, item.Name, item.Seq)] = 1
			}
			if diff := cmp.Diff(want, seen); diff != "" || len(want) < 5 {
				t.Errorf("%s by %q (-want +got):\n%s", path, order, diff)
			}
		}
	}
}

// The parameters of before and the filter hold together, and references are
// found by name.
func TestListingsFilter(t *testing.T) {
	t.Parallel()
	s, token := whole(t)
	for _, c := range []struct {
		path  string
		query []string
		want  string // ids
	}{
		{"/api/v1/agents", []string{"filter", "status=live and env=prod"}, "a0 a2 a4"},
		{"/api/v1/agents", []string{"filter", "name ~ *a2 or name ~ *A3", "status", "DEAD"}, "a3"},
		{"/api/v1/agents", []string{"filter", "createdAt > -1h and lastHeartbeat = never", "sort", "-name", "limit", "2"}, "a4 a3"},
		{"/api/v1/targets", []string{"filter", "agent in (agent-a1, a3, nobody)"}, "ta1 ta3"},
		{"/api/v1/targets", []string{"filter", "agent=agent-a1", "agent", "a2"}, ""},
		{"/api/v1/tasks", []string{"filter", "target=target-a1 or targetName ~ *a0"}, "ka1 ka0"},
		{"/api/v1/tasks", []string{"filter", "state=queued and not (target in (target-a1, ta2))"}, "ka4 ka3 ka0"},
		{"/api/v1/admin/agent-tokens", []string{"filter", "state=usable and name=token-a3"}, "ra3"},
		{"/api/v1/admin/agent-tokens", []string{"filter", "state!=usable"}, ""},
	} {
		status, got := asked(t, s, token, c.path, c.query...)
		var ids []string
		for _, item := range got.Items {
			ids = append(ids, item.ID)
		}
		if have := strings.Join(ids, " "); status != http.StatusOK || have != c.want {
			t.Errorf("%s %v: %d %q %s, want %q", c.path, c.query, status, have, got.Detail, c.want)
		}
	}
	if _, got := asked(t, s, token, "/api/v1/admin/api-tokens", "filter", "role=admin"); len(got.Items) != 1 || got.Items[0].Name != "initial admin" {
		t.Errorf("admins: %+v", got)
	}
	if _, got := asked(t, s, token, "/api/v1/audit", "filter", "actor=actor-a2"); len(got.Items) != 1 {
		t.Errorf("audit: %+v", got)
	}
}

// The document says of each listing what it can be asked by.
func TestListingsAreDescribed(t *testing.T) {
	t.Parallel()
	s := newServer(nil)
	for _, path := range listings {
		said := map[string]string{}
		for _, p := range s.huma.OpenAPI().Paths[path].Get.Parameters {
			said[p.Name] = p.Description
		}
		if !slices.ContainsFunc([]string{"id (a text)", "seq (a whole number)", "name (a text)"}, func(first string) bool {
			return strings.Contains(said["filter"], "The fields: "+first)
		}) {
			t.Errorf("%s: filter: %s", path, said["filter"])
		}
		if !strings.Contains(said["sort"], "when left out") || said["cursor"] == "" || said["limit"] == "" {
			t.Errorf("%s: %v", path, said)
		}
	}
}

// And so does the page that people read.
func TestDocumentedFields(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../docs/filter.md")
	if err != nil {
		t.Fatal(err)
	}
	for title, schema := range map[string]*filter.Schema{
		"Agents": fleet.Schema, "Targets": target.Schema, "Tasks": task.Schema, "Registration tokens": enroll.Schema,
		"API tokens": access.TokenSchema, "Audit": access.AuditSchema, "Commands": command.Schema,
		"The recipients of a command": command.DeliverySchema, "The commands of an agent": command.ReceivedSchema,
	} {
		_, part, found := strings.Cut(string(text), "**"+title+"**")
		part, _, _ = strings.Cut(part, "\n**")
		part, _, _ = strings.Cut(part, "\n## ")
		if !found || !strings.Contains(part, "`"+schema.Order+"`") {
			t.Errorf("%s: the usual order %s is not told", title, schema.Order)
		}
		_, part, _ = strings.Cut(part, "| --- |")
		sortable := schema.Sortable()
		for _, name := range schema.Filterable() {
			at := strings.Index(part, "`"+name+"`")
			if at < 0 {
				t.Errorf("%s: %s is not told", title, name)
				continue
			}
			if arrow := strings.HasPrefix(part[at:], "`"+name+"` ↕"); arrow != slices.Contains(sortable, name) {
				t.Errorf("%s: %s is said to order the listing: %v", title, name, arrow)
			}
		}
	}
}
