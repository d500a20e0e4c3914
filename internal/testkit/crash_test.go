package testkit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/peers"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

// The crash tests run the real agent and the real server as processes of
// their own (this test binary, started again) and kill them with SIGKILL at
// every write of the journal: before it, when what is to be written has not
// been, and behind it, when it has and what follows has not.

const roleVariable = "STELLA_TEST_ROLE"

// role is what a process of this test binary is told to be.
type role struct {
	Agent  *agent.Config  `json:"agent,omitempty"`
	Server *server.Config `json:"server,omitempty"`
	Token  string         `json:"token,omitempty"`
	// KillAt is the journal point at which the agent kills itself; -1 never.
	KillAt int `json:"killAt"`
	// StopAt is the point at which it waits until a file goes away, so that
	// the test can kill the server meanwhile; -1 never.
	StopAt int `json:"stopAt"`
	// FileLimit bounds the size of every file that the process writes.
	FileLimit uint64 `json:"fileLimit,omitempty"`
	// Trace is a file that gets a line for each point.
	Trace string `json:"trace"`
}

func TestMain(m *testing.M) {
	text := os.Getenv(roleVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	var r role
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if err := r.play(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (r *role) play() error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if r.FileLimit > 0 {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: r.FileLimit, Max: r.FileLimit}); err != nil {
			return err
		}
	}
	if r.Server != nil {
		s := &server.Server{Config: *r.Server, Log: log, Out: io.Discard}
		return s.Run(context.Background())
	}
	a := &agent.Agent{Config: *r.Agent, Log: log, Token: r.Token}
	var mu sync.Mutex
	point := 0
	a.OnJournal = func(when string, rec *deploy.Record) {
		mu.Lock()
		defer mu.Unlock()
		if f, err := os.OpenFile(r.Trace, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			fmt.Fprintf(f, "%d %s %s done=%t committed=%t undoing=%t\n", point, when, rec.Step, rec.Done, rec.Committed, rec.Failure != nil)
			_ = f.Close()
		}
		switch point {
		case r.KillAt:
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until the signal has arrived
		case r.StopAt:
			hold := r.Trace + ".hold"
			_ = os.WriteFile(hold, nil, 0o600)
			for {
				if _, err := os.Stat(hold); errors.Is(err, os.ErrNotExist) {
					break
				}
				time.Sleep(5 * time.Millisecond) //nolint:forbidigo // a process of its own, which waits to be released
			}
		}
		point++
	}
	return a.Run(context.Background())
}

// process is a role that runs.
type process struct {
	cmd *exec.Cmd
	log *os.File
	// done is closed when it has ended.
	done chan struct{}
}

func spawn(t *testing.T, name string, r role) *process {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.CreateTemp(t.TempDir(), name+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(os.Args[0]), log: log, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+string(data))
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s:\n%s", name, text)
		}
		_ = log.Close()
	})
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // gone already otherwise
	<-p.done
}

// crashRig is a server, an agent's folder, and a Docker target.
type crashRig struct {
	t       *testing.T
	cp      *testkit.ControlPlane // of the process that serves
	server  *process
	srvCfg  server.Config
	agent   agent.Config
	engine  *client.Client
	repo    string
	digests map[string]string
	target  string
	port    int
	trace   string
}

func newCrashRig(t *testing.T, port int) *crashRig {
	t.Helper()
	host, registry := peers.Docker(t), peers.Registry(t)
	engine, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close() })
	rig := &crashRig{t: t, engine: engine, repo: registry + "/" + strings.ToLower(t.Name()), digests: map[string]string{}, port: port, target: strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))}
	for _, v := range []struct{ version, mode string }{{"1.0.0", ""}, {"2.0.0", ""}, {"3.0.0", "unhealthy"}} {
		rig.digests[v.version] = sampleimage.Push(t, rig.repo, sampleimage.Options{Version: v.version, Mode: v.mode})
	}
	t.Cleanup(rig.sweep)

	rig.srvCfg = testkit.ServerConfig(t.TempDir())
	rig.srvCfg.Listen = testkit.FreePort(t)
	rig.srvCfg.TaskLease = 2 * time.Minute
	rig.startServer()
	rig.agent = agent.Config{
		Data: t.TempDir(), Server: rig.cp.URL, Name: "crash", MaxConcurrentTasks: 5, Transport: "auto", DockerHost: host,
		Capabilities: []string{"docker"}, ReconnectBackoff: 50 * time.Millisecond, MaxReconnectAttempts: 10, PollInterval: time.Second, DrainTimeout: time.Second,
	}
	return rig
}

func (rig *crashRig) startServer() {
	rig.t.Helper()
	rig.server = spawn(rig.t, "server", role{Server: &rig.srvCfg})
	rig.cp = testkit.Attach(rig.t, rig.srvCfg.Data, rig.srvCfg.Listen)
}

// runAgent starts the agent, with a token when it is not registered.
func (rig *crashRig) runAgent(killAt, stopAt int) *process {
	rig.t.Helper()
	r := role{Agent: &rig.agent, KillAt: killAt, StopAt: stopAt, Trace: rig.trace}
	if _, err := os.Stat(filepath.Join(rig.agent.Data, "identity.json")); err != nil {
		r.Token = rig.cp.Token()
	}
	return spawn(rig.t, "agent", r)
}

func (rig *crashRig) submit(version string) string {
	rig.t.Helper()
	payload, err := json.Marshal(api.DeployPayload{Image: rig.repo, Digest: rig.digests[version], Config: api.DeployConfig{
		ReleaseID: "r" + version, ContainerName: rig.target, Ports: []string{fmt.Sprintf("127.0.0.1:%d:8080", rig.port)}, StopTimeout: 2,
		HealthCheck: &api.HealthCheck{Type: "http", URL: fmt.Sprintf("http://127.0.0.1:%d/healthz", rig.port), IntervalMs: 50, Timeout: 1},
	}})
	if err != nil {
		rig.t.Fatal(err)
	}
	task, err := rig.cp.Client.SubmitTask(rig.t.Context(), api.TaskRequest{Type: api.TaskDeploy, Target: rig.target, Payload: payload})
	if err != nil {
		rig.t.Fatal(err)
	}
	return task.ID
}

// stands checks that exactly one container stands, that it runs, and which
// version it is.
func (rig *crashRig) stands() (version string, err error) {
	all, err := rig.engine.ContainerList(rig.t.Context(), client.ContainerListOptions{All: true})
	if err != nil {
		return "", err
	}
	var names []string
	for _, c := range all.Items {
		for _, n := range c.Names {
			if n = strings.TrimPrefix(n, "/"); n == rig.target || strings.HasPrefix(n, rig.target+"-") {
				names = append(names, n+" "+string(c.State))
				version = strings.TrimPrefix(c.Labels["stella.release.id"], "r")
			}
		}
	}
	if !slices.Equal(names, []string{rig.target + " running"}) {
		return "", fmt.Errorf("stands: %q", names)
	}
	return version, nil
}

func (rig *crashRig) sweep() {
	ctx := context.Background()
	all, err := rig.engine.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return
	}
	for _, c := range all.Items {
		for _, n := range c.Names {
			if n = strings.TrimPrefix(n, "/"); n == rig.target || strings.HasPrefix(n, rig.target+"-") {
				_, _ = rig.engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true})
			}
		}
	}
	for _, d := range rig.digests {
		_, _ = rig.engine.ImageRemove(ctx, rig.repo+"@"+d, client.ImageRemoveOptions{Force: true})
	}
}

// points runs a deployment undisturbed and returns how many journal points it
// has, with their names.
func (rig *crashRig) points(version string) []string {
	rig.t.Helper()
	rig.trace = filepath.Join(rig.t.TempDir(), "trace")
	p := rig.runAgent(-1, -1)
	rig.cp.WaitOnline("crash")
	rig.cp.WaitTask(rig.submit(version), time.Minute)
	p.kill()
	data, err := os.ReadFile(rig.trace)
	if err != nil {
		rig.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func TestKilledAtEveryStepOfADockerDeploy(t *testing.T) {
	for _, c := range []struct {
		name, version string
		port          int
	}{{"good", "2.0.0", 18741}, {"broken", "3.0.0", 18742}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rig := newCrashRig(t, c.port)
			// A first deployment, and a target for it.
			rig.trace = filepath.Join(t.TempDir(), "trace")
			p := rig.runAgent(-1, -1)
			rig.cp.WaitOnline("crash")
			if _, err := rig.cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: rig.target, Kind: "docker", Agent: "crash"}); err != nil {
				t.Fatal(err)
			}
			if task := rig.cp.WaitTask(rig.submit("1.0.0"), time.Minute); task.State != api.TaskSucceeded {
				t.Fatalf("first deployment: %s %s", task.State, task.Reason)
			}
			p.kill()
			points := rig.points(c.version)
			for k, name := range points {
				rig.reset()
				rig.kill(k, name, c.version, false)
				rig.reset()
				rig.kill(k, name, c.version, true)
			}
			t.Logf("agent and server each killed at %d points, 0 wrong ends", len(points))
		})
	}
}

// reset brings the target back to 1.0.0.
func (rig *crashRig) reset() {
	rig.t.Helper()
	if v, err := rig.stands(); err == nil && v == "1.0.0" {
		return
	}
	rig.trace = filepath.Join(rig.t.TempDir(), "trace")
	p := rig.runAgent(-1, -1)
	defer p.kill()
	if task := rig.cp.WaitTask(rig.submit("1.0.0"), time.Minute); task.State != api.TaskSucceeded {
		rig.t.Fatalf("back to 1.0.0: %s %s", task.State, task.Reason)
	}
}

// kill deploys, kills the agent (or the server, while the agent waits) at a
// point, starts it again, and checks how it all ended.
func (rig *crashRig) kill(k int, name, version string, theServer bool) {
	t := rig.t
	t.Helper()
	who := "agent"
	rig.trace = filepath.Join(t.TempDir(), "trace")
	var id string
	if theServer {
		who = "server"
		p := rig.runAgent(-1, k)
		id = rig.submit(version)
		hold := rig.trace + ".hold"
		testkit.Eventually(t, time.Minute, "the agent to reach point "+name, func() (bool, string) {
			_, err := os.Stat(hold)
			return err == nil, fmt.Sprint(err)
		})
		rig.server.kill()
		if err := os.Remove(hold); err != nil {
			t.Fatal(err)
		}
		rig.startServer()
		defer p.kill()
	} else {
		p := rig.runAgent(k, -1)
		id = rig.submit(version)
		select {
		case <-p.done:
		case <-time.After(time.Minute):
			t.Fatalf("the agent did not reach point %s", name)
		}
		p = rig.runAgent(-1, -1)
		defer p.kill()
	}
	task := rig.cp.WaitTask(id, time.Minute)
	got, err := rig.stands()
	want := "1.0.0"
	if task.State == api.TaskSucceeded {
		want = version
	}
	if err != nil || got != want || task.State == api.TaskSucceeded && version == "3.0.0" {
		t.Errorf("%s killed at %s: the task %s (%s) and %s runs: %v", who, name, task.State, task.Reason, got, err)
	}
	if theServer && task.Result != nil && task.Result.ErrorType == api.ErrAgentRestarted {
		t.Errorf("server killed at %s: the agent did not finish: %s", name, task.Reason)
	}
}

// TestDiskFull lets a server run into a limit of its files' size, as a full
// disk would, and looks that it says so and that nothing it acknowledged is
// lost.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	cfg := testkit.ServerConfig(t.TempDir())
	cfg.Listen = testkit.FreePort(t)
	p := spawn(t, "server", role{Server: &cfg, FileLimit: 1 << 20})
	cp := testkit.Attach(t, cfg.Data, cfg.Listen)
	var acknowledged []string
	for i := range 20_000 {
		name := fmt.Sprintf("token-%d", i)
		tok, err := cp.Client.CreateRegistrationToken(t.Context(), api.RegistrationTokenRequest{Group: strings.Repeat("x", 200), Name: name})
		if err != nil {
			break
		}
		acknowledged = append(acknowledged, tok.ID)
	}
	if len(acknowledged) == 20_000 {
		t.Fatal("the disk was never full")
	}
	testkit.Eventually(t, 10*time.Second, "the server to be not ready", func() (bool, string) {
		return cp.Client.Ready(t.Context()) != nil, "ready with a full disk"
	})
	if err := cp.Client.Health(t.Context()); err != nil {
		t.Errorf("the process should be alive: %v", err)
	}
	p.kill()
	spawn(t, "server", role{Server: &cfg})
	cp = testkit.Attach(t, cfg.Data, cfg.Listen)
	have := map[string]bool{}
	for tok, err := range cp.Client.RegistrationTokens(t.Context(), clientTokens()) {
		if err != nil {
			t.Fatal(err)
		}
		have[tok.ID] = true
	}
	for _, id := range acknowledged {
		if !have[id] {
			t.Fatalf("token %s was acknowledged and is lost", id)
		}
	}
	t.Logf("%d acknowledged before the disk was full, all there", len(acknowledged))
}
