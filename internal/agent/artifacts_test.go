package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

const artifactDigest = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"

// source returns the store as a task reads it, at a server that answers with h.
func source(t *testing.T, stall time.Duration, h http.HandlerFunc) *taskArtifacts {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	by := &presented{client: server.Client(), certificate: "now"}
	s, err := newArtifactStore(&calls{client: by.client, server: server.URL + "/", agentID: "agent 1", log: slog.New(slog.DiscardHandler)}, func() *presented { return by })
	if err != nil {
		t.Fatal(err)
	}
	s.stall = stall
	src, ok := s.of(&api.AgentTask{ID: "task-1", Token: "secret-token"}).(*taskArtifacts)
	if !ok {
		t.Fatal("it is something else")
	}
	return src
}

func TestArtifactRequests(t *testing.T) {
	t.Parallel()
	content := "the content of the artifact"
	src := source(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
		want := "/api/v1/agents/agent%201/tasks/task-1/artifacts/" + artifactDigest
		if r.URL.EscapedPath() != want || r.Header.Get("Authorization") != "Bearer secret-token" || r.Header.Get(api.HeaderProtocolVersion) == "" {
			t.Errorf("%s %v", r.URL.EscapedPath(), r.Header)
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
	})
	for _, offset := range []int{0, 1, 26, len(content)} {
		body, err := src.Open(t.Context(), artifactDigest, int64(offset))
		if err != nil {
			t.Fatalf("from %d: %v", offset, err)
		}
		got, err := io.ReadAll(body)
		if err != nil || string(got) != content[offset:] {
			t.Errorf("from %d: %q %v", offset, got, err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What the server says becomes what the task's result says, and whether it is
// tried again.
func TestArtifactRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status    int
		offset    int64
		retriable bool
	}{
		"gone":              {404, 0, false},
		"not allowed":       {403, 0, false},
		"an old token":      {401, 0, false},
		"overloaded":        {503, 0, true},
		"broken":            {500, 10, true},
		"too often":         {429, 0, true},
		"all, and not part": {200, 10, false},
		"behind the end":    {416, 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := source(t, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_ = json.NewEncoder(w).Encode(api.Problem{Status: c.status, Detail: "there is a reason"})
			})
			_, err := src.Open(t.Context(), artifactDigest, c.offset)
			e, ok := errors.AsType[*deploy.Error](err)
			if !ok || e.Type != api.ErrPullFailed || e.Retriable != c.retriable || !strings.Contains(e.Message, fmt.Sprint(c.status)) || !strings.Contains(e.Message, artifactDigest) {
				t.Errorf("%+v", err)
			}
			if strings.Contains(fmt.Sprint(err), "secret-token") {
				t.Errorf("it shows the token: %v", err)
			}
		})
	}
	nobody := source(t, time.Minute, nil)
	nobody.agent.Host = "127.0.0.1:1"
	_, err := nobody.Open(t.Context(), artifactDigest, 0)
	if e, ok := errors.AsType[*deploy.Error](err); !ok || !e.Retriable {
		t.Errorf("nobody there: %+v", err)
	}
}

// A server that says nothing more is given up, wherever that is.
func TestArtifactStalls(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"before the answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"in the middle": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write(bytes.Repeat([]byte("x"), 500))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := source(t, 50*time.Millisecond, h)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			body, err := src.Open(ctx, artifactDigest, 0)
			if err == nil {
				_, err = io.Copy(io.Discard, body)
				body.Close()
			}
			if !errors.Is(err, errStalled) || ctx.Err() != nil {
				t.Errorf("%v, %v", err, ctx.Err())
			}
		})
	}
}

// A token goes only with the certificate that it belongs to: after a renewal
// another one is asked for, and never by a third certificate.
func TestArtifactTokens(t *testing.T) {
	t.Parallel()
	bound := func(certificate string) string {
		claims := fmt.Sprintf(`{"sub":"agent 1","cnf":{"x5t#S256":%q}}`, certificate)
		return "eyJ9." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for name, c := range map[string]struct {
		token string
		want  []string // the tokens that the server is shown; "-" where one is asked for
	}{
		"of this certificate":         {bound("now"), []string{bound("now")}},
		"of the one before":           {bound("before"), []string{"-", "another"}},
		"of nobody knows which":       {"opaque", []string{"opaque"}},
		"of no certificate":           {bound(""), []string{bound("")}},
		"that the server knows ended": {"ended", []string{"ended", "-", "another"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var shown []string
			src := source(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
				token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				switch {
				case r.URL.Path == "/api/v1/agents/token":
					shown = append(shown, "-")
					_ = json.NewEncoder(w).Encode(api.AgentToken{Token: "another", ExpiresIn: 60})
					return
				case token == "ended":
					w.WriteHeader(http.StatusUnauthorized)
					_ = json.NewEncoder(w).Encode(api.Problem{Status: http.StatusUnauthorized, Code: "token_refused", Detail: "it has ended"})
				default:
					_, _ = io.WriteString(w, "content")
				}
				shown = append(shown, token)
			})
			asked := 0
			by := src.present()
			src.present = func() *presented {
				if asked++; asked == 1 {
					return by
				}
				return &presented{client: &http.Client{Transport: nobodyThere{}}, certificate: "next"} // renewed meanwhile
			}
			src.token = c.token
			body, err := src.Open(t.Context(), artifactDigest, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(body); err != nil || string(got) != "content" || body.Close() != nil {
				t.Errorf("%q %v", got, err)
			}
			if !slices.Equal(shown, c.want) {
				t.Errorf("the server was shown %q, want %q", shown, c.want)
			}
		})
	}
}

// nobodyThere is a way that leads nowhere.
type nobodyThere struct{}

func (nobodyThere) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("nobody is there")
}
