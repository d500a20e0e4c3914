package testkit_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// From one authority to the next while agents work: none is lost, none is away,
// and none registers again.
func TestCARotation(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, func(cfg *server.Config) { cfg.HeartbeatInterval, cfg.StaleAfter = time.Second, 5*time.Second })
	agents := map[string]*testkit.Agent{}
	var away []func() []string
	for _, carrier := range []string{"websocket", "grpc", "poll"} {
		agents[carrier] = cp.StartAgent(carrier, func(c *agent.Config) { c.Transport = carrier })
		away = append(away, watchAway(t, cp, carrier))
	}
	oldToken := cp.Token()
	target, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "box", Kind: "host", Agent: "grpc", Config: api.TargetConfig{Directory: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	task, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{
		Type: api.TaskExecuteCommand, Target: target.Name, Payload: json.RawMessage(`{"command":["sh","-c","for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 1; done"]}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	first := credential(t, agents["grpc"])
	followed := func(n int) {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, "all to follow", func() (bool, string) {
			s, err := cp.Client.CA(t.Context())
			if err != nil {
				return false, err.Error()
			}
			return s.Agents.Followed == n && s.Agents.Waiting == 0, fmt.Sprintf("%+v", s.Agents)
		})
	}
	step := func(do func(context.Context) (*api.CAStatus, error), want api.CAPhase) {
		t.Helper()
		s, err := do(t.Context())
		if err != nil || s.Phase != want {
			t.Fatalf("%+v, %v; want %s", s, err, want)
		}
	}
	followed(3)
	step(cp.Client.PrepareCA, api.CAPrepared)
	followed(3)
	step(cp.Client.ActivateCA, api.CAActivated)
	if _, err := cp.Client.RetireCA(t.Context(), api.CARetireRequest{LoseDead: true}); err == nil || !strings.Contains(err.Error(), "would be lost") {
		t.Errorf("retired before anybody has followed: %v", err)
	}
	// One that is off now will be lost, and somebody has to say so.
	off := agents["poll"]
	if err := off.Stop(); err != nil {
		t.Fatal(err)
	}
	// A token of before registers an agent still, and a new one too.
	for name, token := range map[string]string{"late": oldToken, "new": cp.Token()} {
		status, body := register(t, cp, token, api.RegisterRequest{Name: name, CSR: csr(t, newKey(t))})
		if status != http.StatusOK {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	testkit.Eventually(t, 30*time.Second, "those that are up to follow", func() (bool, string) {
		s, err := cp.Client.CA(t.Context())
		return err == nil && s.Agents.Followed == 4, fmt.Sprintf("%+v, %v", s, err)
	})
	for _, name := range []string{"poll", "late", "new"} {
		if err := cp.Client.DeleteAgent(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	step(func(ctx context.Context) (*api.CAStatus, error) {
		return cp.Client.RetireCA(ctx, api.CARetireRequest{})
	}, api.CASteady)
	// People log in again, which is to say: they take the new root.
	cp.Reload()
	followed(2)
	if done := cp.WaitTask(task.ID, 30*time.Second); done.State != api.TaskSucceeded || done.Attempt != 1 {
		t.Errorf("the task: %s %s, attempt %d", done.State, done.Reason, done.Attempt)
	}
	for i, why := range away[:2] {
		if said := why(); len(said) > 0 {
			t.Errorf("agent %d was away: %q", i, said)
		}
	}
	away[2]()
	if _, _, err := try(t, httpClient(tlsConfig(cp, keyPair(t, first))), http.MethodPost, cp.URL+"/api/v1/agents/token", nil, nil); err == nil {
		t.Error("a certificate of the retired authority gets through the handshake")
	}
}

// The list of revoked certificates has what was revoked, deleted or replaced,
// and nothing else, and is signed by the authority that issued them.
func TestCRL(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	serials := map[string]string{} // by serial
	for _, name := range []string{"good", "revoked", "deleted"} {
		h := newHandmade(t, cp, name)
		leaf, err := x509.ParseCertificate(h.cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		serials[leaf.SerialNumber.Text(16)] = name
	}
	if _, err := cp.Client.RevokeAgent(t.Context(), "revoked"); err != nil {
		t.Fatal(err)
	}
	if err := cp.Client.DeleteAgent(t.Context(), "deleted"); err != nil {
		t.Fatal(err)
	}
	status, body := call(t, httpClient(tlsConfig(cp)), http.MethodGet, cp.URL+"/pki/crl", nil, nil)
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	list, err := x509.ParseRevocationList(body)
	if err != nil {
		t.Fatal(err)
	}
	chain := newHandmade(t, cp, "another").cert.Certificate
	issuer, err := x509.ParseCertificate(chain[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := list.CheckSignatureFrom(issuer); err != nil {
		t.Error(err)
	}
	var on []string
	for _, e := range list.RevokedCertificateEntries {
		on = append(on, serials[e.SerialNumber.Text(16)])
		if since := time.Since(e.RevocationTime); since < -time.Second || since > time.Minute {
			t.Errorf("revoked %s ago", since)
		}
	}
	if slices.Sort(on); fmt.Sprint(on) != "[deleted revoked]" {
		t.Errorf("on the list are %q", on)
	}
	if left := time.Until(list.NextUpdate); left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("it is good for %s", left)
	}
}
