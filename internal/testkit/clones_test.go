package testkit_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// cloneOf copies an agent's data folder, as it is while the agent works, for a
// second host.
func cloneOf(t *testing.T, a *testkit.Agent, change func(*agent.Config)) *testkit.Agent {
	t.Helper()
	dir := t.TempDir()
	files, err := os.ReadDir(a.Config.Data)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !f.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(a.Config.Data, f.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, f.Name()), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return testkit.AgentOf(t, a.Config, func(c *agent.Config) {
		c.Data = dir
		change(c)
	})
}

func wantCloned(t *testing.T, cp *testkit.ControlPlane, name string) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, "the clone to be shown", func() (bool, string) {
		v, err := cp.Client.Agent(t.Context(), name)
		if err != nil {
			return false, err.Error()
		}
		c := v.Clone
		return c != nil && strings.Contains(c.Held, "127.0.0.1") && strings.Contains(c.Kept, "127.0.0.1") && time.Since(c.SeenAt) < time.Minute, fmt.Sprintf("%+v", c)
	})
}

// A copy of a host's disk is held off while the host lives, whatever carriers the
// two use, over renewals too; tasks run on the host alone. When the host is gone,
// the copy is let in.
func TestClonesAreHeldOff(t *testing.T) {
	t.Parallel()
	for _, carriers := range [][2]string{{"websocket", "websocket"}, {"grpc", "websocket"}, {"websocket", "poll"}, {"poll", "poll"}} {
		t.Run(carriers[0]+" and "+carriers[1], func(t *testing.T) {
			t.Parallel()
			cp := testkit.StartServer(t, func(c *server.Config) { c.HeartbeatInterval = time.Second })
			a := cp.StartAgent("web", func(c *agent.Config) { c.Transport = carriers[0] }, taught(t, map[string]string{"where": "#!/bin/sh\necho '\"the host\"'\n"}))
			away := watchAway(t, cp, "web")
			clone := cloneOf(t, a, func(c *agent.Config) { c.Transport = carriers[1] })
			taught(t, map[string]string{"where": "#!/bin/sh\necho '\"the clone\"'\n"})(&clone.Config)
			clone.Start("")
			wantCloned(t, cp, "web")
			if _, err := cp.Client.SendCommand(t.Context(), "web", api.CommandRequest{Type: "renew-certificate", ExpiresIn: 60}); err != nil {
				t.Fatal(err)
			}
			for i := range 10 {
				sent, err := cp.Client.SendCommand(t.Context(), "web", api.CommandRequest{Type: "where", ExpiresIn: 60})
				p := over(t, cp, sent, err)
				if p.Counts.Acknowledged != 1 || string(p.Deliveries[0].Result) != `"the host"` {
					t.Errorf("command %d: %+v", i, p.Deliveries)
				}
			}
			list, err := cp.Client.Agent(t.Context(), "web")
			if err != nil || list.Status != api.StatusOnline {
				t.Errorf("%+v, %v", list, err)
			}
			if got := away(); len(got) > 0 && carriers[0] != "poll" {
				t.Errorf("the host was away: %v", got)
			}
			if err := a.Stop(); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, 30*time.Second, "the clone to be let in", func() (bool, string) {
				sent, err := cp.Client.SendCommand(t.Context(), "web", api.CommandRequest{Type: "where", ExpiresIn: 5})
				if err != nil {
					return false, err.Error()
				}
				p := over(t, cp, sent, err)
				return p.Counts.Acknowledged == 1 && string(p.Deliveries[0].Result) == `"the clone"`, fmt.Sprintf("%+v", p.Deliveries)
			})
		})
	}
}

// The two are told apart when they are connected to two servers, too.
func TestClonesOnTwoServers(t *testing.T) {
	t.Parallel()
	first, second := twoServers(t)
	a := first.StartAgent("web", func(c *agent.Config) { c.Transport = "websocket" })
	testkit.Eventually(t, 20*time.Second, "the database to have heard of the agent", func() (bool, string) {
		v, err := second.Client.Agent(t.Context(), "web")
		return err == nil && v.ResourceUsage != nil, fmt.Sprintf("%+v, %v", v, err)
	})
	links := watchEvents(t, first, "web", api.EventAgentConnected, api.EventAgentDisconnected)
	clone := cloneOf(t, a, func(c *agent.Config) {
		path := filepath.Join(c.Data, "identity.json")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(data), first.URL, second.URL)), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	clone.Start("")
	wantCloned(t, second, "web")
	sent, err := first.Client.SendCommand(t.Context(), "web", api.CommandRequest{Type: "collect-logs", ExpiresIn: 60})
	if p := over(t, first, sent, err); p.Counts.Acknowledged != 1 {
		t.Errorf("%+v", p.Deliveries)
	}
	if got := links(); len(got) > 0 {
		t.Errorf("links came and went: %v", got)
	}
}

// A copy gets no certificate and no registration while the host lives: either would
// put the host out.
func TestClonesGetNoIdentity(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	a := cp.StartAgent("web", func(c *agent.Config) { c.Transport = "websocket" })
	id := cp.WaitOnline("web").ID
	pem := filepath.Join(a.Config.Data, "client.pem")
	cert, err := tls.LoadX509KeyPair(pem, pem)
	if err != nil {
		t.Fatal(err)
	}
	copied := httpClient(tlsConfig(cp, cert))
	const another = "f2f1c1f0-0000-4000-8000-000000000000"
	for path, body := range map[string]any{
		"/api/v1/agents/" + id + "/certificate": api.CertificateRequest{CSR: csr(t, newKey(t)), Instance: another},
		"/api/v1/agents/register":               api.RegisterRequest{ID: id, Name: "web", CSR: csr(t, newKey(t)), SignsHeartbeats: true, Instance: another},
	} {
		status, answer := call(t, copied, http.MethodPost, cp.URL+path, nil, body)
		if status != http.StatusConflict || problem(t, answer).Code != "identity_in_use" {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
	wantCloned(t, cp, "web")
}

// A host that is started again is let in at once: over a link that was closed,
// and over one that nobody has closed.
func TestRestartsAreNoClones(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	a := cp.StartAgent("web")
	for range 3 {
		if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		a.Start("")
		testkit.Eventually(t, 20*time.Second, "the agent to be back", func() (bool, string) {
			sent, err := cp.Client.SendCommand(t.Context(), "web", api.CommandRequest{Type: "collect-logs", ExpiresIn: 10})
			return over(t, cp, sent, err).Counts.Acknowledged == 1, ""
		})
		t.Logf("it was back within %s", time.Since(began).Round(time.Millisecond))
	}
	v, err := cp.Client.Agent(t.Context(), "web")
	if err != nil || v.Clone != nil {
		t.Errorf("%+v, %v", v.Clone, err)
	}
}
