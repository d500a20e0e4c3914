package rest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// tokens is a store that knows one API token, goodToken.
type tokens struct {
	access.Store
	failing error
}

// APITokenByHash implements access.Store.
func (s *tokens) APITokenByHash(_ context.Context, hash string) (*access.APIToken, error) {
	if sum := sha256.Sum256([]byte(goodToken)); hash == hex.EncodeToString(sum[:]) {
		return &access.APIToken{TenantID: access.DefaultTenant, Name: "tester", Role: api.RoleAdmin, LastUsedAt: time.Now()}, s.failing
	}
	return nil, s.failing
}

// goodToken is an admin's.
const goodToken = "stl_good"

// audited keeps nothing.
type audited struct{}

// Audit implements access.Auditor.
func (audited) Audit(context.Context, access.Event) {}

// AuditEvents implements Audit.
func (audited) AuditEvents(context.Context, string, access.Filter) ([]*access.Event, error) {
	return nil, nil
}

// Verify implements Audit.
func (audited) Verify(context.Context, string, access.VerifyRequest) (*access.Verification, error) {
	return &access.Verification{}, nil
}

func newServer(failing error) *Server {
	return New(Deps{
		Access: access.NewService(&tokens{failing: failing}, time.Now), Audit: audited{}, Now: time.Now,
		Log: slog.New(slog.DiscardHandler), Version: "test", Ready: func(context.Context) error { return failing },
	})
}

// answer is what came back, with its problem if it is one.
type answer struct {
	status int
	header http.Header
	api.Problem
}

// ask makes a request.
func ask(t *testing.T, s *Server, method, path, body string, header ...string) answer {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	got := answer{status: w.Code, header: w.Header()}
	if got.status >= 400 {
		if err := json.Unmarshal(w.Body.Bytes(), &got.Problem); err != nil {
			t.Errorf("%s %s: %d is no problem: %s", method, path, got.status, w.Body)
		}
		if ct := got.header.Get("Content-Type"); ct != "application/problem+json" {
			t.Errorf("%s %s: %d with content type %q", method, path, got.status, ct)
		}
	}
	return got
}

// Every operation says who may call it, and has a name for the audit log; one
// that forgot would let nobody in.
func TestEveryOperationHasANeed(t *testing.T) {
	t.Parallel()
	s := newServer(nil)
	seen := map[string]string{}
	n := 0
	for path, item := range s.huma.OpenAPI().Paths {
		for method, op := range map[string]*huma.Operation{
			"GET": item.Get, "PUT": item.Put, "POST": item.Post, "DELETE": item.Delete, "PATCH": item.Patch, "HEAD": item.Head, "OPTIONS": item.Options,
		} {
			if op == nil {
				continue
			}
			n++
			at := method + " " + path
			who, ok := op.Metadata[needKey].(need)
			if !ok || who == nobody {
				t.Errorf("%s does not say who may call it", at)
			}
			if op.OperationID == "" || seen[op.OperationID] != "" {
				t.Errorf("%s has the name %q, as %s", at, op.OperationID, seen[op.OperationID])
			}
			seen[op.OperationID] = at
			if who == anybody && at != "POST /api/v1/agents/register" && strings.HasPrefix(path, "/api/") {
				t.Errorf("%s is open to everybody", at)
			}
			if (who == anybody) != (len(op.Security) == 0) {
				t.Errorf("%s: the document does not say what it needs: %v", at, op.Security)
			}
			if method != "GET" && who == viewer {
				t.Errorf("%s lets viewers change things", at)
			}
			if op.MaxBodyBytes <= 0 || op.BodyReadTimeout <= 0 {
				t.Errorf("%s has no limit for its body", at)
			}
			if strings.HasPrefix(path, "/api/v1/admin/") && who != admin {
				t.Errorf("%s is not for admins only", at)
			}
		}
	}
	if n < 20 {
		t.Fatalf("only %d operations were seen", n)
	}
}

// And each of them really refuses who does not show what it needs.
func TestNobodyGetsInWithoutAnIdentity(t *testing.T) {
	t.Parallel()
	s := newServer(nil)
	for path, item := range s.huma.OpenAPI().Paths {
		path = strings.NewReplacer("{id}", "some", "{taskId}", "some").Replace(path)
		for method, op := range map[string]*huma.Operation{"GET": item.Get, "PUT": item.Put, "POST": item.Post, "DELETE": item.Delete} {
			if op == nil || op.Metadata[needKey] == anybody || op.Metadata[plainKey] != nil {
				continue // a carrier has its own test
			}
			for _, header := range [][]string{nil, {"Authorization", "Bearer stl_wrong"}, {"Authorization", "Basic YTpi"}, {"Authorization", "Bearer"}} {
				got := ask(t, s, method, path, "", header...)
				if got.status != http.StatusUnauthorized || got.Code == "" || got.header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s %s with %q: %+v", method, path, header, got)
				}
			}
		}
	}
}

func TestUnmarkedOperationLetsNobodyIn(t *testing.T) {
	t.Parallel()
	s := newServer(nil)
	called := false
	huma.Register(s.huma, huma.Operation{Method: http.MethodGet, Path: "/api/v1/forgotten", OperationID: "forgotten"},
		func(context.Context, *none) (*struct{}, error) {
			called = true
			return nil, nil
		})
	if got := ask(t, s, http.MethodGet, "/api/v1/forgotten", ""); got.status != http.StatusForbidden || got.Code != "forbidden" || called {
		t.Errorf("%+v, called %v", got, called)
	}
}

// Each kind of fault has its status; what is internal says nothing of itself,
// and no fault tells its cause.
func TestProblems(t *testing.T) {
	t.Parallel()
	want := map[fault.Kind]int{
		fault.Invalid: 422, fault.Unauthenticated: 401, fault.Forbidden: 403, fault.NotFound: 404, fault.Conflict: 409,
		fault.TooLarge: 413, fault.RateLimited: 429, fault.Timeout: 408, fault.Unavailable: 503, fault.UnsupportedVersion: 400,
		fault.UpgradeRequired: 426, fault.Unsupported: 415,
	}
	cause := errors.New("pq: password authentication failed")
	for kind := fault.Internal; kind <= fault.Unsupported; kind++ {
		p := problemOf(fmt.Errorf("read agent: %w", fault.Wrap(cause, kind, "some_code", "the message")))
		data, err := json.Marshal(p)
		if err != nil || strings.Contains(string(data), "password") || strings.Contains(string(data), "read agent") {
			t.Errorf("kind %d: %s, %v", kind, data, err)
		}
		if kind == fault.Internal {
			if p.Status != 500 || p.Code != "internal" || strings.Contains(string(data), "the message") {
				t.Errorf("internal: %s", data)
			}
			continue
		}
		if p.Status != want[kind] || p.Code != "some_code" || p.Detail != "the message" || p.Title != http.StatusText(want[kind]) {
			t.Errorf("kind %d: %s", kind, data)
		}
	}
	if p := problemOf(cause); p.Status != 500 || strings.Contains(p.Detail, "pq") {
		t.Errorf("no fault: %+v", p)
	}
	p := problemOf(fault.InvalidField("body.name", "it is taken"))
	if diff := cmp.Diff([]api.ProblemField{{Location: "body.name", Message: "it is taken"}}, p.Errors); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

func TestHumasOwnErrorsAreProblems(t *testing.T) {
	t.Parallel()
	for status, code := range map[int]string{
		400: "malformed", 404: "not_found", 405: "method_not_allowed", 406: "not_acceptable", 408: "timeout", 413: "too_large",
		415: "unsupported_media_type", 422: "invalid", 418: "invalid", 500: "internal", 503: "internal",
	} {
		p, ok := humaError(status, "the text", nil, errors.New("a detail")).(*problem)
		if !ok || p.Status != status || p.Code != code || p.Detail == "" {
			t.Errorf("%d: %+v", status, p)
		}
		if shown := strings.Contains(p.Detail, "a detail"); shown != (status < 500) {
			t.Errorf("%d says %q", status, p.Detail)
		}
	}
	p, _ := humaError(422, "validation failed", &huma.ErrorDetail{Location: "body.name", Message: "too short"}, &huma.ErrorDetail{Message: "unexpected"}).(*problem)
	want := []api.ProblemField{{Location: "body.name", Message: "too short"}, {Location: "body", Message: "unexpected"}}
	if diff := cmp.Diff(want, p.Errors); diff != "" || p.Detail != "body.name: too short; body: unexpected" {
		t.Errorf("%q (-want +got):\n%s", p.Detail, diff)
	}
	// A fault that comes this way stays what it is.
	if p, _ := humaError(500, "x", fault.New(fault.Conflict, "name_taken", "taken")).(*problem); p.Status != 409 || p.Code != "name_taken" {
		t.Errorf("a fault: %+v", p)
	}
}

// What is wrong with a request is a problem, whoever finds it.
func TestBadRequestsAreProblems(t *testing.T) {
	t.Parallel()
	s := newServer(nil)
	const tokens = "/api/v1/admin/api-tokens"
	good := []string{"Authorization", "Bearer " + goodToken}
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		code                     string
	}{
		{"unknown path", "GET", "/api/v1/nothing", "", nil, 404, "not_found"},
		{"the root", "GET", "/", "", nil, 404, "not_found"},
		{"wrong method", "PATCH", "/api/v1/agents", "", nil, 405, "method_not_allowed"},
		{"no JSON", "POST", tokens, `{"name":`, nil, 400, "malformed"},
		{"no body", "POST", tokens, ``, nil, 400, "malformed"},
		{"wrong types", "POST", tokens, `{"name":5,"role":"viewer"}`, nil, 422, "invalid"},
		{"field missing", "POST", tokens, `{"name":"a"}`, nil, 422, "invalid"},
		{"too long", "POST", tokens, `{"name":"` + strings.Repeat("a", 300) + `","role":"viewer"}`, nil, 422, "invalid"},
		{"a packed body", "POST", tokens, `{"name":"a","role":"viewer"}`, []string{"Content-Encoding", "gzip"}, 415, "unsupported_media_type"},
		{"another media type", "POST", tokens, `<a/>`, []string{"Content-Type", "text/xml"}, 415, "unsupported_media_type"},
		{"too much", "POST", tokens, `{"name":"` + strings.Repeat("a", maxBody) + `"}`, nil, 413, "too_large"},
	} {
		got := ask(t, s, c.method, c.path, c.body, slices.Concat(good, c.header)...)
		if got.status != c.status || got.Status != c.status || got.Code != c.code || got.Detail == "" || got.Title == "" {
			t.Errorf("%s: %+v, want %d %s", c.name, got, c.status, c.code)
		}
		if len(got.Detail) > 500 {
			t.Errorf("%s: the detail repeats what was sent", c.name)
		}
	}
	if got := ask(t, s, "PATCH", "/api/v1/agents", ""); !strings.Contains(got.header.Get("Allow"), "GET") {
		t.Errorf("Allow: %q", got.header.Get("Allow"))
	}
}

// A store that is away is no reason to say why to everybody.
func TestOutageTellsNothing(t *testing.T) {
	t.Parallel()
	cause := errors.New("open /var/lib/stella.db: no space left")
	for err, want := range map[error]struct {
		status int
		code   string
	}{
		cause: {500, "internal"},
		fault.Wrap(cause, fault.Unavailable, "store_unavailable", "try again"): {503, "store_unavailable"},
	} {
		s := newServer(err)
		for path, status := range map[string]int{"/api/v1/agents": want.status, "/readyz": 503} {
			got := ask(t, s, http.MethodGet, path, "", "Authorization", "Bearer stl_x")
			if got.status != status || strings.Contains(got.Detail, "space") {
				t.Errorf("%s: %+v", path, got)
			}
		}
	}
	if got := ask(t, newServer(cause), http.MethodGet, "/healthz", ""); got.status != http.StatusOK {
		t.Errorf("/healthz: %d", got.status)
	}
}

func TestCheckVersion(t *testing.T) {
	t.Parallel()
	for header, ok := range map[string]bool{
		"": true, "1": true, "01": true, "0": false, "2": false, "-1": false, "1.0": false, "one": false, " 1": false, "99999999999999999999": false,
	} {
		err := checkVersion(header)
		if (err == nil) != ok || err != nil && (fault.KindOf(err) != fault.UnsupportedVersion || !strings.Contains(err.Error(), "1 to 1")) {
			t.Errorf("%q: %v", header, err)
		}
	}
}

func TestBearer(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"Bearer stl_x": "stl_x", "bearer stl_x": "stl_x", "BEARER   stl_x ": "stl_x",
		"": "", "stl_x": "", "Basic stl_x": "", "Bearer": "", "Bearer ": "", "Bearerstl_x": "",
	} {
		if got := bearer(header); got != want {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
	}
}

func TestLabelQuery(t *testing.T) {
	t.Parallel()
	got, err := labels([]string{"a=b", "c=d=e", "f="})
	if diff := cmp.Diff(map[string]string{"a": "b", "c": "d=e", "f": ""}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"a", "=b", ""} {
		if _, err := labels([]string{bad}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// What stands in a path where in another an agent's id or name does, no agent may
// be called by; nothing else that people name has such neighbours.
func TestWordsOfPathsAreNoNames(t *testing.T) {
	t.Parallel()
	words, named := map[string]map[string]bool{}, map[string]bool{} // by what stands before
	for path := range newServer(nil).huma.OpenAPI().Paths {
		before := ""
		for segment := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
			if strings.HasPrefix(segment, "{") {
				named[before] = true
			} else if words[before] == nil {
				words[before] = map[string]bool{segment: true}
			} else {
				words[before][segment] = true
			}
			before += "/" + segment
		}
	}
	// Their ids are the server's own, and they have no names.
	delete(named, "/api/v1/tasks")
	delete(named, "/api/v1/rollouts")
	delete(named, "/download") // systems, which nobody names
	for before := range named {
		got := slices.Sorted(maps.Keys(words[before]))
		var want []string
		if before == "/api/v1/agents" {
			want = fleet.Reserved()
		}
		if !slices.Equal(got, want) {
			t.Errorf("below %s the words %q are paths of their own, and %q are refused as names", before, got, want)
		}
	}
	if !named["/api/v1/agents"] {
		t.Error("agents have no paths")
	}
}
