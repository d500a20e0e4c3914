package fleet_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fleet"
)

// Liveness is a pure function of the silence: it never gets better by more of
// it, and its edges are the thresholds.
func TestThresholds(t *testing.T) {
	t.Parallel()
	order := map[api.Liveness]int{api.Live: 0, api.Stale: 1, api.Dead: 2}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.Int64Range(1, int64(time.Hour))
		th := fleet.Thresholds{StaleAfter: time.Duration(length.Draw(t, "stale")), DeadAfter: time.Duration(length.Draw(t, "dead"))}
		at := func(silence time.Duration) api.Liveness { return th.At(now.Add(-silence), now) }
		x := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(4*time.Hour)).Draw(t, "silence"))
		y := x + time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "more"))
		if order[at(x)] > order[at(y)] {
			t.Fatalf("%s after %s, and %s after %s", at(x), x, at(y), y)
		}
		edges := []api.Liveness{at(th.StaleAfter - 1), at(th.StaleAfter), at(th.StaleAfter + th.DeadAfter - 1), at(th.StaleAfter + th.DeadAfter)}
		if !slices.Equal(edges, []api.Liveness{api.Live, api.Stale, api.Stale, api.Dead}) {
			t.Fatalf("at the edges: %v", edges)
		}
		shift := time.Duration(length.Draw(t, "shift"))
		if th.At(now.Add(shift-x), now.Add(shift)) != at(x) {
			t.Fatal("liveness is not a function of the silence alone")
		}
	})
}

// memory is a store of agents' last heartbeats, by the contract of
// fleet.Store; the other methods are not there.
type memory struct {
	fleet.Store
	th fleet.Thresholds

	mu      sync.Mutex
	last    map[string]time.Time
	is      map[string]api.Liveness
	batches [][]fleet.Heartbeat
	down    error
	slow    time.Duration
}

func newMemory(agents int) *memory {
	s := &memory{th: fleet.DefaultThresholds, last: map[string]time.Time{}, is: map[string]api.Liveness{}}
	for i := range agents {
		s.last[fmt.Sprint("a", i)], s.is[fmt.Sprint("a", i)] = time.Now(), api.Live
	}
	return s
}

// RecordHeartbeats implements fleet.Store.
func (s *memory) RecordHeartbeats(_ context.Context, beats []fleet.Heartbeat) ([]fleet.Transition, error) {
	s.mu.Lock()
	slow, down := s.slow, s.down
	s.mu.Unlock()
	if slow > 0 {
		time.Sleep(slow) //nolint:forbidigo // the bubble's clock
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if down != nil {
		return nil, down
	}
	s.batches = append(s.batches, beats)
	var back []fleet.Transition
	for _, b := range beats {
		s.last[b.AgentID] = b.At
		if s.is[b.AgentID] != api.Live {
			s.is[b.AgentID] = api.Live
			back = append(back, fleet.Transition{TenantID: b.TenantID, AgentID: b.AgentID, To: api.Live, At: b.At})
		}
	}
	return back, nil
}

// SweepLiveness implements fleet.Store.
func (s *memory) SweepLiveness(_ context.Context, staleBefore, deadBefore, at time.Time) ([]fleet.Transition, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, s.down
	}
	var moved []fleet.Transition
	for id, last := range s.last {
		to := s.is[id]
		switch {
		case last.Before(deadBefore):
			to = api.Dead
		case last.Before(staleBefore):
			to = api.Stale
		}
		if to != s.is[id] {
			s.is[id] = to
			moved = append(moved, fleet.Transition{AgentID: id, To: to, At: at})
		}
	}
	return moved, nil
}

func (s *memory) got() [][]fleet.Heartbeat {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.batches
}

func (s *memory) heard(agent string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last[agent]
}

func (s *memory) set(change func(*memory)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// monitored is a monitor that runs in a bubble.
type monitored struct {
	*fleet.Monitor
	t     *testing.T
	store *memory
	mu    sync.Mutex
	moves []string
}

func monitor(t *testing.T, store *memory) (m *monitored, stop func()) {
	m = &monitored{t: t, store: store}
	m.Monitor = fleet.NewMonitor(store, fleet.DefaultThresholds, time.Now, slog.New(slog.DiscardHandler), func(tr fleet.Transition) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.moves = append(m.moves, tr.AgentID+" "+string(tr.To))
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	return m, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func (m *monitored) pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the bubble's clock
	synctest.Wait()
}

// beatFor has agents beat each 30 s for a while.
func (m *monitored) beatFor(d time.Duration, agents ...string) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		for _, a := range agents {
			m.Beat(fleet.Heartbeat{TenantID: "t", AgentID: a, At: time.Now()})
		}
		m.pass(min(30*time.Second, time.Until(end)))
	}
}

func (m *monitored) wantMoves(want ...string) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	slices.Sort(m.moves)
	if !slices.Equal(m.moves, want) {
		m.t.Fatalf("announced %q, want %q", m.moves, want)
	}
	m.moves = nil
}

func TestHeartbeatsAreStoredOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, stop := monitor(t, newMemory(3))
		usage := &api.ResourceUsage{CPUPercent: 5}
		for range 100 {
			m.Beat(fleet.Heartbeat{TenantID: "t", AgentID: "a0", At: time.Now(), Capabilities: []string{"docker"}, ResourceUsage: usage})
			m.Beat(fleet.Heartbeat{TenantID: "t", AgentID: "a1", At: time.Now()})
			m.pass(time.Millisecond)
		}
		// The latest wins, and takes over what it does not say.
		m.Beat(fleet.Heartbeat{TenantID: "t", AgentID: "a0", At: time.Now(), Status: "degraded"})
		if len(m.store.got()) != 0 {
			t.Fatal("a heartbeat was not kept in memory")
		}
		m.pass(time.Second)
		if len(m.store.got()) != 1 || len(m.store.got()[0]) != 2 {
			t.Fatalf("stored: %+v", m.store.got())
		}
		batch := m.store.got()[0]
		slices.SortFunc(batch, func(x, y fleet.Heartbeat) int { return cmp.Compare(x.AgentID, y.AgentID) })
		if b := batch[0]; b.Status != "degraded" || !slices.Equal(b.Capabilities, []string{"docker"}) || b.ResourceUsage != usage {
			t.Fatalf("stored: %+v", b)
		}
		m.pass(10 * time.Second)
		if len(m.store.got()) != 1 {
			t.Fatal("empty batches are stored")
		}
		// What came last is stored when the server stops.
		m.Beat(fleet.Heartbeat{TenantID: "t", AgentID: "a2", At: time.Now()})
		stop()
		if len(m.store.got()) != 2 {
			t.Fatal("the last heartbeats were lost")
		}
	})
}

// Agents of two tenants may have one id.
func TestHeartbeatsOfTwoTenants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, stop := monitor(t, newMemory(0))
		m.Beat(fleet.Heartbeat{TenantID: "t1", AgentID: "a", At: time.Now()})
		m.Beat(fleet.Heartbeat{TenantID: "t2", AgentID: "a", At: time.Now()})
		stop()
		if len(m.store.got()) != 1 || len(m.store.got()[0]) != 2 {
			t.Fatalf("stored: %+v", m.store.got())
		}
	})
}

func TestEachTransitionIsAnnouncedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, stop := monitor(t, newMemory(2))
		defer stop()
		m.beatFor(2*time.Minute, "a0", "a1")
		m.wantMoves()
		m.beatFor(91*time.Second, "a0") // a1 beat last 30 s before
		m.wantMoves("a1 stale")
		m.beatFor(5*time.Minute-40*time.Second, "a0")
		m.wantMoves()
		m.beatFor(40*time.Second, "a0")
		m.wantMoves("a1 dead")
		m.beatFor(time.Hour, "a0")
		m.wantMoves()
		m.beatFor(2*time.Second, "a0", "a1")
		m.wantMoves("a1 live")
	})
}

// Failure is detected within 90 s and a moment.
func TestSilenceIsNoticedInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, stop := monitor(t, newMemory(1))
		defer stop()
		m.beatFor(10*time.Minute, "a0")
		m.pass(90*time.Second - 30*time.Second - time.Second)
		m.wantMoves()
		m.pass(3 * time.Second)
		m.wantMoves("a0 stale")
	})
}

// After a restart the server itself was the one that did not listen.
func TestNoAgentIsStaleForARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMemory(2)
		time.Sleep(time.Hour) //nolint:forbidigo // the bubble's clock; nobody listens
		m, stop := monitor(t, store)
		defer stop()
		m.pass(80 * time.Second) // both come back late, but in time
		m.beatFor(20*time.Second, "a0", "a1")
		m.wantMoves()
		// One that does not come back is found, by the time of its silence.
		m.beatFor(100*time.Second, "a0")
		m.wantMoves("a1 stale")
	})
}

// Nobody is called stale for a time in which the store took no heartbeats, and
// those that came meanwhile are stored afterwards.
func TestNoAgentIsStaleForAnOutageOfTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, stop := monitor(t, newMemory(2))
		defer stop()
		m.beatFor(2*time.Minute, "a0", "a1")
		m.store.set(func(s *memory) { s.down, s.batches = errors.New("the disk is full"), nil })
		m.beatFor(10*time.Minute, "a0", "a1")
		m.pass(15 * time.Second) // past the last heartbeats: they wait in memory
		last := time.Now().Add(-45 * time.Second)
		m.store.set(func(s *memory) { s.down = nil })
		m.pass(2 * time.Second)
		m.wantMoves()
		if got := m.store.heard("a0"); !got.Equal(last) {
			t.Fatalf("stored as last heard: %s, want %s", got, last)
		}
		m.beatFor(5*time.Minute, "a0", "a1")
		m.wantMoves()
		// A newer heartbeat that comes while an older one fails is not
		// overwritten by it.
		m.store.set(func(s *memory) { s.down, s.slow = errors.New("again"), 5*time.Second })
		m.Beat(fleet.Heartbeat{TenantID: "t", AgentID: "a0", At: time.Now()})
		m.pass(3 * time.Second)
		m.Beat(fleet.Heartbeat{TenantID: "t", AgentID: "a0", At: time.Now()})
		newest := time.Now()
		m.pass(3 * time.Second)
		m.store.set(func(s *memory) { s.down, s.slow = nil, 0 })
		m.pass(20 * time.Second)
		if got := m.store.heard("a0"); !got.Equal(newest) {
			t.Fatalf("stored as last heard: %s, want the newest, %s", got, newest)
		}
	})
}

// An agent that polls is not let in while the store is away: nobody is heard,
// and that is nobody's fault but the server's.
func TestNoAgentIsStaleForBeingShutOut(t *testing.T) {
	t.Parallel()
	for _, outage := range []time.Duration{2 * time.Minute, 20 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			m, stop := monitor(t, newMemory(2))
			defer stop()
			m.beatFor(3*time.Minute, "a0", "a1")
			m.store.set(func(s *memory) { s.down = errors.New("no connection") })
			m.pass(outage)
			m.store.set(func(s *memory) { s.down = nil })
			m.pass(30 * time.Second)
			m.beatFor(5*time.Minute, "a0", "a1")
			m.wantMoves()
		})
	}
}

// And nobody for a store that is slow: heartbeats that came while it wrote are
// in memory, and they count.
func TestNoAgentIsStaleForASlowStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, stop := monitor(t, newMemory(2))
		defer stop()
		m.beatFor(3*time.Minute, "a0", "a1")
		m.store.set(func(s *memory) { s.slow = 2 * time.Minute })
		m.beatFor(5*time.Second, "a0", "a1")
		m.store.set(func(s *memory) { s.slow = 0 })
		m.beatFor(10*time.Minute, "a0", "a1")
		m.wantMoves()
	})
}
