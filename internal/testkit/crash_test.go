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
	"strings"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
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
		if err := limitFiles(r.FileLimit); err != nil {
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
			_ = kill(os.Getpid())
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

func spawn(t *testing.T, name string, r role, env ...string) *process {
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
	p.cmd.Env = append(append(os.Environ(), env...), roleVariable+"="+string(data))
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
