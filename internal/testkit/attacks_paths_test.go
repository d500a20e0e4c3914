package testkit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// A path that is spelled in another way leads nowhere else.
func TestAttackPathTraversal(t *testing.T) {
	t.Parallel()
	onEachEngine(t, attackPaths)
}

func attackPaths(t *testing.T, cp *testkit.ControlPlane) {
	t.Helper()
	h := newHandmade(t, cp, "own")
	for _, path := range []string{
		"/api/v1/agents/../admin/api-tokens", "/api/v1/agents/%2e%2e/admin/api-tokens", "/api/v1/agents/..%2fadmin%2fapi-tokens",
		"/api/v1/agents/%2e%2e%2fadmin", "/api/v1//agents", "//api/v1/agents", "/api/v1/./agents", "/api/v1/agents/", "/api/v1/agents/%00",
		"/api/v1/agents/x%00y", "/api/v1/agents/..%5c..%5cadmin", "/docs/../../etc/passwd", "/docs/api/..%2f..%2f..%2fetc%2fpasswd",
		"/docs/%2e%2e/%2e%2e/etc/passwd", "/pki/../pki/ca.pem", "/pki/%2e%2e/stella.db", "/pki/ca.pem%00.txt", "/pki/ca.pem/", "/PKI/CA.PEM",
		"/api/v1/artifacts/..%2f..%2f..%2fetc%2fpasswd/content", "/api/v1/artifacts/sha256:..%2f..%2fmaster.key/content",
		"/api/v1/secrets/..%2f..%2fagents", "/api/v1/tasks/..%2f..%2fmaster.key/logs", "/%2e%2e/%2e%2e/etc/passwd", "/.git/config", "/master.key", "/admin.token",
	} {
		for who, header := range map[string]string{"nobody": "", "an admin": "Authorization: Bearer " + cp.AdminToken + "\r\n"} {
			got := rawRequest(t, cp, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+header+"\r\n")
			status, _, _ := strings.Cut(strings.TrimPrefix(got, "HTTP/1.1 "), " ")
			switch status {
			case "301", "307", "308":
				// The same place under its usual name, which is asked for its own sake.
				_, location, _ := strings.Cut(got, "Location: ")
				location, _, _ = strings.Cut(location, "\r\n")
				if !strings.HasPrefix(location, "/") || strings.HasPrefix(location, "//") || strings.ContainsAny(location, "\\") {
					t.Errorf("%s sends %s to %q", path, who, location)
				}
			case "400", "401", "404", "405", "422":
			default:
				t.Errorf("%s by %s: %s", path, who, got)
			}
			if strings.Contains(got, "root:") || strings.Contains(got, "SQLite") || strings.Contains(got, `"items"`) {
				t.Errorf("%s shows %s: %s", path, who, got)
			}
		}
	}
	// A NUL is nothing that a database fails at.
	for _, query := range []string{
		"agents?name=%00", "agents?group=%00", "agents?label=a=%00", "agents?label=%00=a", "agents?filter=name%3D%22%00%22", "agents?capability=%00", "agents?cursor=%00", "agents?sort=%00",
		"targets?environment=%00", "targets?agent=%00", "tasks?target=%00", "tasks?agent=x%00", "tasks?type=%00", "artifacts?name=%00", "commands?type=%00", "events?agent=%00", "audit?filter=object%3D%22%00%22",
		"secrets?filter=name~%22%00*%22", "inventory?filter=label.a%3D%22%00%22", "rollouts/%00", "commands/%00", "secrets/%00", "targets/%00", "tasks/%00", "artifacts/%00", "artifacts?filter=name%3D%22%ff%22", "agents/%ff",
	} {
		status, body := call(t, httpClient(tlsConfig(cp)), http.MethodGet, cp.URL+"/api/v1/"+query, map[string]string{"Authorization": "Bearer " + cp.AdminToken}, nil)
		if status >= 500 {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
	// An agent's own id in front of another's does not open the other's doors.
	other := newHandmade(t, cp, "other")
	c := httpClient(tlsConfig(cp, h.cert))
	for _, id := range []string{
		h.id + "%2f..%2f" + other.id, "..%2f" + other.id, other.id + "%00", h.id + "%00" + other.id, other.id + "%2f", "%20" + h.id, h.id + "%20",
		strings.ToUpper(h.id), h.id + ";" + other.id, h.id + "%0d%0aX-Evil:%201",
	} {
		if id == h.id {
			continue
		}
		status, body := call(t, c, http.MethodPost, cp.URL+"/api/v1/agents/"+id+"/heartbeat", nil, "{}")
		if status != http.StatusForbidden || problem(t, body).Code != "not_your_identity" {
			t.Errorf("as %s: %d %s", id, status, body)
		}
	}
	well(t, cp)
}

// The name of an artifact is a name wherever it ends up, and no path.
func TestAttackArtifactNames(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	for i, name := range []string{
		"../../etc/passwd", `..\..\windows\system32`, "/etc/passwd", "C:\\evil", "a/../../b", "..", ".", "a\"; filename=\"b", "ä/ö.tar", "a b;c",
		"x\r\nSet-Cookie: evil=1", "x\x00y", "x\x1b[31m", strings.Repeat("a", 300),
	} {
		data := fmt.Appendf(nil, "content %d", i)
		req := api.ArtifactRequest{Digest: digestOf(data), Size: int64(len(data)), Name: name, MediaType: "text/html"}
		if _, err := cp.Client.BeginArtifact(t.Context(), req); err != nil {
			if p, ok := err.(*api.Problem); !ok || p.Status != http.StatusUnprocessableEntity { //nolint:errorlint // it is what the client returns
				t.Errorf("%q: %v", name, err)
			}
			continue
		}
		if strings.ContainsFunc(name, unicode.IsControl) {
			t.Errorf("%q was taken", name)
		}
		if _, err := cp.Client.AppendArtifact(t.Context(), req.Digest, 0, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		got := rawRequest(t, cp, "GET /api/v1/artifacts/"+req.Digest+"/content HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "+cp.AdminToken+"\r\n\r\n")
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		_, disposition, _ := strings.Cut(head, "Content-Disposition: ")
		disposition, _, _ = strings.Cut(disposition, "\r\n")
		if !strings.HasPrefix(disposition, "attachment") || strings.ContainsAny(disposition, "/\\") && !strings.Contains(disposition, `\"`) || strings.Contains(head, "Set-Cookie") ||
			!strings.Contains(head, "Content-Type: application/octet-stream") || !strings.Contains(head, "X-Content-Type-Options: nosniff") || body != string(data) {
			t.Errorf("%q: %s", name, got)
		}
	}
	well(t, cp)
}

// What others call things neither breaks a line of a log nor plays with a
// terminal, and no header is made of it.
func TestAttackLogAndHeaderInjection(t *testing.T) {
	t.Parallel()
	var lines, jsons safeBuffer
	cfg := testkit.ServerConfig(t.TempDir())
	cfg.Listen = testkit.FreePort(t)
	debug := &slog.HandlerOptions{Level: slog.LevelDebug}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := &server.Server{
		Config: cfg, Out: &safeBuffer{},
		Log: slog.New(both{slog.NewTextHandler(&lines, debug), slog.NewJSONHandler(&jsons, debug)}),
	}
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	cp := testkit.Attach(t, cfg.Data, cfg.Listen)
	const evil = "x\r\nlevel=ERROR msg=forged\x1b[2J\x1b]0;t\a\u009b31m\u202e\u2028"
	person := map[string]string{"Authorization": "Bearer " + cp.AdminToken}
	c := httpClient(tlsConfig(cp))
	post := func(path string, header map[string]string, body any) (int, []byte) {
		return call(t, c, http.MethodPost, cp.URL+path, header, body)
	}
	refused := func(what string, status int, body []byte) {
		t.Helper()
		if status < 400 || status >= 500 {
			t.Errorf("%s: %d %s", what, status, body)
		}
	}
	for field, req := range map[string]api.RegisterRequest{
		"name": {Name: evil}, "id": {ID: evil, Name: "a"}, "version": {Name: "a", Version: evil}, "group": {Name: "a", Group: evil},
		"environment": {Name: "a", Environment: evil}, "platform": {Name: "a", Platform: evil}, "labels": {Name: "a", Labels: map[string]string{"a": evil}},
		"label's key": {Name: "a", Labels: map[string]string{evil: "a"}}, "capabilities": {Name: "a", Capabilities: []string{evil}}, "routes": {Name: "a", Routes: []string{evil}},
		"C1 controls": {Name: "a", Labels: map[string]string{"a": "\u009b31m"}}, "bidi": {Name: "a", Version: "1\u202e2"},
	} {
		req.CSR = csr(t, newKey(t))
		status, body := post("/api/v1/agents/register", map[string]string{api.HeaderRegistrationToken: cp.Token()}, req)
		refused("a registration with such a "+field, status, body)
	}
	for field, req := range map[string]api.RegistrationTokenRequest{
		"name": {Name: evil}, "group": {Group: evil}, "environment": {Environment: evil}, "cluster": {Cluster: evil}, "platform": {Platform: evil},
	} {
		status, body := post("/api/v1/admin/agent-tokens", person, req)
		refused("a token with such a "+field, status, body)
	}
	h := newHandmade(t, cp, "agent")
	asAgent := httpClient(tlsConfig(cp, h.cert))
	escaped := url.PathEscape(evil)
	for _, path := range []string{"/api/v1/agents/" + escaped, "/api/v1/targets/" + escaped, "/api/v1/tasks/" + escaped, "/api/v1/artifacts/" + escaped, "/api/v1/secrets/" + escaped, "/" + escaped} {
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			status, body := call(t, c, method, cp.URL+path, person, nil)
			refused(method+" "+path, status, body)
		}
	}
	status, body := call(t, asAgent, http.MethodPost, cp.URL+"/api/v1/agents/"+escaped+"/heartbeat", nil, "{}")
	refused("as an agent with such an id", status, body)
	// A heartbeat's words go to the database and the log.
	call(t, asAgent, http.MethodPost, h.url("/heartbeat"), nil, api.HeartbeatRequest{Status: "online", NotAccepting: evil})
	call(t, asAgent, http.MethodPost, h.url("/heartbeat"), map[string]string{api.HeaderProtocolVersion: "9\t9"}, "{}")
	well(t, cp)

	if lines.String() == "" || strings.Contains(lines.String(), "\nlevel=ERROR msg=forged") {
		t.Errorf("a line was forged:\n%s", lines.String())
	}
	for line := range strings.Lines(lines.String()) {
		if !strings.HasPrefix(line, "time=") || strings.ContainsFunc(strings.TrimSuffix(line, "\n"), unicode.IsControl) || strings.ContainsAny(line, "\u202e\u2028") {
			t.Errorf("a line of the log is not plain: %q", line)
		}
	}
	for line := range strings.Lines(jsons.String()) {
		if !json.Valid([]byte(line)) || strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' }) {
			t.Errorf("a line of the log is no JSON: %q", line)
		}
	}
}

// both hands each record to two handlers.
type both [2]slog.Handler

func (b both) Enabled(context.Context, slog.Level) bool { return true }

func (b both) Handle(ctx context.Context, r slog.Record) error {
	if err := b[0].Handle(ctx, r.Clone()); err != nil {
		return err
	}
	return b[1].Handle(ctx, r)
}

func (b both) WithAttrs(as []slog.Attr) slog.Handler {
	return both{b[0].WithAttrs(as), b[1].WithAttrs(as)}
}
func (b both) WithGroup(g string) slog.Handler { return both{b[0].WithGroup(g), b[1].WithGroup(g)} }
