package testkit_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/testkit"
)

// registering is an agent that is to be registered with a server.
func registering(t *testing.T, server, token string) *agent.Agent {
	t.Helper()
	return &agent.Agent{
		Config: agent.Config{Data: t.TempDir(), Server: server, Name: "web", MaxConcurrentTasks: 5, Transport: "auto", ReconnectBackoff: 100 * time.Millisecond, PollInterval: time.Second},
		Log:    testkit.Logger(t, "agent"), Token: token,
	}
}

// A registration that fails says why in words of its own. What may pass is tried
// for as long as there is time; what will not is told at once.
func TestRegisterTellsTheCause(t *testing.T) {
	t.Parallel()
	cp, other := testkit.StartServer(t), testkit.StartServer(t)
	used := cp.Token()
	if _, err := registering(t, cp.URL, used).Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	closed := testkit.FreePort(t)
	const long = time.Minute
	for name, tc := range map[string]struct {
		server, token string
		clock         time.Duration
		within        time.Duration // the time that there is; a long one is not used up
		want          []string
	}{
		"used token":    {server: cp.URL, token: used, within: long, want: []string{"the server refused the registration", "token"}},
		"unknown token": {server: cp.URL, token: "reg_" + strings.Repeat("a", 32) + "_" + strings.Split(used, "_")[2], within: long, want: []string{"the server refused the registration", "token"}},
		"half a token":  {server: cp.URL, token: "reg_x", within: long, want: []string{"token is incomplete"}},
		"no token":      {server: cp.URL, within: long, want: []string{"not registered", "stella agent bootstrap"}},
		"no server":     {token: used, within: long, want: []string{"--server https://"}},
		"other server":  {server: other.URL, token: cp.Token(), within: long, want: []string{"not the server that made the token", "Stella"}},
		"closed port":   {server: "https://" + closed, token: cp.Token(), within: time.Second, want: []string{closed + " is refused"}},
		"DNS":           {server: "https://stella.invalid:8443", token: cp.Token(), within: time.Second, want: []string{`"stella.invalid"`}},
		"clock ahead":   {server: cp.URL, token: cp.Token(), clock: 4000 * 24 * time.Hour, within: time.Second, want: []string{"clock is 4000 days ahead of the server's", "set this machine's clock right"}},
		"clock behind":  {server: cp.URL, token: cp.Token(), clock: -4000 * 24 * time.Hour, within: time.Second, want: []string{"clock is 4000 days behind the server's", "set this machine's clock right"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := registering(t, tc.server, tc.token)
			a.Clock = func() time.Time { return time.Now().Add(tc.clock) }
			ctx, cancel := context.WithTimeout(t.Context(), tc.within)
			defer cancel()
			done, err := a.Register(ctx)
			if err == nil {
				t.Fatalf("it worked: %+v", done)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if tc.token != "" && strings.Contains(err.Error(), tc.token) {
				t.Errorf("the token is in: %v", err)
			}
			if tc.within == long && ctx.Err() != nil {
				t.Error("it was tried for as long as there was time")
			}
		})
	}
}

// A server that comes up while it is waited for gets its agent, and an agent that
// is there is not registered again.
func TestRegisterWaitsForTheServer(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	a := registering(t, cp.URL, cp.Token())
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	type end struct {
		done *agent.Registration
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		done, err := a.Register(t.Context())
		ended <- end{done, err}
	}()
	testkit.Eventually(t, 20*time.Second, "the first try", func() (bool, string) {
		_, err := os.Stat(filepath.Join(a.Config.Data, "key.new.pem"))
		return err == nil, "there is no key yet"
	})
	cp.Start()
	first := <-ended
	if first.err != nil || first.done.Already || first.done.AgentID == "" || first.done.Server != cp.URL {
		t.Fatalf("%+v, %v", first.done, first.err)
	}
	again := &agent.Agent{Config: a.Config, Log: a.Log}
	done, err := again.Register(t.Context())
	if err != nil || !done.Already || done.AgentID != first.done.AgentID {
		t.Errorf("again: %+v, %v", done, err)
	}
}

// The programs register, run and tell how they are: each with the exit code that
// scripts go by.
func TestAgentTellsHowItIs(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	data := filepath.Join(t.TempDir(), "data")
	program := func(name string, env []string, args ...string) (stdout, stderr string, code int) {
		t.Helper()
		p := startProgram(t, "", env, name, args...)
		if err := <-p.done; err != nil && p.cmd.ProcessState.ExitCode() < 0 {
			t.Error(err)
		}
		return p.stdout.String(), p.stderr.String(), p.cmd.ProcessState.ExitCode()
	}
	expect := func(code int, want []string, args ...string) string {
		t.Helper()
		stdout, stderr, got := program("stella-agent", nil, append(args, "--data", data)...)
		if got != code {
			t.Errorf("%q: exit code %d, want %d: %s%s", args, got, code, stdout, stderr)
		}
		for _, text := range want {
			if !strings.Contains(stdout+stderr, text) {
				t.Errorf("%q is not what %q said: %s%s", text, args, stdout, stderr)
			}
		}
		return stdout
	}
	expect(1, []string{"unhealthy: the agent does not answer at"}, "health")
	stdout, stderr, code := program("stella-agent", []string{"STELLA_BOOTSTRAP_TOKEN=" + cp.Token()}, "register", "--server", cp.URL, "--data", data, "--name", "web", "--register-timeout", "20s")
	if code != 0 || !strings.HasPrefix(stdout, "registered as web (agent ") || strings.Count(stdout, "\n") != 1 || stderr != "" {
		t.Fatalf("register: %d %s%s", code, stdout, stderr)
	}
	expect(0, []string{"registered already: as web (agent "}, "register")
	expect(0, []string{"registered already: as web (agent ", "it stays with that server"}, "register", "--server", "https://elsewhere.example.com")
	expect(1, []string{"does not answer at", "see that it runs"}, "status", "--wait", "300ms")
	expect(1, []string{`"run" takes no --wait`}, "run", "--wait", "1s")

	agent := startProgram(t, "", nil, "stella-agent", "run", "--data", data, "--reconnect-backoff", "100ms", "--max-reconnect-attempts", "2")
	expect(0, []string{"online: connected to " + cp.URL + " by websocket since", "named web", "certificate good until"}, "status", "--wait", "20s")
	expect(0, []string{"healthy: connected"}, "health")
	expect(0, []string{"registered already"}, "register") // the agent holds the folder's lock
	// A task runs, and does not keep the agent from answering.
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "app", Kind: "host", Agent: "web", Config: api.TargetConfig{Directory: filepath.Join(t.TempDir(), "app")}}); err != nil {
		t.Fatal(err)
	}
	task := submitCommand(t, cp, 60, "/bin/sh", "-c", "sleep 60")
	waitRunning(t, cp, task)
	var s api.LocalStatus
	if err := json.Unmarshal([]byte(expect(0, nil, "status", "-o", "json")), &s); err != nil {
		t.Fatal(err)
	}
	shown := cp.WaitOnline("web")
	if s.AgentID != shown.ID || s.Server != cp.URL || !s.Connected || s.Status != api.StatusOnline || s.PID != agent.cmd.Process.Pid || s.Boot != 2 ||
		s.Certificate == nil || !s.Certificate.NotAfter.Equal(shown.CertificateNotAfter.Truncate(time.Second)) || !s.Certificate.RenewsAt.Before(s.Certificate.NotAfter) || s.LastHeartbeat == nil {
		t.Errorf("%+v, which the server has as %+v", s, shown)
	}
	if len(s.Tasks) != 1 || s.Tasks[0].ID != task || s.Tasks[0].Type != api.TaskExecuteCommand || s.Tasks[0].Attempt != 1 {
		t.Errorf("its tasks: %+v", s.Tasks)
	}
	// The operator's tool says the same, without a server.
	socket := filepath.Join(data, "agent.sock")
	stdout, stderr, code = program("stella", nil, "agent", "status", "--socket", socket)
	if code != 0 || !strings.Contains(stdout, shown.ID) || !strings.Contains(stdout, task+" execute-command, attempt 1") {
		t.Errorf("stella agent status: %d %s%s", code, stdout, stderr)
	}
	stdout, stderr, code = program("stella", []string{"STELLA_AGENT_SOCKET=" + socket}, "agent", "status")
	if code != 0 || !strings.Contains(stdout, shown.ID) {
		t.Errorf("stella agent status, where no server is known: %d %s%s", code, stdout, stderr)
	}

	// Without its server it says so: well for a while, and then not.
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the agent to call itself unhealthy", func() (bool, string) {
		stdout, stderr, code := program("stella-agent", nil, "health", "--data", data)
		return code == 1, stdout + stderr
	})
	expect(1, []string{"unhealthy: not connected to " + cp.URL + " since", "is refused"}, "health")
	expect(1, []string{"offline: not connected", "is refused", "certificate good until"}, "status")
	stdout, stderr, code = program("stella", nil, "agent", "status", "--socket", socket, "-o", "json")
	if err := json.Unmarshal([]byte(stdout), &s); err != nil || code != 1 || s.Connected || s.Status != api.StatusOffline || !strings.Contains(s.LastError, "is refused") || stderr != "" {
		t.Errorf("stella agent status: %d %s%s", code, stdout, stderr)
	}
	cp.Start()
	expect(0, []string{"online: connected"}, "status", "--wait", "30s")
}
