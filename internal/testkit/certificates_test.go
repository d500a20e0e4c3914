package testkit_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// shortLived is a server whose agents' certificates live for ten seconds.
func shortLived(cfg *server.Config) { cfg.AgentCertLife = 10 * time.Second }

// Over every carrier, an agent renews its certificate again and again while a
// task runs that lives longer than any of them: it is never away, and the task
// is none the wiser. What it signs is by the key that it has then.
func TestCertificateIsRenewedUnderATask(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, shortLived, func(c *server.Config) { c.RequireSigned = true })
	for _, carrier := range []string{"websocket", "grpc", "poll"} {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			name := "a-" + carrier
			a := cp.StartAgent(name, func(c *agent.Config) { c.Transport = carrier })
			away := watchAway(t, cp, name)
			target, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: name, Kind: "host", Agent: name, Config: api.TargetConfig{Directory: t.TempDir()}})
			if err != nil {
				t.Fatal(err)
			}
			first := credential(t, a)
			task, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{
				Type: api.TaskExecuteCommand, Target: target.Name, Payload: json.RawMessage(`{"command":["sh","-c","for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo $i; sleep 1; done"]}`),
			})
			if err != nil {
				t.Fatal(err)
			}
			done := cp.WaitTask(task.ID, time.Minute)
			if done.State != api.TaskSucceeded || done.Attempt != 1 {
				t.Errorf("the task: %s %s, attempt %d", done.State, done.Reason, done.Attempt)
			}
			last := credential(t, a)
			if last == first {
				t.Error("the certificate and the key are the first ones still")
			}
			shown, err := cp.Client.Agent(t.Context(), name)
			if err != nil || shown.CertificateNotAfter == nil || time.Until(*shown.CertificateNotAfter) < 0 {
				t.Errorf("shown: %+v, %v", shown, err)
			}
			if n := renewals(t, cp, name); n < 2 || n > 5 {
				t.Errorf("%d renewals of a certificate of 10 s are in the audit log after 15 s", n)
			}
			if why := away(); len(why) > 0 {
				t.Errorf("the agent was away: %q", why)
			}
			refusedWith(t, cp, first, "certificate_")
		})
	}
}

// watchAway collects when an agent was said to be away, until it is asked.
func watchAway(t *testing.T, cp *testkit.ControlPlane, name string) func() []string {
	t.Helper()
	return watchEvents(t, cp, name, api.EventAgentDisconnected, "agent.stale", "agent.dead")
}

// watchEvents returns a function that ends the watch and returns which events of
// some kinds there were of an agent.
func watchEvents(t *testing.T, cp *testkit.ControlPlane, name string, kinds ...string) func() []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var why []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e, err := range cp.Client.Events(ctx, client.EventFilter{Agent: name}) {
			if err != nil {
				return
			}
			if slices.Contains(kinds, e.Kind) {
				why = append(why, fmt.Sprintf("%s %s %s", e.At.Format("05.000"), e.Kind, e.Reason))
			}
		}
	}()
	return func() []string {
		cancel()
		<-done
		return why
	}
}

func renewals(t *testing.T, cp *testkit.ControlPlane, name string) (n int) {
	t.Helper()
	a, err := cp.Client.Agent(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range cp.Client.Audit(t.Context(), client.AuditFilter{Filter: `action=agent.renew and object="` + a.ID + `"`}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Outcome == "ok" && e.Actor == "agent:"+a.ID {
			n++
		}
	}
	return n
}

// credential is an agent's key and certificate as they are on its disk.
func credential(t *testing.T, a *testkit.Agent) string {
	t.Helper()
	path := filepath.Join(a.Config.Data, "client.pem")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v", path, info.Mode(), err)
	}
	return string(data)
}

// refusedWith tries a credential for a heartbeat, which is refused with a code
// that begins so.
func refusedWith(t *testing.T, cp *testkit.ControlPlane, credential, code string) {
	t.Helper()
	var last string
	testkit.Eventually(t, 20*time.Second, "the credential to be refused with "+code, func() (bool, string) {
		status, body := beatWith(t, cp, credential)
		last = fmt.Sprintf("%d %s", status, body)
		var p api.Problem
		return json.Unmarshal(body, &p) == nil && status >= 400 && strings.HasPrefix(p.Code, code), last
	})
}

func beatWith(t *testing.T, cp *testkit.ControlPlane, credential string) (int, []byte) {
	t.Helper()
	return asAgent(t, cp, credential, "/heartbeat", api.HeartbeatRequest{Status: "online"})
}

// asAgent calls what comes behind an agent's own path, with its credential.
func asAgent(t *testing.T, cp *testkit.ControlPlane, credential, path string, body any) (int, []byte) {
	t.Helper()
	cert := keyPair(t, credential)
	c := httpClient(tlsConfig(cp, cert))
	defer c.CloseIdleConnections()
	return call(t, c, http.MethodPost, cp.URL+"/api/v1/agents/"+cert.Leaf.Subject.CommonName+path, nil, body)
}

// An agent whose certificate ended while it was off comes back by itself, and
// can do nothing else with what has ended.
func TestRecovery(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, shortLived, func(cfg *server.Config) { cfg.CertRecovery = time.Hour })
	a := cp.StartAgent("sleeper")
	revoked := cp.StartAgent("revoked")
	deleted := cp.StartAgent("deleted")
	for _, x := range []*testkit.Agent{a, revoked, deleted} {
		if err := x.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	old := credential(t, a)
	refusedWith(t, cp, old, api.CodeCertificateExpired)
	for _, path := range []string{"/heartbeat", "/events", "/tasks/x/complete", "/commands/x/ack"} {
		method := http.MethodPost
		if path == "/events" {
			method = http.MethodGet
		}
		cert := keyPair(t, old)
		status, body := call(t, httpClient(tlsConfig(cp, cert)), method, cp.URL+"/api/v1/agents/"+cert.Leaf.Subject.CommonName+path, nil, nil)
		if status != http.StatusUnauthorized || !strings.Contains(string(body), api.CodeCertificateExpired) {
			t.Errorf("%s with a certificate that has ended: %d %s", path, status, body)
		}
	}
	// To register anew by it is refused as well: only the next certificate is to be had.
	status, body := asAgentPath(t, cp, old, "/api/v1/agents/register", api.RegisterRequest{Name: "sleeper", CSR: csr(t, newKey(t))})
	if status != http.StatusUnauthorized {
		t.Errorf("registered anew: %d %s", status, body)
	}

	a.Start("")
	testkit.Eventually(t, 20*time.Second, "the agent to connect by a new certificate", func() (bool, string) {
		shown, err := cp.Client.Agent(t.Context(), "sleeper")
		return err == nil && shown.Transport != "" && credential(t, a) != old, fmt.Sprintf("%+v, %v", shown, err)
	})
	n := 0
	for e, err := range cp.Client.Audit(t.Context(), client.AuditFilter{Filter: `action=agent.recover`}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Outcome == "ok" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d recoveries are in the audit log, want 1", n)
	}

	if _, err := cp.Client.RevokeAgent(t.Context(), "revoked"); err != nil {
		t.Fatal(err)
	}
	if err := cp.Client.DeleteAgent(t.Context(), "deleted"); err != nil {
		t.Fatal(err)
	}
	for agent, code := range map[*testkit.Agent]string{revoked: "agent_revoked", deleted: "agent_unknown"} {
		status, body := asAgent(t, cp, credential(t, agent), "/certificate", api.CertificateRequest{CSR: csr(t, newKey(t))})
		if status != http.StatusForbidden || !strings.Contains(string(body), code) {
			t.Errorf("%s recovers: %d %s", agent.Config.Name, status, body)
		}
	}
	// What was superseded is no way back either.
	refusedWith(t, cp, old, api.CodeCertificateExpired)
	testkit.Eventually(t, 20*time.Second, "the superseded certificate to end", func() (bool, string) {
		status, body := asAgent(t, cp, old, "/certificate", api.CertificateRequest{CSR: csr(t, newKey(t))})
		return status == http.StatusForbidden && strings.Contains(string(body), "certificate_revoked"), string(body)
	})
}

func asAgentPath(t *testing.T, cp *testkit.ControlPlane, credential, path string, body any) (int, []byte) {
	t.Helper()
	cert := keyPair(t, credential)
	return call(t, httpClient(tlsConfig(cp, cert)), http.MethodPost, cp.URL+path, nil, body)
}

func TestRecoveryHasAnEnd(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, shortLived, func(cfg *server.Config) { cfg.CertRecovery = 0 })
	a := cp.StartAgent("sleeper")
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	old := credential(t, a)
	refusedWith(t, cp, old, api.CodeCertificateExpired)
	status, body := asAgent(t, cp, old, "/certificate", api.CertificateRequest{CSR: csr(t, newKey(t))})
	if status != http.StatusUnauthorized || !strings.Contains(string(body), "recovery_over") {
		t.Errorf("recovered: %d %s", status, body)
	}
	// A token for its id is the way back.
	tok, err := cp.Client.CreateRegistrationToken(t.Context(), api.RegistrationTokenRequest{AgentID: agentID(t, old), CertificateLifeSeconds: 10})
	if err != nil {
		t.Fatal(err)
	}
	status, body = register(t, cp, tok.Token, api.RegisterRequest{Name: "sleeper", CSR: csr(t, newKey(t))})
	if status != http.StatusOK {
		t.Errorf("registered again: %d %s", status, body)
	}
}

func agentID(t *testing.T, credential string) string {
	t.Helper()
	return keyPair(t, credential).Leaf.Subject.CommonName
}

func keyPair(t *testing.T, credential string) tls.Certificate {
	t.Helper()
	cert, err := tls.X509KeyPair([]byte(credential), []byte(credential))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// How long a certificate is good is said by the token, the environment, the
// request, and within what the server allows.
func TestLifeOfCertificates(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, func(cfg *server.Config) {
		cfg.AgentCertLife, cfg.AgentCertLifeMax = 48*time.Hour, 100*time.Hour
		cfg.AgentCertLifeEnv = map[string]string{"dev": "24h"}
	})
	life := func(name, env string, token, asked time.Duration) time.Duration {
		t.Helper()
		text := cp.Token(func(r *api.RegistrationTokenRequest) {
			r.Environment, r.CertificateLifeSeconds = env, int(token/time.Second)
		})
		status, body := register(t, cp, text, api.RegisterRequest{Name: name, CSR: csr(t, newKey(t)), CertificateLifeSeconds: int(asked / time.Second)})
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", name, status, body)
		}
		a, err := cp.Client.Agent(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return time.Until(*a.CertificateNotAfter).Round(time.Minute)
	}
	for i, tc := range []struct {
		env          string
		token, asked time.Duration
		want         time.Duration
	}{
		{"", 0, 0, 48 * time.Hour},
		{"dev", 0, 0, 24 * time.Hour},
		{"prod", 0, 0, 48 * time.Hour},
		{"dev", 72 * time.Hour, 0, 72 * time.Hour},
		{"dev", 72 * time.Hour, time.Hour, time.Hour},
		{"", 0, 90 * time.Hour, 48 * time.Hour}, // a request only shortens
	} {
		if have := life(fmt.Sprint("agent-", i), tc.env, tc.token, tc.asked); have != tc.want {
			t.Errorf("environment %q, token %s, request %s: %s, want %s", tc.env, tc.token, tc.asked, have, tc.want)
		}
	}
	for _, seconds := range []int{1, 9, 101 * 3600} {
		_, err := cp.Client.CreateRegistrationToken(t.Context(), api.RegistrationTokenRequest{CertificateLifeSeconds: seconds})
		if err == nil || !strings.Contains(err.Error(), "lives from 10s to 100h") {
			t.Errorf("a token for certificates of %d s: %v", seconds, err)
		}
	}
}

// On the agent's host by its local socket, and from afar through the server.
func TestRenewCertByCommand(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	a := cp.StartAgent("web", func(c *agent.Config) { c.Socket = filepath.Join(t.TempDir(), "s") })
	stella := func(args ...string) (out string, code int) {
		t.Helper()
		ca := filepath.Join(cp.Data, "ca.pem")
		p := startProgram(t, "", []string{"STELLA_SERVER=" + cp.URL, "STELLA_TOKEN=" + cp.AdminToken, "STELLA_CA=" + ca}, "stella", append([]string{"agent", "renew-cert"}, args...)...)
		if err := <-p.done; err != nil && p.cmd.ProcessState.ExitCode() < 0 {
			t.Error(err)
		}
		return p.stdout.String() + p.stderr.String(), p.cmd.ProcessState.ExitCode()
	}
	for _, where := range [][]string{{"--socket", a.Config.Socket}, {"web"}, {"--agent-id", "web"}} {
		before := credential(t, a)
		out, code := stella(where...)
		if code != 0 || !strings.Contains(out, "is not due: it is valid until 2") || !strings.Contains(out, "--force") || credential(t, a) != before {
			t.Errorf("%q, which is not due: %d %s", where, code, out)
		}
		out, code = stella(append(where, "--force")...)
		if code != 0 || !strings.Contains(out, "has a new certificate, valid until 2") || credential(t, a) == before {
			t.Errorf("%q by force: %d %s", where, code, out)
		}
		// The renewed one is used at once.
		testkit.Eventually(t, 10*time.Second, "the link over the new certificate", func() (bool, string) {
			shown, err := cp.Client.Agent(t.Context(), "web")
			if err != nil {
				return false, err.Error()
			}
			cert, err := tls.X509KeyPair([]byte(credential(t, a)), []byte(credential(t, a)))
			return err == nil && shown.CertificateFingerprint == fmt.Sprintf("%x", sha256.Sum256(cert.Leaf.Raw)), shown.CertificateFingerprint
		})
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--socket", filepath.Join(t.TempDir(), "none")}, 1, "does not answer at"},
		{[]string{"web", "--socket", a.Config.Socket}, 2, "--socket is for the agent of this host"},
		{[]string{"web", "--agent-id", "other"}, 2, "are two"},
		{[]string{"nobody"}, 3, "there is no agent"},
	} {
		if out, code := stella(tc.args...); code != tc.code || !strings.Contains(out, tc.want) {
			t.Errorf("%q: %d %s", tc.args, code, out)
		}
	}
	if info, err := os.Stat(a.Config.Socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(a.Config.Socket); err == nil {
		t.Error("the socket is there still")
	}
}
