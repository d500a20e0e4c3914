package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/agent/command"
	"stella-ops.org/stella/internal/agent/journal"
	"stella-ops.org/stella/internal/agent/link"
)

// newLoop is a connector over carriers, and over a journal that may be nil.
func newLoop(t *testing.T, log *slog.Logger, j *journal.Journal, carriers ...link.Carrier) *connector {
	cfg := Config{Data: t.TempDir(), ReconnectBackoff: 10 * time.Millisecond, MaxConcurrentTasks: 1, DrainTimeout: time.Minute}
	return &connector{
		id:     &identity{},
		follow: func(string, time.Duration, bool) {},
		agent:  &Agent{Config: cfg, Log: log, capabilities: &capabilities{log: log}, boot: &boot{}},
		run:    newRunner(nil, j, cfg.Data, 1, log), commands: command.NewRunner("", nil, anew, log),
		log: log, beat: make(chan struct{}, 1), carriers: carriers,
	}
}

// managed is a connector over a real journal that is supervised by the test, in the
// place of systemd.
type managed struct {
	*connector
	t      *testing.T
	socket *net.UnixConn
	way    *way
	stop   context.CancelFunc
	done   chan struct{} // closed when the connector and the supervision have ended
	sup    *supervision
}

// newManaged starts one, whose link's way works or does not. The watchdog is to be
// served every 10 ms.
func newManaged(t *testing.T, works bool) *managed {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", "")
	m := &managed{t: t, socket: socket, done: make(chan struct{})}
	j, err := journal.Open(filepath.Join(t.TempDir(), journalFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	m.way = &way{name: "best", works: works, log: new([]string), mu: new(sync.Mutex)}
	m.connector = newLoop(t, slog.New(slog.DiscardHandler), j, m.way)
	m.sup = newSupervision(m.agent, m.connector)
	var ctx context.Context
	ctx, m.stop = context.WithCancel(t.Context())
	var parts sync.WaitGroup
	parts.Go(func() { _ = m.sup.Run(ctx) })
	parts.Go(func() { _ = m.Run(ctx) })
	go func() { defer close(m.done); defer close(m.sup.ended); parts.Wait() }()
	t.Cleanup(func() { m.stop(); <-m.done })
	return m
}

// hear returns what is told next, or is empty when nothing is for that long.
func (m *managed) hear(within time.Duration) string {
	m.t.Helper()
	if err := m.socket.SetReadDeadline(time.Now().Add(within)); err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := m.socket.Read(buf)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		m.t.Fatal(err)
	}
	return string(buf[:n])
}

// waitFor waits until something is told that has all of the texts in it.
func (m *managed) waitFor(texts ...string) {
	m.t.Helper()
	var heard []string
	for patience := time.Now().Add(10 * time.Second); time.Now().Before(patience); {
		told := m.hear(10 * time.Second)
		all := true
		for _, text := range texts {
			all = all && strings.Contains(told, text)
		}
		if all {
			return
		}
		if told != "WATCHDOG=1" {
			heard = append(heard, told)
		}
	}
	m.t.Fatalf("%q was not told; %q was", texts, heard)
}

// silence waits until nothing is told any more for a while.
func (m *managed) silence() {
	m.t.Helper()
	for patience := time.Now().Add(20 * time.Second); ; {
		if m.hear(time.Second) == "" {
			return
		}
		if time.Now().After(patience) {
			m.t.Fatal("the watchdog is still served")
		}
	}
}

func TestServiceManagerHears(t *testing.T) {
	m := newManaged(t, false)
	// The server is away, and the agent is ready all the same.
	if first := m.hear(10 * time.Second); !strings.HasPrefix(first, "READY=1\nSTATUS=") {
		t.Errorf("told first: %q", first)
	}
	m.waitFor("STATUS=offline, tries again: it does not get through")
	m.waitFor("WATCHDOG=1")
	m.way.mu.Lock()
	m.way.works = true
	m.way.mu.Unlock()
	m.waitFor("STATUS=online over best")
	m.waitFor("WATCHDOG=1")

	// What runs may take its time to end, and the watchdog is served meanwhile.
	end := make(chan struct{})
	m.run.wg.Go(func() { <-end })
	m.stop()
	m.waitFor("STOPPING=1", "EXTEND_TIMEOUT_USEC=70000000", "STATUS=stops")
	m.waitFor("WATCHDOG=1")
	m.waitFor("WATCHDOG=1")
	close(end)
	<-m.done
	m.silence()
}

// Whatever of the agent is stuck, the watchdog is not served until it is not.
func TestWatchdogOfAStuckAgent(t *testing.T) {
	for _, c := range []struct {
		name  string
		stick func(*managed)
		free  func(*managed)
	}{
		{"runner", func(m *managed) { m.run.mu.Lock() }, func(m *managed) { m.run.mu.Unlock() }},
		{"journal", func(m *managed) { _ = m.run.journal.Close() }, nil}, // of which there is no way back
		{"link", func(m *managed) {
			m.agent.capabilities.mu.Lock() // which heartbeats need
			m.beatNow()
			for len(m.beat) > 0 { // until the loop has taken that up
				runtime.Gosched()
			}
			m.pulse.mu.Lock()
			m.pulse.due = time.Now().Add(-time.Second)
			m.pulse.mu.Unlock()
		}, func(m *managed) { m.agent.capabilities.mu.Unlock() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newManaged(t, true)
			m.waitFor("STATUS=online")
			m.waitFor("WATCHDOG=1")
			c.stick(m)
			if c.free == nil {
				m.silence()
				return
			}
			free := sync.OnceFunc(func() { c.free(m) })
			t.Cleanup(free) // a stuck agent does not end
			m.silence()
			free()
			m.waitFor("WATCHDOG=1")
		})
	}
}

func TestNobodySupervises(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	ctx, stop := context.WithCancel(t.Context())
	s := &supervision{}
	stop()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestPulse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p pulse
		if err := p.check(); err != nil {
			t.Errorf("a loop that has not begun: %v", err)
		}
		p.beat(time.Hour)
		time.Sleep(time.Hour + turnMost) //nolint:forbidigo // the bubble's clock
		if err := p.check(); err != nil {
			t.Errorf("a loop that waits: %v", err)
		}
		time.Sleep(3 * time.Second) //nolint:forbidigo // the bubble's clock
		if err := p.check(); err == nil || !strings.Contains(err.Error(), "3s") {
			t.Errorf("a loop that is late: %v", err)
		}
		p.beat(0)
		if err := p.check(); err != nil {
			t.Errorf("a loop that turns again: %v", err)
		}
	})
}

// turns runs a connector for a while in a bubble, and looks at its pulse every ten
// seconds. It returns when the pulse was first found wanting; 0 for never.
func turns(t *testing.T, d time.Duration, carriers ...link.Carrier) (late time.Duration) {
	t.Helper()
	c := newLoop(t, slog.New(slog.DiscardHandler), nil, carriers...)
	c.window.Store(time.Hour.Milliseconds()) // a large fleet's: it waits long
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	began := time.Now()
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for late == 0 {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if c.pulse.check() != nil {
				late = time.Since(began)
			}
		}
	})
	if err := c.Run(ctx); err != nil {
		t.Error(err)
	}
	watching.Wait()
	return late
}

// However a link does, its loop turns.
func TestLinksHaveAPulse(t *testing.T) {
	t.Parallel()
	for name, ways := range map[string][]way{
		"one that stands":    {{name: "best", works: true}},
		"none that stands":   {{name: "best"}},
		"the lesser one":     {{name: "best"}, {name: "lesser", works: true}},
		"streams that break": {{name: "best", works: true, breaks: time.Second}, {name: "lesser", works: true, breaks: time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var carriers []link.Carrier
				for i := range ways {
					ways[i].log, ways[i].mu = new([]string), new(sync.Mutex)
					carriers = append(carriers, &ways[i])
				}
				if late := turns(t, 3*time.Hour, carriers...); late != 0 {
					t.Errorf("its pulse was found wanting after %s", late)
				}
			})
		})
	}
}

// hanging is a carrier that breaks its word: its dial ends with ctx alone.
type hanging struct{}

func (hanging) Name() string { return "hanging" }

func (hanging) Dial(ctx context.Context, _ *stellav1.Hello) (link.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestStuckLinkIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		if late := turns(t, time.Hour, hanging{}); late < turnMost || late > turnMost+time.Minute {
			t.Errorf("found after %s", late)
		}
	})
}

func TestDrainHasAPulse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newLoop(t, slog.New(slog.DiscardHandler), nil, &way{name: "best", works: true, log: new([]string), mu: new(sync.Mutex)})
		c.agent.Config.DrainTimeout = time.Hour
		task := time.After(50 * time.Minute)
		c.run.wg.Go(func() { <-task })
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, stop)
		time.AfterFunc(49*time.Minute, func() {
			if err := c.pulse.check(); err != nil {
				t.Error(err)
			}
		})
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}

// slowConn takes its time for each frame.
type slowConn struct{ pipe }

func (*slowConn) Send(*stellav1.ConnectRequest) error {
	<-time.After(time.Minute)
	return nil
}

// A log of many frames on a slow line is no reason to end the agent.
func TestSlowLineHasAPulse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newLoop(t, slog.New(slog.DiscardHandler), nil)
		h := &handover{connector: c}
		c.pulse.beat(0)
		for range 30 {
			if err := errors.Join(h.send(&slowConn{})(nil), c.pulse.check()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestLinkState(t *testing.T) {
	t.Parallel()
	s := &linkState{changed: make(chan struct{}, 1)}
	for _, c := range []struct {
		change func()
		want   string
	}{
		{func() {}, "connects to its server"},
		{func() { s.up("grpc", time.Now()) }, "online over grpc"},
		{func() { s.down(time.Now()); s.failed(errors.New("cut"), 1, time.Now()) }, "offline, tries again: cut"},
		{func() { s.up("poll", time.Now()) }, "online over poll"},
	} {
		c.change()
		if got := s.String(); !strings.Contains(got, c.want) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	select {
	case <-s.changed:
	default:
		t.Error("nobody is told of news")
	}
}
