package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// process is a program that was started, with its output in a file.
type process struct {
	name  string
	log   string
	cmd   *exec.Cmd
	ended chan struct{}
}

// start starts a program of its own process group, so that a Ctrl-C that is
// meant for the demo does not end what the demo still needs to clean up.
func start(name, log string, env []string, program string, args ...string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, file, file
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // that it ended is all that matters; its log says why
		close(p.ended)
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop asks the process to end, and makes it when it does not.
func (p *process) stop(grace time.Duration) {
	terminate(p.cmd.Process.Pid)
	select {
	case <-p.ended:
		return
	case <-time.After(grace):
	}
	_ = p.cmd.Process.Kill() // fails when it has ended
	<-p.ended
}

// tail returns the last lines of a log.
func tail(log string, n int) []string {
	text, err := os.ReadFile(log)
	if err != nil {
		return nil
	}
	var lines []string
	for line := range bytes.Lines(text) {
		lines = append(lines, strings.TrimRight(string(line), "\r\n"))
	}
	return lines[max(0, len(lines)-n):]
}

// environment is the caller's, without what would configure Stella otherwise
// than is meant here.
func environment(more ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "STELLA_") {
			env = append(env, v)
		}
	}
	return append(env, more...)
}

// programs finds this program and the agent beside it.
func programs() (stella, agent string, err error) {
	if runtime.GOOS == "windows" {
		return "", "", errors.New("this needs a POSIX shell, which Windows does not have: run `stella server` and `stella-agent` by hand")
	}
	if stella, err = os.Executable(); err != nil {
		return "", "", fmt.Errorf("find this program: %w", err)
	}
	if real, err := filepath.EvalSymlinks(stella); err == nil {
		stella = real
	}
	agent = filepath.Join(filepath.Dir(stella), "stella-agent")
	if _, err := os.Stat(agent); err == nil {
		return stella, agent, nil
	}
	if agent, err = exec.LookPath("stella-agent"); err != nil {
		return "", "", fmt.Errorf("there is no stella-agent beside %s and none on the PATH: `make build` makes both", stella)
	}
	return stella, agent, nil
}

// freePort returns a port of the loopback address that nothing listens on.
func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("find a free port: no TCP address")
	}
	return addr.Port, nil
}
