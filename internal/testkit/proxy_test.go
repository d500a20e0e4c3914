package testkit_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// fate is what a proxy does with a connection.
type fate int

const (
	pass    fate = iota
	refuse       // it is closed
	stall        // it is taken, and nothing comes of it
	breakUp      // it is closed a moment later, whatever it carries
)

// moment is after how long a connection breaks.
const moment = 300 * time.Millisecond

// proxy is between agents and a server: it sees what a TLS client offers to
// speak, and passes the bytes on, or does not.
type proxy struct {
	t    *testing.T
	addr string
	to   string

	mu    sync.Mutex
	rule  func(offers []string) fate
	conns map[net.Conn]bool
	ended bool
	// down is how much came from the server; when it has come to cutAfter,
	// everything is cut, once.
	down, cutAfter int64
	work           sync.WaitGroup
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, addr: l.Addr().String(), to: to, rule: func([]string) fate { return pass }, conns: map[net.Conn]bool{}}
	p.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.cut()
		p.work.Wait()
	})
	return p
}

// becomes changes what the proxy does, and breaks what there is.
func (p *proxy) becomes(rule func(offers []string) fate) {
	p.mu.Lock()
	p.rule = rule
	p.mu.Unlock()
	p.cut()
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// hold keeps a connection for cut; the caller gives it back.
func (p *proxy) hold(conn net.Conn) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		_ = conn.Close()
	}
	p.conns[conn] = true
	return func() {
		_ = conn.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, conn)
	}
}

func (p *proxy) serve(conn net.Conn) {
	defer p.hold(conn)()
	hello, offers := clientHello(conn)
	p.mu.Lock()
	rule := p.rule
	p.mu.Unlock()
	switch rule(offers) {
	case refuse:
		return
	case stall:
		_, _ = io.Copy(io.Discard, conn) // until it is closed
		return
	case breakUp:
		late := time.AfterFunc(moment, func() { _ = conn.Close() })
		defer late.Stop()
	case pass:
	}
	p.pipe(conn, io.MultiReader(hello, conn))
}

// pipe joins a connection, from which in reads, with the server.
func (p *proxy) pipe(conn net.Conn, in io.Reader) {
	up, err := net.DialTimeout("tcp", p.to, linkPatience)
	if err != nil {
		return // the server is away
	}
	defer p.hold(up)()
	p.work.Go(func() {
		_, _ = io.Copy(up, in) // it ends when either side does
		_ = up.Close()
		_ = conn.Close()
	})
	_, _ = io.Copy(conn, metered{up, p})
}

// metered tells a proxy what comes from the server.
type metered struct {
	net.Conn
	p *proxy
}

func (m metered) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.p.mu.Lock()
	m.p.down += int64(n)
	cut := m.p.cutAfter > 0 && m.p.down >= m.p.cutAfter
	if cut {
		m.p.cutAfter = 0
	}
	m.p.mu.Unlock()
	if cut {
		m.p.cut()
	}
	return n, err
}

// clientHello reads what a TLS client begins with, and what it offers to speak.
func clientHello(conn net.Conn) (read io.Reader, offers []string) {
	var seen bytes.Buffer
	_ = tls.Server(peeked{conn, io.TeeReader(conn, &seen)}, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			offers = hello.SupportedProtos
			return nil, errors.New("seen enough")
		},
	}).Handshake() // it is not to succeed
	return &seen, offers
}

// peeked is a connection that is only read.
type peeked struct {
	net.Conn
	in io.Reader
}

func (p peeked) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p peeked) Write(b []byte) (int, error) { return len(b), nil }

// upgrades tells a WebSocket's client: it cannot do with HTTP/2.
func upgrades(offers []string) bool { return !slices.Contains(offers, "h2") }

// Whatever a proxy breaks, the agent finds a way, works over it, and goes back
// to the best one when the proxy has come to its senses.
func TestAgentBehindABadProxy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rule func(offers []string) fate
		ends string // the carrier that is left
	}{
		"no upgrades": {func(offers []string) fate {
			if upgrades(offers) {
				return refuse
			}
			return pass
		}, "grpc"},
		"stalls": {func(offers []string) fate {
			if upgrades(offers) {
				return stall
			}
			return pass
		}, "grpc"},
		"no streams": {func([]string) fate { return breakUp }, "poll"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cp := testkit.StartServer(t)
			p := startProxy(t, cp.Listen)
			startImpatient(t, cp, "https://"+p.addr)
			a := cp.WaitOnline("web")
			if a.Transport != "websocket" {
				t.Fatalf("before: %s", a.Transport)
			}
			_, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{
				Name: "app", Kind: "host", Agent: "web", Config: api.TargetConfig{Directory: t.TempDir()},
			})
			if err != nil {
				t.Fatal(err)
			}
			p.becomes(c.rule)
			meanwhile := submitCommand(t, cp, 60, "true")
			becomes(t, cp, c.ends)
			for _, id := range []string{meanwhile, submitCommand(t, cp, 60, "true")} {
				if k := cp.WaitTask(id, 20*time.Second); k.State != api.TaskSucceeded {
					t.Errorf("%s %s", k.State, k.Reason)
				}
			}
			p.becomes(func([]string) fate { return pass })
			becomes(t, cp, "websocket")
			if k := cp.WaitTask(submitCommand(t, cp, 60, "true"), 20*time.Second); k.State != api.TaskSucceeded {
				t.Errorf("%s %s", k.State, k.Reason)
			}
		})
	}
}

// startImpatient starts an agent that tries in seconds what takes minutes
// otherwise.
func startImpatient(t *testing.T, cp *testkit.ControlPlane, url string) {
	t.Helper()
	run := &agent.Agent{
		Config: agent.Config{
			Data: t.TempDir(), Server: url, Name: "web", MaxConcurrentTasks: 5, Transport: "auto",
			ReconnectBackoff: 50 * time.Millisecond, MaxReconnectAttempts: 10, PollInterval: 50 * time.Millisecond, DrainTimeout: 5 * time.Second,
		},
		Pace: agent.Pace{Handshake: time.Second, LesserFirst: 3 * time.Second, Steady: 5 * time.Second},
		Log:  testkit.Logger(t, "agent web"), Token: cp.Token(),
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- run.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
	})
}

// becomes waits until the agent is seen to be connected in some way, and not
// only by what it said last before it changed.
func becomes(t *testing.T, cp *testkit.ControlPlane, transport string) {
	t.Helper()
	const settled = 1500 * time.Millisecond
	since := time.Time{}
	testkit.Eventually(t, time.Minute, "the agent to be connected by "+transport, func() (bool, string) {
		a, err := cp.Client.Agent(t.Context(), "web")
		if err != nil {
			return false, err.Error()
		}
		if a.Transport != transport || a.Status != api.StatusOnline {
			since = time.Time{}
		} else if since.IsZero() {
			since = time.Now()
		}
		return !since.IsZero() && time.Since(since) >= settled, string(a.Status) + " " + a.Transport
	})
}

// The proxy that a company's machines are told of: each carrier asks it, and
// nothing goes around it.
func TestAgentThroughAnHTTPProxy(t *testing.T) {
	t.Parallel()
	// The name is one that only the proxy knows: loopback addresses are never
	// asked of a proxy.
	listen := testkit.FreePort(t)
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		t.Fatal(err)
	}
	address := "stella.example:" + port
	cp := testkit.StartServer(t, func(c *server.Config) { c.Listen, c.Advertise = listen, "https://"+address })
	p := startConnectProxy(t, cp.Listen)
	for _, transport := range []string{"websocket", "grpc", "poll"} {
		t.Run(transport, func(t *testing.T) {
			name := "by-" + transport
			before := p.count(address)
			startProgram(t, cp.Token(), []string{"HTTPS_PROXY=http://" + p.addr}, "stella-agent", "--register", "--token", "-",
				"--server", "https://"+address, "--data", t.TempDir(), "--name", name, "--transport", transport, "--poll-interval", "100ms")
			if a := cp.WaitOnline(name); a.Transport != transport {
				t.Errorf("connected by %s", a.Transport)
			}
			_, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{
				Name: "app", Kind: "host", Agent: name, Config: api.TargetConfig{Directory: t.TempDir()},
			})
			if err != nil {
				t.Fatal(err)
			}
			if k := cp.WaitTask(submitCommand(t, cp, 60, "true"), 20*time.Second); k.State != api.TaskSucceeded {
				t.Errorf("%s %s", k.State, k.Reason)
			}
			if err := cp.Client.DeleteTarget(t.Context(), "app"); err != nil {
				t.Fatal(err)
			}
			if n := p.count(address) - before; n < 2 { // one to register, and one for the link
				t.Errorf("the proxy was asked for %d connections", n)
			}
		})
	}
}

// connectProxy is an HTTP proxy that knows CONNECT.
type connectProxy struct {
	*proxy
	asked map[string]int
}

func (p *connectProxy) count(address string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[address]
}

func startConnectProxy(t *testing.T, to string) *connectProxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &connectProxy{proxy: &proxy{t: t, addr: l.Addr().String(), to: to, conns: map[net.Conn]bool{}}, asked: map[string]int{}}
	srv := &http.Server{ReadHeaderTimeout: linkPatience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked[r.Host]++
		p.mu.Unlock()
		if r.Method != http.MethodConnect || !strings.HasPrefix(r.Host, "stella.example:") {
			http.Error(w, "not by this proxy", http.StatusForbidden)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer p.hold(conn)()
		if _, err := fmt.Fprint(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err == nil {
			p.pipe(conn, rw.Reader)
		}
	})}
	p.work.Go(func() { _ = srv.Serve(l) }) // until it is closed
	t.Cleanup(func() {
		_ = srv.Close()
		p.cut()
		p.work.Wait()
	})
	return p
}
