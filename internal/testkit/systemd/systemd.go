//go:build linux

// Package systemd starts containers for tests that are like hosts: Debian,
// booted by systemd, with nothing of Stella. What is installed in one, and what
// it does to the host, can be seen as on a machine, and goes with the test.
//
// It is for tests alone, and knows nothing of what is installed.
package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/internal/testkit/peers"
)

// How long a boot may take, and a command in the container.
const (
	bootTime    = time.Minute
	commandTime = 2 * time.Minute
)

// Options choose what a host is like.
type Options struct {
	// Docker are more flags of docker run.
	Docker []string
	// Bare is a host on which no service manager runs, as in most containers.
	Bare bool
}

// Host is a container that has booted. Its methods may be called at the same
// time, all but Restart.
type Host struct {
	// Container is its name in the engine.
	Container string

	t       testing.TB
	engine  string
	gateway string
}

// Start starts a host and waits until it has booted. It ends with the test.
func Start(t testing.TB, o Options) *Host {
	t.Helper()
	h := &Host{t: t, engine: peers.Docker(t)}
	image := peers.Systemd(t)
	args := append([]string{"run", "--detach", "--label", "stella.test=1"}, h.flags()...)
	args = append(args, o.Docker...)
	args = append(args, image)
	if o.Bare {
		args = append(slices.Insert(args, 1, "--init"), "sleep", "infinity")
	}
	out, err := h.docker(t.Context(), args...)
	if err != nil {
		t.Fatalf("start a host: %v: %s", err, out)
	}
	h.Container = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if t.Failed() {
			h.explain()
		}
		if out, err := h.docker(context.WithoutCancel(t.Context()), "rm", "--force", "--volumes", h.Container); err != nil {
			t.Errorf("remove the host %s: %v: %s", h.Container, err, out)
		}
	})
	out, err = h.docker(t.Context(), "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", h.Container)
	if err != nil {
		t.Fatalf("ask for the address of this machine: %v: %s", err, out)
	}
	h.gateway = strings.TrimSpace(string(out))
	if !o.Bare {
		h.await()
	}
	return h
}

// flags are what systemd needs to be the first process: file systems of its
// own, and its part of the control groups. How it gets the latter depends on
// their version. It is far from privileged: it may mount, within.
func (h *Host) flags() []string {
	h.t.Helper()
	out, err := h.docker(h.t.Context(), "info", "--format", "{{.CgroupVersion}}")
	if err != nil {
		h.t.Fatalf("ask the engine for its control groups: %v: %s", err, out)
	}
	flags := []string{
		"--stop-signal", "SIGRTMIN+3", "--cap-add", "SYS_ADMIN",
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp",
	}
	if strings.TrimSpace(string(out)) == "1" {
		return append(flags, "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:ro", "--volume", "/sys/fs/cgroup/systemd:/sys/fs/cgroup/systemd:rw")
	}
	return append(flags, "--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw")
}

// Host is the address at which the container sees this machine: what listens
// there, or everywhere, can be reached from it; loopback cannot. Empty with
// --network host, where loopback is the same.
func (h *Host) Host() string { return h.gateway }

// Exec runs a command as root and waits for its end. It returns what it wrote
// to both outputs, in no order between them, and its exit code; a test fails when
// it cannot be run at all, or takes minutes.
func (h *Host) Exec(t testing.TB, command ...string) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	out, err := h.docker(ctx, append([]string{"exec", h.Container}, command...)...)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%q does not end: %s", command, out)
	case errors.As(err, &exit):
		return string(out), exit.ExitCode()
	case err != nil:
		t.Fatalf("run %q: %v: %s", command, err, out)
	}
	return string(out), 0
}

// Must runs a command that has to succeed, and returns what it wrote.
func (h *Host) Must(t testing.TB, command ...string) string {
	t.Helper()
	out, code := h.Exec(t, command...)
	if code != 0 {
		t.Fatalf("%q ended with %d: %s", command, code, out)
	}
	return out
}

// Copy puts a file or a folder of this machine into a folder of the container,
// where it is root's, and returns its path there.
func (h *Host) Copy(t testing.TB, file, folder string) string {
	t.Helper()
	h.Must(t, "mkdir", "-p", folder)
	// docker cp does not see what is mounted in the container, as /tmp is.
	tar := exec.CommandContext(t.Context(), "tar", "--create", "--owner", "0", "--group", "0", "--directory", filepath.Dir(file), "--", filepath.Base(file))
	into := exec.CommandContext(t.Context(), "docker", "--host", h.engine, "exec", "--interactive", h.Container, "tar", "--extract", "--directory", folder)
	var said, answered bytes.Buffer // each has a goroutine of its own
	tar.Stderr, into.Stderr = &said, &answered
	var err error
	if into.Stdin, err = tar.StdoutPipe(); err == nil {
		if err = tar.Start(); err == nil {
			err = errors.Join(into.Run(), tar.Wait())
		}
	}
	if err != nil {
		t.Fatalf("copy %s into a host: %v: %s%s", file, err, said.Bytes(), answered.Bytes())
	}
	return filepath.Join(folder, filepath.Base(file))
}

// Restart boots the host again: its processes end as at a shutdown, and what
// was in memory (/run, /tmp) is gone. It returns when it has booted.
func (h *Host) Restart(t testing.TB) {
	t.Helper()
	if out, err := h.docker(t.Context(), "restart", "--time", "30", h.Container); err != nil {
		t.Fatalf("restart a host: %v: %s", err, out)
	}
	h.await()
}

// await waits for the end of the boot. A unit that has failed ("degraded") is
// for the test to find, or not.
func (h *Host) await() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), bootTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		// --wait waits for the end of the boot, once systemd can be asked at all.
		out, _ := h.docker(ctx, "exec", h.Container, "systemctl", "is-system-running", "--wait")
		switch state := strings.TrimSpace(string(out)); state {
		case "running", "degraded":
			return
		default:
			select {
			case <-ctx.Done():
				h.t.Fatalf("a host does not boot: %s", state)
			case <-tick.C:
			}
		}
	}
}

// explain shows what a failed test's host has to say.
func (h *Host) explain() {
	out, err := h.docker(context.WithoutCancel(h.t.Context()), "exec", h.Container, "journalctl", "--no-pager", "--lines", "60", "--output", "short-monotonic")
	if err != nil {
		out, _ = h.docker(context.WithoutCancel(h.t.Context()), "logs", "--tail", "60", h.Container)
	}
	h.t.Logf("the end of the journal of the host:\n%s", out)
}

func (h *Host) docker(ctx context.Context, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "docker", append([]string{"--host", h.engine}, args...)...).CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return out, err
}
