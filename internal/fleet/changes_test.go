package fleet_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store/sqlite"
)

// onlooker keeps what it is asked to look at.
type onlooker struct {
	agents []string
	all    int
	fails  error
}

// AgentsChanged implements fleet.Watcher.
func (o *onlooker) AgentsChanged(_ context.Context, changes []fleet.Change) error {
	for _, c := range changes {
		o.agents = append(o.agents, c.AgentID)
	}
	return o.fails
}

// AllAgentsChanged implements fleet.Watcher.
func (o *onlooker) AllAgentsChanged(context.Context) error {
	o.all++
	return o.fails
}

// take returns what came, and forgets it.
func (o *onlooker) take() (agents []string) {
	agents, o.agents = o.agents, nil
	return agents
}

// A change is acted upon once by each who watches, again while one of them could
// not; and when nobody can know what has changed, all agents are looked at.
func TestWatch(t *testing.T) {
	t.Parallel()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	now := time.Now().UTC()
	a := &fleet.Agent{ID: "a", TenantID: "default", Name: "a", Lifecycle: api.LifecycleActive, Liveness: api.Live, CreatedAt: now, UpdatedAt: now}
	if err := st.Enrol(t.Context(), &enroll.Enrolment{Agent: a, At: now, Cert: enroll.Issued{Fingerprint: "f", NotBefore: now, NotAfter: now}}); err != nil {
		t.Fatal(err)
	}
	change := func(to api.Lifecycle) {
		t.Helper()
		if moved, err := st.SetLifecycle(t.Context(), "default", "a", []api.Lifecycle{api.LifecycleActive, api.LifecycleInactive}, to, now); err != nil || !moved {
			t.Fatal(moved, err)
		}
	}
	first, second := &onlooker{}, &onlooker{}
	w := fleet.NewWatch(st, slog.New(slog.DiscardHandler), first, second)
	w.LookedLast(0)
	look := func(what string, wantErr error, ofFirst, ofSecond []string) {
		t.Helper()
		if err := w.Look(t.Context()); !errors.Is(err, wantErr) {
			t.Errorf("%s: %v", what, err)
		}
		if f, s := first.take(), second.take(); !slices.Equal(f, ofFirst) || !slices.Equal(s, ofSecond) {
			t.Errorf("%s: %q and %q, want %q and %q", what, f, s, ofFirst, ofSecond)
		}
	}
	look("nothing", nil, nil, nil)
	change(api.LifecycleInactive)
	look("a change", nil, []string{"a"}, []string{"a"})
	look("the same", nil, nil, nil)

	second.fails = errors.New("the disk is full")
	change(api.LifecycleActive)
	look("one that cannot", second.fails, []string{"a"}, []string{"a"})
	look("and cannot still", second.fails, []string{"a"}, []string{"a"})
	second.fails = nil
	look("and can", nil, []string{"a"}, []string{"a"})
	look("which is over", nil, nil, nil)

	w.LookedLast(fleet.Remembered + time.Minute)
	look("after a long time", nil, nil, nil)
	if first.all != 1 || second.all != 1 {
		t.Errorf("all were looked at %d and %d times", first.all, second.all)
	}
	look("and again", nil, nil, nil)
	change(api.LifecycleRevoked)
	look("as before", nil, []string{"a"}, []string{"a"})
	if first.all != 1 || second.all != 1 {
		t.Errorf("all were looked at %d and %d times", first.all, second.all)
	}
}
