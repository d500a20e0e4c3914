package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"stella-ops.org/stella/client"
)

// env holds what the measurements share: a folder, and the programs.
type env struct {
	dir   string
	procs []*exec.Cmd
}

func newEnv() (*env, error) {
	for _, p := range []string{"bin/stella", "bin/stella-agent"} {
		if _, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("%s is missing: run `make bench`, or `make build` first", p)
		}
	}
	dir, err := os.MkdirTemp("", "stella-bench-")
	return &env{dir: dir}, err
}

func (e *env) close() {
	for _, p := range slices.Backward(e.procs) {
		stopProcess(p)
	}
	_ = os.RemoveAll(e.dir) // a folder for temporary files
}

func stopProcess(cmd *exec.Cmd) {
	if cmd.ProcessState != nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // gone already otherwise
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		<-done
	}
}

// start starts a program with its output in a file.
func (e *env) start(ctx context.Context, name, program string, extraEnv []string, args ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(e.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), extraEnv...)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	e.procs = append(e.procs, cmd)
	return cmd, nil
}

// control is a server process with a client for it.
type control struct {
	env   *env
	name  string
	addr  string
	url   string
	data  string
	cmd   *exec.Cmd
	ca    []byte
	token string
	api   *client.Client
}

// server starts a server with a data folder of its own.
func (e *env) server(ctx context.Context, name string) (*control, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	c := &control{env: e, name: name, addr: addr, url: "https://" + addr, data: filepath.Join(e.dir, name)}
	return c, c.start(ctx)
}

// start starts the process, with the settings that a user begins with, and
// waits until it is ready.
func (c *control) start(ctx context.Context) (err error) {
	c.cmd, err = c.env.start(ctx, c.name, "bin/stella", nil, "server", "--data", c.data, "--listen", c.addr, "--advertise", c.url, "--log-level", "warn")
	if err != nil {
		return err
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		token, err1 := os.ReadFile(filepath.Join(c.data, "admin.token"))
		ca, err2 := os.ReadFile(filepath.Join(c.data, "ca.pem"))
		if err1 == nil && err2 == nil {
			c.ca, c.token = ca, strings.TrimSpace(string(token))
			if c.api, err = client.New(client.Options{URL: c.url, Token: c.token, CACert: ca}); err == nil && c.api.Ready(ctx) == nil {
				return nil
			}
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(c.env.dir, c.name+".log"))
			return fmt.Errorf("the server was not ready within 20 s:\n%s", log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *control) stop() { stopProcess(c.cmd) }

// restart stops the process and starts another one with the same data.
func (c *control) restart(ctx context.Context) error {
	c.stop()
	return c.start(ctx)
}

// rss returns a process's resident memory in bytes.
func rss(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			return kb << 10, nil
		}
	}
	return 0, errors.New("no VmRSS in the process's status")
}
