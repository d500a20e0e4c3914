package testkit_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// withEachAgent runs a test with an agent of ours over each transport, and a
// server that hears only what is signed.
func withEachAgent(t *testing.T, test func(t *testing.T, cp *testkit.ControlPlane, a *testkit.Agent)) {
	t.Helper()
	for _, transport := range []string{"websocket", "grpc", "poll"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			cp := testkit.StartServer(t, func(c *server.Config) { c.RequireSigned, c.HeartbeatInterval = true, 200*time.Millisecond })
			test(t, cp, cp.StartAgent("web", func(c *agent.Config) { c.Transport = transport }))
		})
	}
}

// heardAgain waits until the server has heard an agent twice from now on.
func heardAgain(t *testing.T, cp *testkit.ControlPlane, transport string) *api.Agent {
	t.Helper()
	var got *api.Agent
	var from time.Time
	heard := 0
	testkit.Eventually(t, 30*time.Second, "the agent to be heard", func() (bool, string) {
		a, err := cp.Client.Agent(t.Context(), "web")
		if err != nil {
			return false, err.Error()
		}
		if got = a; from.IsZero() {
			from = time.Now()
		}
		if a.LastHeartbeat != nil && a.LastHeartbeat.After(from) {
			heard, from = heard+1, *a.LastHeartbeat
		}
		return heard == 2 && a.Transport == transport && a.Status == api.StatusOnline, a.Transport + " " + string(a.Status)
	})
	return got
}

// bootOf is the count in an agent's folder.
func bootOf(t *testing.T, a *testkit.Agent) int64 {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(a.Config.Data, "boot"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func restart(t *testing.T, a *testkit.Agent) {
	t.Helper()
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	a.Start("")
}

// Our agents sign over every transport, from their first start on; a restart of
// either side does not keep them from being heard.
func TestAgentsSign(t *testing.T) {
	t.Parallel()
	withEachAgent(t, func(t *testing.T, cp *testkit.ControlPlane, a *testkit.Agent) {
		if got := heardAgain(t, cp, a.Config.Transport); !got.SignsHeartbeats {
			t.Error("the server does not know that it signs")
		}
		restart(t, a)
		heardAgain(t, cp, a.Config.Transport)
		if n := bootOf(t, a); n != 2 {
			t.Errorf("boot %d after two starts", n)
		}
		if err := cp.Stop(); err != nil {
			t.Fatal(err)
		}
		cp.Start()
		heardAgain(t, cp, a.Config.Transport)
	})
}

// An agent whose folder was restored from an old copy counts on above what its
// server knows, and is heard; also when the copy is of this very start.
func TestAgentsSignAfterARestore(t *testing.T) {
	t.Parallel()
	withEachAgent(t, func(t *testing.T, cp *testkit.ControlPlane, a *testkit.Agent) {
		for range 3 {
			restart(t, a)
			heardAgain(t, cp, a.Config.Transport)
		}
		if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(a.Config.Data, "boot")); err != nil {
			t.Fatal(err)
		}
		a.Start("")
		heardAgain(t, cp, a.Config.Transport)
		if n := bootOf(t, a); n != 5 {
			t.Errorf("boot %d, and the server knew boot 4", n)
		}
		restart(t, a)
		heardAgain(t, cp, a.Config.Transport)
		if n := bootOf(t, a); n != 6 {
			t.Errorf("boot %d after one start more", n)
		}
	})
}

// A server whose database was restored from an old copy knows less than there was,
// and hears its agents all the same.
func TestAgentsSignAfterTheServersRestore(t *testing.T) {
	t.Parallel()
	withEachAgent(t, func(t *testing.T, cp *testkit.ControlPlane, a *testkit.Agent) {
		if err := cp.Stop(); err != nil {
			t.Fatal(err)
		}
		copied := t.TempDir()
		if err := os.CopyFS(filepath.Join(copied, "then"), os.DirFS(cp.Data)); err != nil {
			t.Fatal(err)
		}
		cp.Start()
		for range 2 {
			restart(t, a)
			heardAgain(t, cp, a.Config.Transport)
		}
		if err := cp.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(cp.Data); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(cp.Data, os.DirFS(filepath.Join(copied, "then"))); err != nil {
			t.Fatal(err)
		}
		cp.Start()
		heardAgain(t, cp, a.Config.Transport)
		if n := bootOf(t, a); n != 3 {
			t.Errorf("boot %d after three starts", n)
		}
	})
}

// An agent from before signed heartbeats turns to them when it is upgraded, and is
// not heard unsigned from then on.
func TestAgentFromBeforeTurnsToSigning(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	a := cp.StartAgent("web")
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	// As one of then has left its folder, and the server's database.
	path := filepath.Join(a.Config.Data, "identity.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), `"signsHeartbeats": true`, `"signsHeartbeats": false`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(a.Config.Data, "boot")); err != nil {
		t.Fatal(err)
	}
	db := database(t, cp)
	forget := func() {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), "UPDATE agents SET signs_heartbeats = FALSE"); err != nil {
			t.Fatal(err)
		}
	}
	forget()
	if got, err := cp.Client.Agent(t.Context(), "web"); err != nil || got.SignsHeartbeats {
		t.Fatal(got, err)
	}
	known := func() {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, "the agent to be known as one that signs", func() (bool, string) {
			got, err := cp.Client.Agent(t.Context(), "web")
			if err != nil {
				return false, err.Error()
			}
			return got.SignsHeartbeats && got.Status == api.StatusOnline, string(got.Status)
		})
	}
	a.Start("")
	known()
	// A server that was upgraded after its agents learns of it by their renewals.
	forget()
	if _, err := cp.Client.SendCommand(t.Context(), "web", api.CommandRequest{Type: "renew-certificate", Payload: []byte(`{"force":true}`)}); err != nil {
		t.Fatal(err)
	}
	known()
}
