package testkit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/api/stella/v1/stellav1connect"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/contract"
)

// The matrix of roles: every door of the server, tried by everybody. What each
// of them is to hear is written down here and in matrix_rows_test.go, and taken
// from no code of the server's.

// column is a kind of caller.
type column string

const (
	asViewer       column = "viewer"
	asOperator     column = "operator"
	asAdmin        column = "admin"
	asOwn          column = "agent (own)"       // the one that the path names
	asAnother      column = "agent (another's)" // of the same tenant
	asRevoked      column = "agent (revoked)"   // at its own path
	asDeleted      column = "agent (deleted)"   // at its own path
	asForeignView  column = "viewer of another tenant"
	asForeignOper  column = "operator of another tenant"
	asForeignAdmin column = "admin of another tenant"
	asForeignAgent column = "agent of another tenant"
	asNobody       column = "nobody"
	asBadToken     column = "a bad token"
)

var columns = []column{
	asNobody, asBadToken, asViewer, asForeignView, asForeignAgent, asRevoked, asDeleted, asAnother,
	asForeignOper, asForeignAdmin, asOwn, asOperator, asAdmin,
}

// verdict is what a caller hears: a refusal, or that it is in.
type verdict struct {
	status int
	code   string
	in     bool
	// foreign: the caller is in, in another tenant, where none of ours is.
	foreign bool
}

var (
	letIn     = verdict{in: true}
	abroad    = verdict{in: true, foreign: true}
	noPerson  = verdict{status: 401, code: "unauthenticated"}
	noCert    = verdict{status: 401, code: "certificate_missing"}
	noRole    = verdict{status: 403, code: "role_missing"}
	notYou    = verdict{status: 403, code: "not_your_identity"}
	isRevoked = verdict{status: 403, code: "agent_revoked"}
	isDeleted = verdict{status: 403, code: "agent_unknown"}
	noToken   = verdict{status: 401, code: "token_missing"}
	badToken  = verdict{status: 401, code: "token_refused"}
)

// people is what everybody hears where an API token of a role is needed.
func people(least column) map[column]verdict {
	m := map[column]verdict{}
	for _, c := range columns {
		m[c] = noPerson
	}
	for rank, ours := range []column{asViewer, asOperator, asAdmin} {
		m[ours], m[[]column{asForeignView, asForeignOper, asForeignAdmin}[rank]] = letIn, abroad
		if rank < slices.Index([]column{asViewer, asOperator, asAdmin}, least) {
			m[ours], m[[]column{asForeignView, asForeignOper, asForeignAdmin}[rank]] = noRole, noRole
		}
	}
	return m
}

// agents is what everybody hears where a client certificate is needed.
func agents(change map[column]verdict) map[column]verdict {
	m := map[column]verdict{}
	for _, c := range columns {
		m[c] = noCert
	}
	m[asOwn], m[asAnother], m[asRevoked], m[asDeleted], m[asForeignAgent] = letIn, notYou, isRevoked, isDeleted, notYou
	maps.Copy(m, change)
	return m
}

// expectations by who may call.
var (
	ofViewers   = people(asViewer)
	ofOperators = people(asOperator)
	ofAdmins    = people(asAdmin)
	// What is the whole installation's is for admins of its first tenant.
	ofTheInstallation = func() map[column]verdict {
		m := people(asAdmin)
		m[asForeignAdmin] = verdict{status: 403, code: "not_your_installation"}
		return m
	}()
	// What all of it is told in numbers is for everybody of that tenant.
	ofTheInstallationsViewers = func() map[column]verdict {
		m := people(asViewer)
		for _, c := range []column{asForeignView, asForeignOper, asForeignAdmin} {
			m[c] = verdict{status: 403, code: "not_your_installation"}
		}
		return m
	}()
	ofTheAgent = agents(nil)
	ofAnyAgent = agents(map[column]verdict{asAnother: letIn, asForeignAgent: abroad})
	// The agent that has the task, with a token of its own; a bad one is shown
	// over the agent's own connection.
	ofTheTask       = agents(map[column]verdict{asBadToken: badToken})
	ofAgentOrViewer = agents(map[column]verdict{
		asViewer: letIn, asOperator: letIn, asAdmin: letIn, asForeignView: abroad, asForeignOper: abroad, asForeignAdmin: abroad, asBadToken: noPerson,
	})
	ofRegistrants = agents(map[column]verdict{
		asViewer: noToken, asOperator: noToken, asAdmin: noToken, asForeignView: noToken, asForeignOper: noToken, asForeignAdmin: noToken,
		asNobody: noToken, asBadToken: badToken, asAnother: letIn, asForeignAgent: abroad,
	})
	ofEverybody = func() map[column]verdict {
		m := map[column]verdict{}
		for _, c := range columns {
			m[c] = letIn
		}
		return m
	}()
)

// attempt is one request to a door.
type attempt struct {
	params map[string]string // in the path
	query  string
	header map[string]string
	body   any // JSON; []byte goes as it is
	// client is somebody else's than the column's, where the column's own is
	// needed later.
	client *http.Client
}

// cells is one row of the matrix: a door, and what each column hears at it.
type cells struct {
	id  string
	who map[column]verdict
	// in is the status of a caller that is let in.
	in int
	// absent is the code of the 404 that another tenant hears of what is not
	// theirs; empty where they do the same in their own tenant.
	absent string
	// make makes a request that is good enough to succeed, and what it needs.
	make func(m *matrix, c *caller) attempt
	// knock is another way to call than by HTTP.
	knock func(m *matrix, c *caller) (status int, code string)
}

// outside are the doors that the API's document does not have.
var outside = []string{"link.grpc", "document.openapi", "document.page", "nothing"}

func TestMatrixOfRoles(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := contract.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	doors := map[string]*contract.Operation{}
	for _, op := range doc.Operations {
		doors[op.ID] = op
	}
	for id, path := range map[string]string{"document.openapi": "/api/v1/openapi.json", "document.page": "/docs/api", "nothing": "/api/v1/nothing", "link.grpc": ""} {
		doors[id] = &contract.Operation{ID: id, Method: http.MethodGet, Path: path}
	}
	for _, id := range outside {
		if doors[id] == nil {
			t.Fatalf("the door %s leads nowhere", id)
		}
	}
	m := newMatrix(t, doc)
	tried := 0
	for _, row := range rowsOfMatrix() {
		op := doors[row.id]
		if op == nil {
			t.Errorf("there is no operation %s: its row is of no use any more, or there twice", row.id)
			continue
		}
		delete(doors, row.id)
		for _, c := range columns {
			want, ok := row.who[c]
			if !ok {
				t.Errorf("%s: nothing is expected of %s", row.id, c)
				continue
			}
			m.try(op, &row, m.callers[c], want)
			tried++
		}
	}
	for id := range doors {
		t.Errorf("nobody has written down who may call %s: give it a row in rowsOfMatrix", id)
	}
	t.Logf("%d cells", tried)
	m.changesThatFailAreNoted()
}

// try is one cell.
func (m *matrix) try(op *contract.Operation, row *cells, c *caller, want verdict) {
	m.Helper()
	cell := row.id + " by " + string(c.column)
	var a attempt
	if row.make != nil {
		a = row.make(m, c)
	}
	before, noted := m.settle(), m.lastNote()
	status, code, body := m.knock(op, row, c, a)
	switch {
	case !want.in:
		if status != want.status || code != want.code {
			m.Errorf("%s: %d %s, want %d %s: %s", cell, status, code, want.status, want.code, body)
		}
	case want.foreign && row.absent != "":
		if status != http.StatusNotFound || code != row.absent {
			m.Errorf("%s: %d %s, want 404 %s: %s", cell, status, code, row.absent, body)
		}
	default:
		if status != row.in {
			m.Errorf("%s: %d, want %d: %s", cell, status, row.in, body)
		}
		if want.foreign && bytes.Contains(body, []byte("ours")) {
			m.Errorf("%s: it shows what is not theirs: %s", cell, body)
		}
	}
	after := m.dump()
	switch {
	case !want.in || want.foreign && row.absent != "" || op.Method == http.MethodGet && row.id != "link.grpc" && row.id != "agent.task-stream" && row.id != "agent.events":
		m.same(cell, before, after)
	case want.foreign:
		m.same(cell, before.ours(), after.ours())
	}
	m.wantNoted(cell, op, c, want, row, noted)
}

// knock calls, and returns what came back.
func (m *matrix) knock(op *contract.Operation, row *cells, c *caller, a attempt) (status int, code string, body []byte) {
	m.Helper()
	if row.knock != nil {
		status, code = row.knock(m, c)
		return status, code, []byte(code)
	}
	path := op.Path
	for name, value := range a.params {
		path = strings.ReplaceAll(path, "{"+name+"}", value)
	}
	if strings.Contains(path, "{") {
		m.Fatalf("%s: the path %s is not filled in", row.id, path)
	}
	var r io.Reader = http.NoBody
	switch b := a.body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	default:
		data, err := json.Marshal(b)
		m.ok(err)
		r = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(m.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, op.Method, m.cp.URL+path+a.query, r)
	m.ok(err)
	if a.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	for k, v := range a.header {
		req.Header.Set(k, v)
	}
	client := c.http
	if a.client != nil {
		client = a.client
	}
	res, err := client.Do(req)
	m.ok(err)
	defer res.Body.Close()
	// A stream has begun, and that is all that is asked here.
	if res.StatusCode == http.StatusSwitchingProtocols || strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return res.StatusCode, "", nil
	}
	body, err = io.ReadAll(res.Body)
	m.ok(err)
	if res.StatusCode >= 400 {
		p := problem(m, body)
		if p.Status != res.StatusCode {
			m.Errorf("%s: %d says that it is %d", row.id, res.StatusCode, p.Status)
		}
		code = p.Code
	}
	return res.StatusCode, code, body
}

// byGRPC opens a link and takes its first frame.
func byGRPC(m *matrix, c *caller) (int, string) {
	client := *c.http
	client.Timeout = 0
	ctx, cancel := context.WithTimeout(m.Context(), 20*time.Second)
	defer cancel()
	stream := stellav1connect.NewLinkServiceClient(&client, m.cp.URL, connect.WithGRPC()).Connect(ctx)
	if c.bearer != "" {
		stream.RequestHeader().Set("Authorization", "Bearer "+c.bearer)
	}
	err := stream.Send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Hello{Hello: &stellav1.Hello{ProtocolVersion: api.ProtocolVersion}}})
	if err == nil || errors.Is(err, io.EOF) {
		_, err = stream.Receive()
	}
	_ = stream.CloseRequest()
	if err == nil {
		return http.StatusOK, ""
	}
	e, ok := errors.AsType[*connect.Error](err)
	if !ok {
		m.Fatal(err)
	}
	code := e.Meta().Get("Stella-Code")
	switch e.Code() { //nolint:exhaustive // these are the refusals
	case connect.CodeUnauthenticated:
		return http.StatusUnauthorized, code
	case connect.CodePermissionDenied:
		return http.StatusForbidden, code
	}
	return 0, fmt.Sprint(err)
}

// What happens in one tenant is told to nobody of another.
func TestEventsStayInTheirTenant(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	theirs, err := client.New(client.Options{URL: cp.URL, Token: withOtherTenant(t, cp, database(t, cp)), CACert: cp.CA})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(theirs.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	f := client.EventFilter{Connected: func() {
		newHandmade(t, cp, "ours") //nolint:contextcheck // it has the test's own
		token, err := theirs.CreateRegistrationToken(ctx, api.RegistrationTokenRequest{})
		if err != nil {
			t.Error(err)
			return
		}
		registered(t, cp, token.Token, api.RegisterRequest{Name: "theirs"}) //nolint:contextcheck // as above
	}}
	for e, err := range theirs.Events(ctx, f) {
		if err != nil {
			t.Fatal(err)
		}
		if e.AgentName != "theirs" {
			t.Errorf("another tenant is told of %+v", e)
		}
		break
	}
}
