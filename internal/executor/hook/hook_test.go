//go:build unix

package hook_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/hook"
)

type lines struct {
	mu   sync.Mutex
	seen []string
}

func (l *lines) Line(stream, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, stream+": "+text)
}

func (*lines) Phase(string, string) {}

func sh(script string) hook.Command {
	return hook.Command{Argv: []string{"sh", "-c", script}, Env: hook.Environ()}
}

func TestOutputAndExitCode(t *testing.T) {
	t.Parallel()
	l := &lines{}
	res, err := hook.Run(t.Context(), sh("echo one; echo two; printf three; exit 5"), l)
	if err != nil || res.ExitCode != 5 {
		t.Fatalf("%+v, %v", res, err)
	}
	if diff := cmp.Diff([]string{"stdout: one", "stdout: two", "stdout: three"}, l.seen); diff != "" {
		t.Error(diff)
	}
	l = &lines{}
	if _, err := hook.Run(t.Context(), sh("echo oops >&2"), l); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"stderr: oops"}, l.seen); diff != "" {
		t.Error(diff)
	}
}

func TestLongLineIsCut(t *testing.T) {
	t.Parallel()
	l := &lines{}
	w := hook.NewLines(l, "stdout")
	for range 3 {
		fmt.Fprint(w, strings.Repeat("x", hook.MaxLine/2))
	}
	fmt.Fprint(w, "\r\nnext \xff line")
	_ = w.Close()
	if len(l.seen) != 2 || !strings.HasSuffix(l.seen[0], fmt.Sprintf("… (%d bytes of this line are left out)", hook.MaxLine/2+len("\r"))) {
		t.Fatalf("%d lines: %.100s", len(l.seen), l.seen)
	}
	if l.seen[1] != "stdout: next \uFFFD line" {
		t.Errorf("%q", l.seen[1])
	}
}

// TestEnvironmentIsMinimal: the agent's own environment does not reach a hook.
func TestEnvironmentIsMinimal(t *testing.T) {
	t.Setenv("STELLA_TEST_SECRET", "hunter2")
	l := &lines{}
	h := &api.Hook{Command: []string{"env"}, Environment: map[string]string{"A": "hook", "B": "2"}}
	if err := hook.Do(t.Context(), h, "", map[string]string{"A": "1"}, api.ErrPreHookFailed, l); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(l.seen, "\n")
	for _, want := range []string{"A=hook", "B=2", "PATH="} {
		if !strings.Contains(all, want) {
			t.Errorf("%s is not in the environment:\n%s", want, all)
		}
	}
	if strings.Contains(all, "hunter2") {
		t.Errorf("the agent's environment reached the hook:\n%s", all)
	}
}

// TestTimeoutEndsTheGroup: nothing that a hook started lives on.
func TestTimeoutEndsTheGroup(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(c hook.Command) error{
		"timeout": func(c hook.Command) error {
			c.Timeout = 500 * time.Millisecond
			_, err := hook.Run(t.Context(), c, &lines{})
			return err
		},
		"cancel": func(c hook.Command) error {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, deploy.ErrCancelled)
			defer cancel()
			_, err := hook.Run(ctx, c, &lines{})
			return err
		},
	} {
		pidFile := filepath.Join(t.TempDir(), "pid")
		began := time.Now()
		err := start(sh("sleep 600 & echo $! > " + pidFile + "; wait"))
		if err == nil || time.Since(began) > 10*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(began))
		}
		data, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); alive(pid); {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the hook's child %d lives on", name, pid)
			}
		}
	}
}

// alive says whether a process runs; one that only waits to be reaped does
// not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !os.IsNotExist(err) && fileExists("/proc/self/stat")
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestHeldOutput: a child that keeps the output open does not hang the hook.
func TestHeldOutput(t *testing.T) {
	t.Parallel()
	began := time.Now()
	res, err := hook.Run(t.Context(), sh("sleep 30 & echo started"), &lines{})
	if err != nil || res.ExitCode != 0 || time.Since(began) > 15*time.Second {
		t.Errorf("%+v, %v after %v", res, err, time.Since(began))
	}
}

func TestNoSuchProgram(t *testing.T) {
	t.Parallel()
	if _, err := hook.Run(t.Context(), hook.Command{Argv: []string{"no-such-program"}}, &lines{}); err == nil {
		t.Error("no error")
	}
	if _, err := hook.Run(t.Context(), hook.Command{}, &lines{}); err == nil {
		t.Error("no error without a command")
	}
}

// TestMarks: what bears a mark is found and ended, by force if it must.
func TestMarks(t *testing.T) {
	t.Parallel()
	if !fileExists("/proc/self/environ") {
		t.Skip("processes' environments cannot be read here")
	}
	id, deaf := fmt.Sprint(time.Now().UnixNano()), filepath.Join(t.TempDir(), "deaf")
	c := sh(`trap '' TERM; : > "$DEAF"; while :; do sleep 600; done`)
	c.Env = hook.Environ(map[string]string{hook.OfRelease: id, "DEAF": deaf})
	done := make(chan error, 1)
	go func() {
		_, err := hook.Run(t.Context(), c, &lines{})
		done <- err
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !fileExists(deaf); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the marked process did not begin")
		}
	}
	if hook.EndMarked(t.Context(), hook.OfRelease, id, 100*time.Millisecond) == 0 {
		t.Fatal("the marked process was not found")
	}
	if err := <-done; err != nil {
		t.Fatal(err) // that it was ended is its exit code's to say
	}
}
