package fleet_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/sqlite"
)

// Short thresholds, so that many lives fit into a run.
var brief = fleet.Thresholds{StaleAfter: 9 * time.Second, DeadAfter: 20 * time.Second}

const (
	// beatEvery is how often a living agent beats.
	beatEvery = 3 * time.Second
	// slack is how much later than the rule says a transition may come: the
	// monitors look once a second.
	slack = 2 * time.Second
)

// livesModel drives two monitors over one store, and agents that beat, fall
// silent, come back and move between them.
type livesModel struct {
	store  *store.Store
	run    string
	agents []*life

	mu    sync.Mutex
	moves map[string][]fleet.Transition // as they were told, by agent

	monitors [2]*watch
}

// watch is one server's monitor, while it runs.
type watch struct {
	*fleet.Monitor
	since time.Time // when it began to listen; zero while it is down
	stop  func()
}

// life is one agent as the model knows it.
type life struct {
	id      string
	beating bool
	at      int         // the server that it beats to
	next    time.Time   // when it beats
	heard   []time.Time // when it was heard by a server that was up
	seen    int         // how many of its moves were looked at
	is      api.Liveness
}

// TestLivesAndTransitions has agents and servers do whatever comes to their
// mind, and holds the monitors to the rule: liveness is a function of the last
// heartbeat, each transition is told once, whatever the number of servers, and
// nobody is called stale for a time in which no server listened.
func TestLivesAndTransitions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// A database is dear: the runs share one, each with agents of its own.
		st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		run := 0
		// As a plain TB: a bubble has no deadline to ask for.
		rapid.Check(struct{ testing.TB }{t}, func(rt *rapid.T) {
			run++
			m := &livesModel{store: st, run: fmt.Sprintf("r%d", run), moves: map[string][]fleet.Transition{}}
			m.start(0)
			m.start(1)
			defer m.end(rt)
			for range 3 {
				m.enrol(rt)
			}
			rt.Repeat(map[string]func(*rapid.T){
				"pass time": m.passTime, "pass much time": m.passMuchTime, "fall silent": m.fallSilent, "come back": m.comeBack,
				"move": m.move, "stop a server": m.stopServer, "start a server": m.startServer, "": m.check,
			})
		})
	})
}

func (m *livesModel) start(i int) {
	w := &watch{since: time.Now()}
	w.Monitor = fleet.NewMonitor(m.store, brief, time.Now, slog.New(slog.DiscardHandler), func(t fleet.Transition) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.moves[t.AgentID] = append(m.moves[t.AgentID], t)
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		time.Sleep(time.Duration(i) * 300 * time.Millisecond) //nolint:forbidigo // the bubble's clock: no two servers do anything at the same time
		_ = w.Run(ctx)                                        // the store does not fail here
	}()
	w.stop = func() {
		cancel()
		<-ended
		w.since = time.Time{}
	}
	m.monitors[i] = w
}

func (m *livesModel) end(t *rapid.T) {
	for _, w := range m.monitors {
		if !w.since.IsZero() {
			w.stop()
		}
	}
	for _, a := range m.agents {
		if err := m.store.DeleteAgent(context.Background(), "default", a.id); err != nil {
			t.Error(err)
		}
	}
}

func (m *livesModel) enrol(t *rapid.T) {
	now := time.Now()
	a := &life{id: fmt.Sprintf("%s-a%d", m.run, len(m.agents)), beating: true, at: len(m.agents) % 2, next: now, heard: []time.Time{now}, is: api.Live}
	err := m.store.Enrol(context.Background(), &enroll.Enrolment{At: now, Agent: &fleet.Agent{
		ID: a.id, TenantID: "default", Name: a.id, Lifecycle: api.LifecycleActive, Liveness: api.Live,
		PublicKeyHash: a.id, CertificateFingerprint: a.id, LastHeartbeat: now, CreatedAt: now, UpdatedAt: now,
	}, Cert: enroll.Issued{Fingerprint: a.id, Serial: "1", NotBefore: now, NotAfter: now.Add(24 * time.Hour)}})
	if err != nil {
		t.Fatal(err)
	}
	m.agents = append(m.agents, a)
}

func (m *livesModel) passTime(t *rapid.T)     { m.pass(rapid.IntRange(1, 8).Draw(t, "seconds")) }
func (m *livesModel) passMuchTime(t *rapid.T) { m.pass(rapid.IntRange(8, 45).Draw(t, "seconds")) }

// pass lets time go by, in which agents beat that do.
func (m *livesModel) pass(seconds int) {
	for range seconds {
		now := time.Now()
		for _, a := range m.agents {
			if a.beating && !now.Before(a.next) {
				m.beat(a)
			}
		}
		time.Sleep(time.Second) //nolint:forbidigo // the bubble's clock
	}
	synctest.Wait()
}

// beat has an agent beat to its server, or to the other one when that is down.
func (m *livesModel) beat(a *life) {
	now := time.Now()
	a.next = now.Add(beatEvery)
	for range 2 {
		if w := m.monitors[a.at]; !w.since.IsZero() {
			a.heard = append(a.heard, now)
			w.Beat(fleet.Heartbeat{TenantID: "default", AgentID: a.id, At: now, Status: "online"})
			return
		}
		a.at = 1 - a.at
	}
}

// last is when the agent was last heard, as the store must know it at a time: a
// heartbeat may be in a server's memory for a moment.
func (a *life) last(at time.Time) time.Time {
	i := len(a.heard) - 1
	for i > 0 && a.heard[i].After(at.Add(-slack)) {
		i--
	}
	return a.heard[i]
}

func (m *livesModel) any(t *rapid.T) *life {
	return m.agents[rapid.IntRange(0, len(m.agents)-1).Draw(t, "agent")]
}

func (m *livesModel) fallSilent(t *rapid.T) { m.any(t).beating = false }

// comeBack is an agent that is restarted: it beats at once.
func (m *livesModel) comeBack(t *rapid.T) {
	a := m.any(t)
	a.beating = true
	m.beat(a)
}

func (m *livesModel) move(t *rapid.T) {
	a := m.any(t)
	a.at = 1 - a.at
}

func (m *livesModel) stopServer(t *rapid.T) {
	if w := m.monitors[rapid.IntRange(0, 1).Draw(t, "server")]; !w.since.IsZero() {
		w.stop()
	}
}

func (m *livesModel) startServer(t *rapid.T) {
	if i := rapid.IntRange(0, 1).Draw(t, "server"); m.monitors[i].since.IsZero() {
		m.start(i)
	}
}

// check compares what the store says, and what was told, with the rule.
func (m *livesModel) check(t *rapid.T) {
	synctest.Wait()
	now := time.Now()
	var listening time.Duration // of the server that has listened for the longest time
	for _, w := range m.monitors {
		if !w.since.IsZero() {
			listening = max(listening, now.Sub(w.since))
		}
	}
	for _, a := range m.agents {
		m.checkMoves(t, a)
		got, err := m.store.Agent(context.Background(), "default", a.id)
		if err != nil {
			t.Fatal(err)
		}
		if got.Liveness != a.is {
			t.Fatalf("%s is %s, and %s was told last", a.id, got.Liveness, a.is)
		}
		// Silence means something to a server that has listened for as long,
		// and is noticed within a moment.
		if listening < brief.StaleAfter+slack {
			continue
		}
		newest := a.heard[len(a.heard)-1]
		want := []api.Liveness{brief.At(newest, now), brief.At(newest, now.Add(-slack)), brief.At(a.last(now), now), brief.At(a.last(now), now.Add(-slack))}
		if !slices.Contains(want, got.Liveness) {
			t.Fatalf("%s was heard %s ago, and is %s, want one of %s (a server has listened for %s)", a.id, now.Sub(newest), got.Liveness, want, listening)
		}
	}
}

// checkMoves looks at the transitions that were told since it last looked.
func (m *livesModel) checkMoves(t *rapid.T, a *life) {
	m.mu.Lock()
	moves := slices.Clone(m.moves[a.id])
	m.mu.Unlock()
	// What two servers do in the same moment may be told in any order; when it
	// happened is told with it.
	slices.SortStableFunc(moves[a.seen:], func(x, y fleet.Transition) int { return x.At.Compare(y.At) })
	for ; a.seen < len(moves); a.seen++ {
		to := moves[a.seen].To
		switch {
		case to == a.is:
			t.Fatalf("%s was told twice to be %s", a.id, to)
		case to == api.Stale && a.is != api.Live:
			t.Fatalf("%s was %s and became stale", a.id, a.is)
		}
		if at := moves[a.seen].At; to != api.Live && at.Sub(a.last(at)) < brief.StaleAfter {
			t.Fatalf("%s is called %s after a silence of %s", a.id, to, at.Sub(a.last(at)))
		}
		a.is = to
	}
}
