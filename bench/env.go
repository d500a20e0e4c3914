package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
	url   string
	data  string
	cmd   *exec.Cmd
	ca    []byte
	token string
	api   *client.Client
}

func (e *env) server(ctx context.Context, name string) (*control, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	c := &control{url: "https://" + addr, data: filepath.Join(e.dir, name)}
	c.cmd, err = e.start(ctx, name, "bin/stella", nil, "server", "--data", c.data, "--listen", addr, "--advertise", c.url, "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		token, err1 := os.ReadFile(filepath.Join(c.data, "admin.token"))
		ca, err2 := os.ReadFile(filepath.Join(c.data, "ca.pem"))
		if err1 == nil && err2 == nil {
			c.ca, c.token = ca, strings.TrimSpace(string(token))
			if c.api, err = client.New(client.Options{URL: c.url, Token: c.token, CACert: ca}); err == nil && c.api.Ready(ctx) == nil {
				return c, nil
			}
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(e.dir, name+".log"))
			return nil, fmt.Errorf("the server was not ready within 20 s:\n%s", log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// http returns a client that trusts the server; fresh makes a connection for
// each request, as each agent does for its registration.
func (c *control) http(fresh bool, certs ...tls.Certificate) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.ca)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: certs, MinVersion: tls.VersionTLS13},
		DisableKeepAlives: fresh, ForceAttemptHTTP2: !fresh,
	}}
}

// machine describes where the figures come from.
func machine() string {
	cpu, mem := "unknown processor", ""
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == "model name" {
				cpu = strings.TrimSpace(v)
				break
			}
		}
	}
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kb int64
		if _, err := fmt.Sscanf(string(data), "MemTotal: %d kB", &kb); err == nil {
			mem = fmt.Sprintf(", %.0f GiB memory", float64(kb)/(1<<20))
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, %d cores%s, %s/%s, kernel %s, %s; the load comes from the same machine",
		cpu, runtime.NumCPU(), mem, runtime.GOOS, runtime.GOARCH, strings.TrimSpace(string(kernel)), runtime.Version())
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
