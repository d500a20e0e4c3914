package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/cli/out"
)

// The fake here is for what a real server cannot be made to do at will; that
// commands work with the real one is shown by the end-to-end tests.

// at is the time of every test.
var at = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// fakeAPI answers with what a test has put there, and keeps what it was asked.
type fakeAPI struct {
	t      *testing.T
	server *httptest.Server
	ca     string // the certificate's file

	mu       sync.Mutex
	answers  map[string]any // by method and path
	requests []string       // method and URI
	bodies   map[string]json.RawMessage
	tokens   []string
	logs     []api.LogEntry
	// following is called when a log's entries are out; nil ends the stream.
	following func(ctx context.Context)
}

func newFakeAPI(t *testing.T) *fakeAPI {
	t.Helper()
	f := &fakeAPI{t: t, answers: map[string]any{}, bodies: map[string]json.RawMessage{}}
	f.server = httptest.NewUnstartedServer(f)
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	f.ca = filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
	if err := os.WriteFile(f.ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fakeAPI) answer(request string, body any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[request] = body
}

// asked returns what it was asked so far, which may go on.
func (f *fakeAPI) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/pki/ca.pem" {
		http.ServeFile(w, r, f.ca)
		return
	}
	f.mu.Lock()
	request := r.Method + " " + r.URL.Path
	f.requests = append(f.requests, r.Method+" "+r.URL.RequestURI())
	f.tokens = append(f.tokens, r.Header.Get("Authorization"))
	if body, err := io.ReadAll(r.Body); err == nil && len(body) > 0 {
		f.bodies[request] = body
	}
	body, ok := f.answers[request]
	logs, following := f.logs, f.following
	f.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, "/logs") && r.URL.Query().Get("follow") == "true" {
		w.Header().Set("Content-Type", "application/x-ndjson")
		for _, e := range logs {
			_ = json.NewEncoder(w).Encode(e)
		}
		if following != nil {
			_ = http.NewResponseController(w).Flush()
			following(r.Context())
		}
		return
	}
	if handle, ok := body.(http.HandlerFunc); ok {
		handle(w, r)
		return
	}
	if !ok {
		body = &api.Problem{Title: "Not Found", Status: 404, Code: "not_found", Detail: "there is no " + request}
	}
	if p, ok := body.(*api.Problem); ok {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(p.Status)
	}
	_ = json.NewEncoder(w).Encode(body)
}

// taken decodes the last body of a request.
func taken[T any](t *testing.T, f *fakeAPI, request string) T {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var v T
	if err := json.Unmarshal(f.bodies[request], &v); err != nil {
		t.Fatalf("%s has %q: %v", request, f.bodies[request], err)
	}
	return v
}

// terminal is one run of the command line.
type terminal struct {
	env   map[string]string
	stdin string
	tty   bool
	home  string
	// watch, when set, sees what goes to stdout while it does.
	watch io.Writer

	stdout, stderr string
}

// newTerminal returns one that is logged in to f by its environment.
func newTerminal(t *testing.T, f *fakeAPI) *terminal {
	t.Helper()
	home := t.TempDir()
	term := &terminal{home: home, env: map[string]string{"STELLA_CLI_CONFIG": filepath.Join(home, "config.yaml")}}
	if f != nil {
		term.env["STELLA_SERVER"], term.env["STELLA_TOKEN"], term.env["STELLA_CA"] = f.server.URL, "stl_test", f.ca
	}
	return term
}

func (term *terminal) run(ctx context.Context, args ...string) int {
	var stdout, stderr bytes.Buffer
	streams := &out.IO{In: strings.NewReader(term.stdin), Out: &stdout, Err: &stderr, InTTY: term.tty}
	if term.watch != nil {
		streams.Out = io.MultiWriter(&stdout, term.watch)
	}
	a := newApp("1.2.3", streams, func(name string) string { return term.env[name] })
	a.now = func() time.Time { return at }
	a.dataDirs = []string{filepath.Join(term.home, "stella-data")}
	root := a.root() //nolint:contextcheck // commands get theirs when they run
	root.SetArgs(args)
	code := execute(ctx, root, streams)
	term.stdout, term.stderr = stdout.String(), stderr.String()
	return code
}

// must runs a command that has to work.
func (term *terminal) must(t *testing.T, args ...string) {
	t.Helper()
	if code := term.run(t.Context(), args...); code != 0 {
		t.Fatalf("stella %s: exit code %d\n%s", strings.Join(args, " "), code, term.stderr)
	}
}

func ago(d time.Duration) *time.Time {
	t := at.Add(-d)
	return &t
}
