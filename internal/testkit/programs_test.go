package testkit_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/testkit"
)

// programs builds the real programs once.
var programs = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "stella-programs-"); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir, "../../cmd/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: string(out), Err: err}
	}
	return dir, nil
})

// program is one of them, running.
type program struct {
	cmd            *exec.Cmd
	stdout, stderr safeBuffer
	done           chan error
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func startProgram(t *testing.T, stdin string, env []string, name string, args ...string) *program {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{cmd: exec.Command(filepath.Join(dir, name), args...), done: make(chan error, 1)}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	p.cmd.Stdin = strings.NewReader(stdin)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

// stop sends SIGTERM and returns how the program ended, and how long it took.
func (p *program) stop(t *testing.T) (time.Duration, error) {
	t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.done:
		return time.Since(began), err
	case <-time.After(20 * time.Second):
		t.Fatalf("it did not end on SIGTERM:\n%s", p.stderr.String())
		return 0, nil
	}
}

func TestProgramsStartAndStop(t *testing.T) {
	t.Parallel()
	data, listen := t.TempDir(), testkit.FreePort(t)
	server := startProgram(t, "", []string{"STELLA_DATA=" + data, "STELLA_LISTEN=" + listen, "STELLA_HEARTBEAT_INTERVAL=1s", "STELLA_STALE_AFTER=5s"}, "stella", "server")
	cp := testkit.Attach(t, data, listen)
	if out := server.stdout.String(); !strings.Contains(out, "is ready at https://") || !strings.Contains(out, "admin.token") || strings.Contains(out, cp.AdminToken) {
		t.Errorf("the server printed:\n%s", out)
	}
	for line := range strings.Lines(server.stderr.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a log line is no JSON: %s", line)
		}
	}
	for name, mode := range map[string]os.FileMode{"admin.token": 0o600, "master.key": 0o600, "stella.db": 0o600, "ca.pem": 0o644} {
		info, err := os.Stat(filepath.Join(data, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}

	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(cp.Token()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]struct {
		stdin string
		env   []string
		args  []string
	}{
		"by-stdin": {stdin: cp.Token(), args: []string{"--token", "-"}},
		"by-file":  {args: []string{"--token-file", file}},
		"by-env":   {env: []string{"STELLA_BOOTSTRAP_TOKEN=" + cp.Token()}},
		"by-argv":  {args: []string{"--token=" + cp.Token()}},
	} {
		args := append([]string{"--register", "--server", cp.URL, "--data", filepath.Join(t.TempDir(), name), "--name", name, "--label", "a=b", "--group", "g"}, a.args...)
		agent := startProgram(t, a.stdin, a.env, "stella-agent", args...)
		got := cp.WaitOnline(name)
		if got.Labels["a"] != "b" || got.Group != "g" {
			t.Errorf("%s: %+v", name, got)
		}
		if took, err := agent.stop(t); err != nil || took > 10*time.Second {
			t.Errorf("%s ended after %s: %v\n%s", name, took, err, agent.stderr.String())
		}
	}
	// A bad token is refused with a reason, and a second agent keeps off the
	// folder of the first.
	bad := startProgram(t, "", nil, "stella-agent", "--register", "--token=reg_x", "--server", cp.URL, "--data", t.TempDir())
	if err := <-bad.done; err == nil || !strings.Contains(bad.stderr.String(), "token is incomplete") {
		t.Errorf("a broken token: %v %s", err, bad.stderr.String())
	}
	used := startProgram(t, "", nil, "stella-agent", "--register", "--token-file", file, "--server", cp.URL, "--data", t.TempDir())
	if err := <-used.done; err == nil || !strings.Contains(used.stderr.String(), "refused") {
		t.Errorf("a used token: %v %s", err, used.stderr.String())
	}
	none := startProgram(t, "", nil, "stella-agent", "run", "--data", t.TempDir())
	if err := <-none.done; err == nil || !strings.Contains(none.stderr.String(), "stella agent bootstrap") {
		t.Errorf("not registered: %v %s", err, none.stderr.String())
	}

	// With an agent connected and a log followed, SIGTERM still ends it soon.
	home := filepath.Join(t.TempDir(), "stays")
	startProgram(t, "", nil, "stella-agent", "--register", "--token="+cp.Token(), "--server", cp.URL, "--data", home, "--name", "stays")
	cp.WaitOnline("stays")
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "app", Kind: "host", Agent: "stays", Config: api.TargetConfig{Directory: filepath.Join(t.TempDir(), "app")}}); err != nil {
		t.Fatal(err)
	}
	id := submitCommand(t, cp, 60, "/bin/sh", "-c", "sleep 20")
	waitRunning(t, cp, id)
	following := make(chan struct{})
	go func() {
		defer close(following)
		for _, err := range cp.Client.FollowTaskLogs(t.Context(), id) {
			if err != nil {
				return
			}
		}
	}()
	if took, err := server.stop(t); err != nil || took > 10*time.Second {
		t.Errorf("the server ended after %s: %v\n%s", took, err, server.stderr.String())
	}
	second := startProgram(t, "", nil, "stella-agent", "run", "--data", home)
	if err := <-second.done; err == nil || !strings.Contains(second.stderr.String(), "another agent runs") {
		t.Errorf("a second agent in one folder: %v %s", err, second.stderr.String())
	}
}
