// Package testkit runs a control plane and agents over real TLS for tests. It
// is never part of a program.
package testkit

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/server"
)

// ControlPlane is a server that runs in the test's process.
type ControlPlane struct {
	URL        string
	Data       string
	Listen     string
	AdminToken string
	CA         []byte
	// Client calls the API as an admin.
	Client *client.Client

	t      testing.TB
	log    *slog.Logger
	config server.Config
	stop   context.CancelFunc
	done   chan error
}

// ServerConfig is the configuration that tests begin with; change alters it.
func ServerConfig(data string) server.Config {
	return server.Config{
		Data: data, Listen: "127.0.0.1:0", TrustDomain: "test.stella", HeartbeatInterval: 2 * time.Second,
		StaleAfter: 10 * time.Second, DeadAfter: 10 * time.Second, TaskLease: 30 * time.Second, AgentCertLife: time.Hour,
	}
}

// StartServer starts a server with a fresh data folder and waits until it is
// ready. It is stopped when the test ends.
func StartServer(t testing.TB, change ...func(*server.Config)) *ControlPlane {
	t.Helper()
	return StartServerLogging(t, Logger(t, "server"), change...)
}

// StartServerLogging is StartServer with a log of the test's own.
func StartServerLogging(t testing.TB, log *slog.Logger, change ...func(*server.Config)) *ControlPlane {
	t.Helper()
	cfg := ServerConfig(t.TempDir())
	for _, c := range change {
		c(&cfg)
	}
	cp := &ControlPlane{t: t, log: log, config: cfg, Data: cfg.Data}
	cp.Start()
	t.Cleanup(func() {
		if err := cp.Stop(); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return cp
}

// Config is what the server was started with.
func (cp *ControlPlane) Config() server.Config { return cp.config }

// Change alters what the next Start starts the server with.
func (cp *ControlPlane) Change(change func(*server.Config)) { change(&cp.config) }

// Start starts the server, again after Stop, on the port that it had.
func (cp *ControlPlane) Start() {
	cp.t.Helper()
	if cp.Listen != "" {
		cp.config.Listen = cp.Listen
	}
	ctx, stop := context.WithCancel(context.Background())
	ready := make(chan string, 1)
	s := &server.Server{Config: cp.config, Log: cp.log, Out: io.Discard, Ready: func(base string) { ready <- base }, CASettle: time.Nanosecond}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	cp.stop, cp.done = stop, done
	select {
	case cp.URL = <-ready:
	case err := <-done:
		stop()
		cp.t.Fatalf("the server did not start: %v", err)
	case <-time.After(30 * time.Second):
		stop()
		cp.t.Fatal("the server did not start within 30 s")
	}
	cp.Listen = strings.TrimPrefix(cp.URL, "https://")
	// Unless a test needs another address of this machine, as containers do.
	asked, _, _ := net.SplitHostPort(cp.config.Listen)
	if ip := net.ParseIP(asked); ip == nil || ip.IsLoopback() || ip.IsUnspecified() {
		if _, port, err := net.SplitHostPort(cp.Listen); err == nil {
			cp.Listen = "127.0.0.1:" + port
			cp.URL = "https://" + cp.Listen
		}
	}
	if cp.CA == nil {
		cp.CA = cp.read("ca.pem")
		cp.AdminToken = strings.TrimSpace(string(cp.read("admin.token")))
	}
	var err error
	if cp.Client, err = client.New(client.Options{URL: cp.URL, Token: cp.AdminToken, CACert: cp.CA}); err != nil {
		cp.t.Fatal(err)
	}
}

// Reload takes the roots that the server is known by now: its authority may
// have changed.
func (cp *ControlPlane) Reload() {
	cp.t.Helper()
	Eventually(cp.t, 20*time.Second, "the server's roots to be in its folder", func() (bool, string) {
		cp.CA = cp.read("ca.pem")
		c, err := client.New(client.Options{URL: cp.URL, Token: cp.AdminToken, CACert: cp.CA})
		if err != nil {
			cp.t.Fatal(err)
		}
		if err := c.Health(cp.t.Context()); err != nil {
			c.Close()
			return false, err.Error()
		}
		cp.Client.Close()
		cp.Client = c
		return true, ""
	})
}

func (cp *ControlPlane) read(name string) []byte {
	cp.t.Helper()
	data, err := os.ReadFile(filepath.Join(cp.Data, name))
	if err != nil {
		cp.t.Fatal(err)
	}
	return data
}

// Stop stops the server and waits until it has; it is idempotent.
func (cp *ControlPlane) Stop() error {
	if cp.stop == nil {
		return nil
	}
	cp.Client.Close()
	cp.stop()
	cp.stop = nil
	select {
	case err := <-cp.done:
		return err
	case <-time.After(10 * time.Second):
		return fmt.Errorf("it did not stop within 10 s")
	}
}

// Token makes a one-time registration token.
func (cp *ControlPlane) Token(change ...func(*api.RegistrationTokenRequest)) string {
	cp.t.Helper()
	var req api.RegistrationTokenRequest
	for _, c := range change {
		c(&req)
	}
	tok, err := cp.Client.CreateRegistrationToken(cp.t.Context(), req)
	if err != nil {
		cp.t.Fatalf("make a token: %v", err)
	}
	return tok.Token
}

// WaitTask waits until a task is over and returns it.
func (cp *ControlPlane) WaitTask(id string, within time.Duration) *api.Task {
	cp.t.Helper()
	var last *api.Task
	Eventually(cp.t, within, "task "+id+" to end", func() (bool, string) {
		t, err := cp.Client.Task(cp.t.Context(), id)
		if err != nil {
			return false, err.Error()
		}
		last = t
		return t.State.Final(), string(t.State) + " " + t.Reason
	})
	return last
}

// Eventually asks again and again until ok, and fails the test with the last
// answer when the time is over.
func Eventually(t testing.TB, within time.Duration, what string, ask func() (ok bool, last string)) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, last := ask()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s; last: %s", within, what, last)
		}
		<-tick.C
	}
}

// Logger returns a logger that writes to the test's log while the test runs.
func Logger(t testing.TB, name string) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(w.close)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})).With("of", name)
}

// Attach waits until a server that runs elsewhere is ready and returns a
// control plane for it; nothing is stopped when the test ends.
func Attach(t testing.TB, data, listen string) *ControlPlane {
	t.Helper()
	cp := &ControlPlane{t: t, Data: data, Listen: listen, URL: "https://" + listen}
	Eventually(t, 30*time.Second, "the server at "+listen, func() (bool, string) {
		token, err1 := os.ReadFile(filepath.Join(data, "admin.token"))
		ca, err2 := os.ReadFile(filepath.Join(data, "ca.pem"))
		if err1 != nil || err2 != nil {
			return false, "it has not made its files"
		}
		cp.CA, cp.AdminToken = ca, strings.TrimSpace(string(token))
		var err error
		if cp.Client, err = client.New(client.Options{URL: cp.URL, Token: cp.AdminToken, CACert: ca}); err != nil {
			return false, err.Error()
		}
		if err = cp.Client.Ready(t.Context()); err != nil {
			return false, err.Error()
		}
		return true, ""
	})
	return cp
}

// FreePort returns a loopback address that nothing listens on now.
func FreePort(t testing.TB) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
