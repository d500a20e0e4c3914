package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		url, ca, want string
	}{
		{"", "", "is no server URL"},
		{"stella.example.com:8443", "", "is no server URL"},
		{"http://stella.example.com", "", "must begin with https://"},
		{"https://user:secret@host", "", "more in it than"},
		{"https://host?x=y", "", "more in it than"},
		{"https://host", "no certificate", "not PEM"},
	} {
		_, err := New(Options{URL: tc.url, CACert: []byte(tc.ca)})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("New(%q): %v; want %q in it", tc.url, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

// The requests that operations make, as the server sees them.
func TestRequests(t *testing.T) {
	t.Parallel()
	type call = func(ctx context.Context, c *Client) error
	for want, f := range map[string]call{
		"GET /api/v1/whoami": func(ctx context.Context, c *Client) error {
			_, err := c.WhoAmI(ctx)
			return err
		},
		"GET /api/v1/agents?capability=docker.deploy&environment=prod&label=zone%3Da&limit=5&status=online": func(ctx context.Context, c *Client) error {
			_, err := c.AgentPage(ctx, AgentFilter{Status: "online", Capability: "docker.deploy", Environment: "prod", Labels: map[string]string{"zone": "a"}, Limit: 5})
			return err
		},
		"GET /api/v1/targets?cursor=c&filter=name+~+%22a%2A%22&sort=-name": func(ctx context.Context, c *Client) error {
			_, err := c.TargetPage(ctx, TargetFilter{Filter: `name ~ "a*"`, Sort: "-name", Cursor: "c"})
			return err
		},
		"GET /api/v1/admin/agent-tokens?filter=state%3Dused&limit=2&sort=name": func(ctx context.Context, c *Client) error {
			_, err := c.RegistrationTokenPage(ctx, TokenFilter{Filter: "state=used", Sort: "name", Limit: 2})
			return err
		},
		"GET /api/v1/admin/api-tokens?filter=role%3Dadmin": func(ctx context.Context, c *Client) error {
			_, err := c.APITokenPage(ctx, TokenFilter{Filter: "role=admin"})
			return err
		},
		"GET /api/v1/audit?filter=seq%3E7&sort=at": func(ctx context.Context, c *Client) error {
			_, err := c.AuditPage(ctx, AuditFilter{Filter: "seq>7", Sort: "at"})
			return err
		},
		"GET /api/v1/agents/a%2Fb%3F": func(ctx context.Context, c *Client) error {
			_, err := c.Agent(ctx, "a/b?")
			return err
		},
		"POST /api/v1/agents/web/revoke": func(ctx context.Context, c *Client) error {
			_, err := c.RevokeAgent(ctx, "web")
			return err
		},
		`PUT /api/v1/agents/web {"labels":{"a":"b"}}`: func(ctx context.Context, c *Client) error {
			_, err := c.UpdateAgent(ctx, "web", api.AgentUpdate{Labels: &map[string]string{"a": "b"}})
			return err
		},
		"DELETE /api/v1/agents/web": func(ctx context.Context, c *Client) error { return c.DeleteAgent(ctx, "web") },
		`POST /api/v1/targets {"name":"web","kind":"host","agent":"a","config":{"directory":"/opt"}}`: func(ctx context.Context, c *Client) error {
			_, err := c.CreateTarget(ctx, api.TargetRequest{Name: "web", Kind: "host", Agent: "a", Config: api.TargetConfig{Directory: "/opt"}})
			return err
		},
		"GET /api/v1/tasks?agent=a&limit=1&state=failed&target=web&type=deploy": func(ctx context.Context, c *Client) error {
			_, err := c.TaskPage(ctx, TaskFilter{State: api.TaskFailed, Type: api.TaskDeploy, Target: "web", Agent: "a", Limit: 1})
			return err
		},
		"POST /api/v1/tasks/t1/cancel": func(ctx context.Context, c *Client) error {
			_, err := c.CancelTask(ctx, "t1")
			return err
		},
		"DELETE /api/v1/admin/api-tokens/k1": func(ctx context.Context, c *Client) error { return c.RevokeAPIToken(ctx, "k1") },
		"GET /readyz":                        func(ctx context.Context, c *Client) error { return c.Ready(ctx) },
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			var have, auth string
			c := newTestClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				have, auth = r.Method+" "+r.URL.RequestURI(), r.Header.Get("Authorization")
				if body, err := io.ReadAll(r.Body); err != nil {
					t.Error(err)
				} else if len(body) > 0 {
					have += " " + string(body)
				}
				fmt.Fprint(w, "{}")
			}))
			if err := f(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, have); diff != "" {
				t.Error(diff)
			}
			if auth != "Bearer stl_test" {
				t.Errorf("authorization: %q", auth)
			}
		})
	}
}

func TestNamesThatWouldMeanAnotherPath(t *testing.T) {
	t.Parallel()
	c := newTestClient(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the server was asked") }))
	for _, name := range []string{"", ".", ".."} {
		err := c.DeleteAgent(t.Context(), name)
		if p, ok := errors.AsType[*api.Problem](err); !ok || p.Status != http.StatusNotFound {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status            int
		contentType, body string
		want              api.Problem
	}{
		"a problem": {
			409, "application/problem+json; charset=utf-8",
			`{"title":"Conflict","status":409,"detail":"it is busy","code":"busy","errors":[{"location":"body.name","message":"taken"}]}`,
			api.Problem{Title: "Conflict", Status: 409, Detail: "it is busy", Code: "busy", Errors: []api.ProblemField{{Location: "body.name", Message: "taken"}}},
		},
		"a status that lies": {
			404, "application/problem+json", `{"title":"OK","status":200,"code":"x"}`,
			api.Problem{Title: "OK", Status: 404, Code: "x"},
		},
		"a proxy's page": {
			502, "text/html", "<html>bad gateway</html>",
			api.Problem{Title: "Bad Gateway", Status: 502, Code: "http_502"},
		},
		"JSON of something else": {
			404, "application/json", `{"message":"no"}`,
			api.Problem{Title: "Not Found", Status: 404, Code: "http_404"},
		},
		"a redirect": {
			302, "", "", api.Problem{Title: "Found", Status: 302, Code: "http_302"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tc.contentType)
				w.Header().Set("Location", "https://127.0.0.1:1/")
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			}))
			_, err := c.ActivateAgent(t.Context(), "a")
			p, ok := errors.AsType[*api.Problem](err)
			if !ok {
				t.Fatalf("%T: %v", err, err)
			}
			if strings.HasPrefix(p.Code, "http_") {
				if !strings.Contains(p.Detail, "not as a Stella server does") {
					t.Errorf("detail: %s", p.Detail)
				}
				p.Detail = ""
			}
			if diff := cmp.Diff(tc.want, *p); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Only what may be repeated is.
func TestRetries(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		failures int
		status   int
		call     func(ctx context.Context, c *Client) error
		requests int32
		fails    bool
	}{
		"a look that fails twice": {2, 503, func(ctx context.Context, c *Client) error {
			_, err := c.Task(ctx, "t")
			return err
		}, 3, false},
		"a look that fails always": {99, 503, func(ctx context.Context, c *Client) error {
			_, err := c.Task(ctx, "t")
			return err
		}, attempts, true},
		"a look that is refused": {99, 404, func(ctx context.Context, c *Client) error {
			_, err := c.Task(ctx, "t")
			return err
		}, 1, true},
		"a task with a key": {1, 502, func(ctx context.Context, c *Client) error {
			_, err := c.SubmitTask(ctx, api.TaskRequest{IdempotencyKey: "k"})
			return err
		}, 2, false},
		"a task without a key": {1, 502, func(ctx context.Context, c *Client) error {
			_, err := c.SubmitTask(ctx, api.TaskRequest{})
			return err
		}, 1, true},
		"another change": {1, 503, func(ctx context.Context, c *Client) error {
			_, err := c.RevokeAgent(ctx, "a")
			return err
		}, 1, true},
		"readiness": {1, 503, func(ctx context.Context, c *Client) error { return c.Ready(ctx) }, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			c := newTestClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if int(requests.Add(1)) <= tc.failures {
					w.WriteHeader(tc.status)
					return
				}
				fmt.Fprint(w, "{}")
			}))
			err := tc.call(t.Context(), c)
			if (err != nil) != tc.fails {
				t.Errorf("error: %v", err)
			}
			if have := requests.Load(); have != tc.requests {
				t.Errorf("%d requests, want %d", have, tc.requests)
			}
		})
	}
}

// A connection that breaks before the answer is tried again where that is safe.
func TestRetryAfterBrokenConnection(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	c := newTestClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 1 {
			panic(http.ErrAbortHandler)
		}
		var req api.TaskRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(api.Task{ID: "t1", IdempotencyKey: req.IdempotencyKey})
	}))
	task, err := c.SubmitTask(t.Context(), api.TaskRequest{IdempotencyKey: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if task.ID != "t1" || task.IdempotencyKey != "k" {
		t.Errorf("task: %+v", task)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	var asked []string
	c := newTestClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cursor := r.URL.Query().Get("cursor")
		asked = append(asked, cursor)
		next := map[string]string{"": "1", "1": "2"}[cursor]
		_ = json.NewEncoder(w).Encode(api.AgentList{Items: []api.Agent{{Name: "a" + cursor}, {Name: "b" + cursor}}, Next: next})
	}))
	var names []string
	for a, err := range c.Agents(t.Context(), AgentFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, a.Name)
	}
	if diff := cmp.Diff([]string{"a", "b", "a1", "b1", "a2", "b2"}, names); diff != "" {
		t.Error(diff)
	}
	asked = nil
	for _, err := range c.Agents(t.Context(), AgentFilter{}) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	if diff := cmp.Diff([]string{""}, asked); diff != "" {
		t.Errorf("a page was asked for that nobody wanted: %s", diff)
	}
}

func TestPagesEndWithAnError(t *testing.T) {
	t.Parallel()
	c := newTestClient(t, http.NotFoundHandler())
	count := 0
	for _, err := range c.Tasks(t.Context(), TaskFilter{}) {
		count++
		if err == nil {
			t.Error("no error")
		}
	}
	if count != 1 {
		t.Errorf("%d rounds", count)
	}
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c := newTestClient(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	if _, err := c.WhoAmI(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
}

func TestGivenHTTPClient(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"name":"x"}`) }))
	defer server.Close()
	c, err := New(Options{URL: server.URL, HTTPClient: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	who, err := c.WhoAmI(t.Context())
	if err != nil || who.Name != "x" {
		t.Errorf("%v, %v", who, err)
	}
}
