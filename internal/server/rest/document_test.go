package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/testkit/contract"
)

const checkedIn = "../../../api/openapi.yaml"

func load(t *testing.T, text []byte) *contract.Document {
	t.Helper()
	d, err := contract.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDocumentIsTheOneThatIsCheckedIn(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile(checkedIn)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // and it is the same each time
		got, err := Document()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("api/openapi.yaml is not what the handlers say: run `make generate`\n%s", cmp.Diff(string(want), string(got)))
		}
	}
}

// What a server serves is the document, but for its version and its address.
func TestServedDocument(t *testing.T) {
	t.Parallel()
	s := newServer(nil)
	s.BaseURL = func() string { return "https://here.example:1" }
	for path, kind := range map[string]string{
		"/api/v1/openapi.json": "application/openapi+json", "/api/v1/openapi.yaml": "application/openapi+yaml",
		"/api/v1/openapi-3.0.json": "application/openapi+json", "/api/v1/openapi-3.0.yaml": "application/openapi+yaml",
	} {
		w := get(t, s, path)
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != kind || w.Body.Len() < 10000 {
			t.Fatalf("%s: %d %q, %d bytes", path, w.Code, w.Header(), w.Body.Len())
		}
		tag := w.Header().Get("ETag")
		if again := get(t, s, path, "If-None-Match", `"other", W/`+tag); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("%s with its own ETag: %d", path, again.Code)
		}
		if again := get(t, s, path, "If-None-Match", `"other"`); again.Code != http.StatusOK {
			t.Errorf("%s with another ETag: %d", path, again.Code)
		}
		if path != "/api/v1/openapi.json" {
			continue
		}
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		load(t, w.Body.Bytes())
		if !strings.Contains(fmt.Sprint(got["info"], got["servers"]), "here.example:1") || !strings.Contains(fmt.Sprint(got["info"]), "version:test") {
			t.Errorf("it does not say which server it is of: %v %v", got["info"], got["servers"])
		}
	}
	checked, err := os.ReadFile(checkedIn)
	if err != nil {
		t.Fatal(err)
	}
	served := get(t, s, "/api/v1/openapi.yaml").Body.String()
	served = strings.NewReplacer("https://here.example:1", exampleServer, "  version: test\n", "  version: v1\n").Replace(served)
	_, want, _ := bytes.Cut(checked, []byte("\n"))
	if diff := cmp.Diff(string(want), served); diff != "" {
		t.Errorf("the served document is another than the one that is checked in:\n%s", diff)
	}
}

func get(t *testing.T, s *Server, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// Many readers at once ask for what is made when the first of them asks.
func TestServedDocumentIsMadeOnce(t *testing.T) {
	t.Parallel()
	s := newServer(nil)
	s.BaseURL = func() string { return exampleServer }
	var wg sync.WaitGroup
	for range 8 {
		for _, path := range []string{"/api/v1/openapi.json", "/api/v1/openapi-3.0.json"} {
			wg.Go(func() {
				if w := get(t, s, path); w.Code != http.StatusOK {
					t.Errorf("%s: %d", path, w.Code)
				}
			})
		}
	}
	wg.Wait()
}

// operations calls fn for each operation of a server's document.
func operations(s *Server, fn func(path string, op *huma.Operation)) {
	paths := s.huma.OpenAPI().Paths
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := paths[path]
		for _, op := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete, item.Patch} {
			if op != nil {
				fn(path, op)
			}
		}
	}
}

// An operation of which the document says too little does not get in.
func TestEveryOperationIsDescribed(t *testing.T) {
	t.Parallel()
	s := newServer(nil)
	doc := s.huma.OpenAPI()
	chapters := map[string]int{}
	for _, tag := range doc.Tags {
		chapters[tag.Name] = 0
		if tag.Description == "" {
			t.Errorf("the tag %s has no description", tag.Name)
		}
	}
	operations(s, func(_ string, op *huma.Operation) {
		at := op.OperationID
		if op.Summary == "" || !strings.HasSuffix(op.Description, ".") || strings.HasSuffix(op.Summary, ".") {
			t.Errorf("%s: give a summary without, and a description with a full stop: %q, %q", at, op.Summary, op.Description)
		}
		if len(op.Tags) != 1 {
			t.Errorf("%s: give it one tag: %q", at, op.Tags)
		} else if _, ok := chapters[op.Tags[0]]; !ok {
			t.Errorf("%s has the tag %q, which is not described", at, op.Tags[0])
		} else {
			chapters[op.Tags[0]]++
		}
		if op.Extensions[extCaller] == "" {
			t.Errorf("%s does not say who may call it", at)
		}
		for _, p := range op.Parameters {
			if p.Description == "" || p.In == "path" && p.Example == nil && at != "agent.task-stream" {
				t.Errorf("%s: the parameter %s has no description, or no example", at, p.Name)
			}
		}
		if op.RequestBody != nil {
			for kind, m := range op.RequestBody.Content {
				hasExample(t, doc, at+" request "+kind, m)
			}
		}
		hasAnswers(t, doc, op)
	})
	for tag, n := range chapters {
		if n == 0 {
			t.Errorf("no operation has the tag %s", tag)
		}
	}
}

func hasAnswers(t *testing.T, doc *huma.OpenAPI, op *huma.Operation) {
	t.Helper()
	at := op.OperationID
	refused := 0
	for status, r := range op.Responses {
		n, err := strconv.Atoi(status)
		if err != nil {
			t.Errorf("%s has the response %q: name each status", at, status)
		}
		if n >= 400 {
			refused++
			r = doc.Components.Responses[strings.TrimPrefix(r.Ref, "#/components/responses/")]
			if r == nil || !strings.Contains(r.Description, "- `") || r.Content["application/problem+json"] == nil {
				t.Errorf("%s %s does not say which codes it has", at, status)
			}
			continue
		}
		if r.Description == "" || r.Description == http.StatusText(n) {
			t.Errorf("%s %s does not say what it is", at, status)
		}
		for kind, m := range r.Content {
			hasExample(t, doc, at+" "+status+" "+kind, m)
		}
	}
	if refused == 0 && at != "server.health" && at != "server.root-certificate" {
		t.Errorf("%s never fails?", at)
	}
	if r := op.Responses[strconv.Itoa(op.DefaultStatus)]; r == nil {
		t.Errorf("%s does not describe its answer %d", at, op.DefaultStatus)
	}
}

// hasExample wants an example of the very type that goes over the wire.
func hasExample(t *testing.T, doc *huma.OpenAPI, where string, m *huma.MediaType) {
	t.Helper()
	if m == nil || m.Example == nil {
		t.Errorf("%s has no example", where)
		return
	}
	if m.Schema.Ref == "" {
		return // a text
	}
	if want, got := doc.Components.Schemas.TypeFromRef(m.Schema.Ref), reflect.TypeOf(m.Example); want != got {
		t.Errorf("the example of %s is a %s and should be a %s", where, got, want)
	}
}

// Every type and every field says what it is.
func TestEveryFieldIsDescribed(t *testing.T) {
	t.Parallel()
	schemas := newServer(nil).huma.OpenAPI().Components.Schemas.Map()
	for name, s := range schemas {
		if s.Description == "" {
			t.Errorf("the type %s has no doc comment in package api", name)
		}
		for field, p := range s.Properties {
			if p.Description == "" {
				t.Errorf("%s.%s has no description: give it a doc tag", name, field)
			}
		}
	}
	if len(schemas) < 40 {
		t.Fatalf("only %d types were seen", len(schemas))
	}
}

func TestExamplesAreOfTheirSchemas(t *testing.T) {
	t.Parallel()
	text, err := Document()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	load(t, text).Examples(func(where string, err error) {
		n++
		if err != nil {
			t.Errorf("%s: %v", where, err)
		}
	})
	if n < 200 {
		t.Errorf("only %d examples were seen", n)
	}
}

// The document's messages are those that there are.
func TestStreamMessagesAreAllDescribed(t *testing.T) {
	t.Parallel()
	m := streamMessages(nil)
	var got []string
	for _, one := range slices.Concat(m.Server, m.Agent) {
		got = append(got, one.Type)
		if one.Description == "" || one.Example.Type != one.Type {
			t.Errorf("%s: %+v", one.Type, one)
		}
	}
	want := []string{
		api.StreamWelcome, api.StreamTaskAssigned, api.StreamTaskCancelled, api.StreamLogAck, api.StreamResultAck, api.StreamHeartbeatAck,
		api.StreamCommand, api.StreamCommandReceipt,
		api.StreamHello, api.StreamHeartbeat, api.StreamTaskAccepted, api.StreamTaskLog, api.StreamTaskResult, api.StreamCommandAck,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("x-messages: %s", diff)
	}
}

// A refusal that no operation has is a line that nobody cleaned up.
func TestEveryRefusalIsUsed(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for name, r := range newServer(nil).huma.OpenAPI().Components.Responses {
		status, _, _ := strings.Cut(name, "-")
		codes, _ := r.Extensions[extCodes].([]string)
		for _, c := range codes {
			used[status+" "+c] = true
		}
	}
	for key := range refusals {
		if !used[key] {
			t.Errorf("no operation refuses with %q", key)
		}
	}
}

func TestDocsPage(t *testing.T) {
	t.Parallel()
	s := newServer(nil)
	s.BaseURL = func() string { return exampleServer }
	w := get(t, s, "/docs/api")
	policy := w.Header().Get("Content-Security-Policy")
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %q", w.Code, w.Header())
	}
	if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
		t.Errorf("its policy is %q", policy)
	}
	operations(s, func(path string, op *huma.Operation) {
		if !strings.Contains(w.Body.String(), `id="`+op.OperationID+`"`) {
			t.Errorf("%s is not on the page", path)
		}
	})
	if again := get(t, s, "/docs/api", "If-None-Match", w.Header().Get("ETag")); again.Code != http.StatusNotModified {
		t.Errorf("asked again with its ETag, it answers %d", again.Code)
	}
}
