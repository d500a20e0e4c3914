package contract

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

const little = `
openapi: 3.1.0
info: {title: Little, version: "1"}
paths:
  /things/{id}:
    post:
      operationId: thing.make
      parameters:
        - {name: id, in: path, required: true, schema: {type: string}}
        - {name: n, in: query, schema: {type: integer, maximum: 9}}
        - {name: label, in: query, schema: {type: array, items: {type: string}}}
      requestBody:
        required: true
        content: {application/json: {schema: {$ref: "#/components/schemas/Thing"}, example: {name: a}}}
      responses:
        "200":
          description: It.
          content:
            application/json: {schema: {$ref: "#/components/schemas/Thing"}, example: {name: 1}}
            application/x-ndjson: {schema: {type: string}, x-item-schema: {$ref: "#/components/schemas/Thing"}, example: "{\"name\":\"a\"}\n{}\n"}
        "404": {$ref: "#/components/responses/gone"}
  /things/all:
    post: {operationId: thing.all, responses: {"204": {description: None.}}}
components:
  responses:
    gone:
      description: Gone.
      x-codes: [gone]
      content: {application/problem+json: {schema: {type: object}}}
  schemas:
    Thing:
      type: object
      additionalProperties: true
      required: [name]
      properties: {name: {type: string}, at: {type: string, format: date-time}}
`

func mustLoad(t *testing.T, text string) *Document {
	t.Helper()
	d, err := Load([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What the transport does not see, no test of the API would.
func TestTransportReports(t *testing.T) {
	t.Parallel()
	const good = `{"name":"a"}`
	for name, c := range map[string]struct {
		path, body, kind, answer string
		status                   int
		careless                 bool
		want                     string
	}{
		"all is well":                 {path: "/things/1?n=3&label=a&label=b", body: good, answer: `{"name":"a","at":"2026-03-14T09:00:00Z"}`},
		"one label":                   {path: "/things/1?label=a", body: good, answer: good},
		"a stream":                    {path: "/things/1", body: good, kind: "application/x-ndjson", answer: good + "\n\n" + good + "\n"},
		"a problem":                   {path: "/things/1", body: good, status: 404, kind: "application/problem+json", answer: `{"status":404,"code":"gone","detail":"it is"}`},
		"careless":                    {path: "/things/1?nonsense=1", body: "{", careless: true, answer: good},
		"an unknown operation":        {path: "/nothing", want: "no such operation"},
		"an unknown parameter":        {path: "/things/1?x=1", body: good, answer: good, want: "parameter x is not described"},
		"a parameter out of bounds":   {path: "/things/1?n=10", body: good, answer: good, want: "parameter n"},
		"no body":                     {path: "/things/1", answer: good, want: "no body"},
		"a body where there is none":  {path: "/things/all", body: good, status: 204, want: "none is described"},
		"an unknown field sent":       {path: "/things/1", body: `{"name":"a","x":1}`, answer: good, want: "request"},
		"an unknown field answered":   {path: "/things/1", body: good, answer: `{"name":"a","x":1}`, want: "answer 200"},
		"a field that is missing":     {path: "/things/1", body: good, answer: `{}`, want: "answer 200"},
		"a time that is none":         {path: "/things/1", body: good, answer: `{"name":"a","at":"noon"}`, want: "answer 200"},
		"an unknown status":           {path: "/things/1", body: good, status: 201, answer: good, want: "status is not described"},
		"an unknown kind of content":  {path: "/things/1", body: good, kind: "text/plain", answer: good, want: "text/plain is not described"},
		"an unknown code":             {path: "/things/1", body: good, status: 404, kind: "application/problem+json", answer: `{"status":404,"code":"lost","detail":"it is"}`, want: "lost"},
		"a problem of another status": {path: "/things/1", body: good, status: 404, kind: "application/problem+json", answer: `{"status":500,"code":"gone","detail":"it is"}`, want: "gone"},
		"a wrong item of a stream":    {path: "/things/1", body: good, kind: "application/x-ndjson", answer: good + "\n{}\n", want: "item"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if c.kind != "" {
					w.Header().Set("Content-Type", c.kind)
				}
				w.WriteHeader(max(c.status, 200))
				fmt.Fprint(w, c.answer)
			}))
			defer server.Close()
			var said []string
			tr := &Transport{
				Document: mustLoad(t, little), Base: server.Client().Transport,
				Report: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) },
			}
			ctx := t.Context()
			if c.careless {
				ctx = Careless(ctx)
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			res, err := (&http.Client{Transport: tr}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			var got strings.Builder
			if err := res.Write(&got); err != nil { // it can still be read
				t.Fatal(err)
			}
			if !strings.Contains(got.String(), strings.TrimSpace(c.answer)) {
				t.Errorf("the answer became %q", got.String())
			}
			all := strings.Join(said, "; ")
			if (c.want == "") != (all == "") || !strings.Contains(all, c.want) {
				t.Errorf("reported %q, want %q", all, c.want)
			}
			if id := "thing.make"; strings.HasPrefix(c.path, "/things/1") && len(tr.Driven()[id]) != 1 {
				t.Errorf("driven: %v", tr.Driven())
			}
		})
	}
}

func TestExamplesAreChecked(t *testing.T) {
	t.Parallel()
	var wrong []string
	mustLoad(t, little).Examples(func(where string, err error) {
		if err != nil {
			wrong = append(wrong, where)
		}
	})
	slices.Sort(wrong)
	// The last has two lines of which one is wrong, and a problem without an example.
	if want := []string{"thing.make 200 application/json", "thing.make 200 application/x-ndjson", "thing.make 404 application/problem+json"}; !slices.Equal(wrong, want) {
		t.Errorf("%q, want %q", wrong, want)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][2]string{
		"no version":           {`version: "1"`, ""},
		"another field":        {"operationId: thing.make", "operation: thing.make"},
		"a parameter nowhere":  {"in: query", "in: pocket"},
		"a schema that is not": {"type: object", "type: thing"},
		"a reference to none":  {"schemas/Thing", "schemas/Nothing"},
		"a default response":   {`"204"`, "default"},
	} {
		if _, err := Load([]byte(strings.ReplaceAll(little, change[0], change[1]))); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}
