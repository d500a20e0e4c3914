package fleet

import (
	"context"
	"log/slog"
	"time"
)

// Change says that an agent's life cycle, its certificates or what it may do
// have changed, or that it is gone.
type Change struct {
	Seq      int64 // its number, which no other change has
	TenantID string
	AgentID  string
}

// ChangeStore tells what has changed, whichever server has changed it.
type ChangeStore interface {
	// AgentChanges returns what was committed since a position, and the position
	// to ask from next. What was committed shortly before that may come again. The
	// beginning is position 0.
	AgentChanges(ctx context.Context, since int64) (changes []Change, next int64, err error)
	// ForgetAgentChanges forgets what is older than an hour.
	ForgetAgentChanges(ctx context.Context) error
}

// Watcher acts upon changes. What it could not do because the store is away is
// an error; it is asked again then.
type Watcher interface {
	AgentsChanged(ctx context.Context, changes []Change) error
	// AllAgentsChanged is for when nobody knows what has changed.
	AllAgentsChanged(ctx context.Context) error
}

const (
	// watchEvery is how soon a change is found that the bus has not told.
	watchEvery = 2 * time.Second
	// watchTimeout is how long one look may take.
	watchTimeout = 20 * time.Second
	// forgetEvery is how often old changes are forgotten.
	forgetEvery = 10 * time.Minute
	// remembered is for how long changes can be relied upon to be there: half of
	// what they are kept for, because clocks run differently.
	remembered = 30 * time.Minute
)

// Watch finds, every two seconds and by one query for the whole server, which
// agents have changed since it last looked, and has the watchers act upon it:
// the bus tells sooner, and may lose what it tells. The order and the clocks are
// the database's, so that those of the servers do not matter.
type Watch struct {
	store    ChangeStore
	watchers []Watcher
	log      *slog.Logger

	// Of Run's goroutine.
	since  int64
	seen   map[int64]bool // what has come, and may come again
	looked time.Time      // when all was known last
}

// NewWatch returns a watch; Run must run.
func NewWatch(store ChangeStore, log *slog.Logger, watchers ...Watcher) *Watch {
	return &Watch{store: store, watchers: watchers, log: log}
}

// Run watches until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	forgot := time.Now()
	w.looked = time.Now().Round(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			w.log.ErrorContext(ctx, "it was not found out which agents have changed, and is tried again", "error", err)
		}
		if time.Since(forgot) < forgetEvery {
			continue
		}
		forgot = time.Now()
		if err := w.store.ForgetAgentChanges(ctx); err != nil && ctx.Err() == nil {
			w.log.ErrorContext(ctx, "old changes of agents were not forgotten", "error", err)
		}
	}
}

// look finds what is new and acts upon it. Only when all have done so, it is
// not new any more.
func (w *Watch) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	changes, next, err := w.store.AgentChanges(ctx, w.since)
	if err != nil {
		return err
	}
	// By the clock on the wall: the other one stands still while the machine
	// sleeps.
	now := time.Now().Round(0)
	away := now.Sub(w.looked).Abs() > remembered
	seen := make(map[int64]bool, len(changes))
	var news []Change
	for _, c := range changes {
		seen[c.Seq] = true
		if !w.seen[c.Seq] {
			news = append(news, c)
		}
	}
	for _, by := range w.watchers {
		switch {
		case away:
			err = by.AllAgentsChanged(ctx)
		case len(news) > 0:
			err = by.AgentsChanged(ctx, news)
		}
		if err != nil {
			return err
		}
	}
	w.since, w.seen, w.looked = next, seen, now
	return nil
}
