package fleet

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"stella-ops.org/stella/api"
)

// Heartbeat is what one heartbeat tells of an agent.
type Heartbeat struct {
	TenantID      string
	AgentID       string
	At            time.Time
	Status        string
	NotAccepting  string
	Transport     string // the carrier that brought it, as in "grpc"
	ResourceUsage *api.ResourceUsage
	Capabilities  []string // nil: as before
	// Signed is its number, if it has a signature of its own; a heartbeat on a
	// link has none, for the link's hello has.
	Signed Number
	// Instance is the start of the agent that it is of; empty when it does not say,
	// and on a link, whose hello does.
	Instance string
}

// Thresholds are the times after which silence means something.
type Thresholds struct {
	// StaleAfter is how long after the last heartbeat an agent is stale.
	StaleAfter time.Duration
	// DeadAfter is how long after it turned stale an agent is dead.
	DeadAfter time.Duration
}

// DefaultThresholds are three missed heartbeats of 30 s, and 5 min more.
var DefaultThresholds = Thresholds{StaleAfter: 90 * time.Second, DeadAfter: 5 * time.Minute}

// At is the rule: liveness is a pure function of the last heartbeat and now.
func (t Thresholds) At(lastHeartbeat, now time.Time) api.Liveness {
	switch silence := now.Sub(lastHeartbeat); {
	case silence < t.StaleAfter:
		return api.Live
	case silence < t.StaleAfter+t.DeadAfter:
		return api.Stale
	default:
		return api.Dead
	}
}

// Monitor takes heartbeats into memory, stores them in one batch a second, and
// moves agents that fell silent to stale and dead. It is safe for concurrent
// use; Run must run for anything to reach the store.
type Monitor struct {
	store      Store
	thresholds Thresholds
	now        func() time.Time
	log        *slog.Logger
	onChange   func(Transition)

	mu      sync.Mutex
	pending map[string]Heartbeat // by tenant and agent; the latest wins
	numbers numbers
}

// NewMonitor returns a monitor. onChange is called once for each transition
// that this server made; it must not block.
func NewMonitor(store Store, t Thresholds, now func() time.Time, log *slog.Logger, onChange func(Transition)) *Monitor {
	return &Monitor{store: store, thresholds: t, now: now, log: log, onChange: onChange, pending: map[string]Heartbeat{}}
}

// Beat takes a heartbeat. It does not block.
func (m *Monitor) Beat(b Heartbeat) {
	key := b.TenantID + "\x00" + b.AgentID
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.pending[key]; ok {
		b.after(&old)
	}
	m.pending[key] = b
}

// after takes over from the heartbeat before what this one does not say.
func (b *Heartbeat) after(old *Heartbeat) {
	if b.Capabilities == nil {
		b.Capabilities = old.Capabilities
	}
	if b.ResourceUsage == nil {
		b.ResourceUsage = old.ResourceUsage
	}
	if b.Instance == "" {
		b.Instance = old.Instance
	}
	if b.Signed.Compare(old.Signed) < 0 {
		b.Signed = old.Signed
	}
}

// Run flushes and sweeps once a second until ctx ends, and flushes once more.
//
// The first sweep waits for StaleAfter: after a restart the server itself was
// the one that did not listen, and no agent may be called stale for that. The
// same holds after a time in which the store could not be written.
func (m *Monitor) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	listeningSince := m.now()
	for {
		select {
		case <-ctx.Done():
			final, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return m.flush(final)
		case <-tick.C:
		}
		// The time before the flush: the store knows all that was heard until
		// then. If it is slow, what was heard since is still in memory.
		now := m.now()
		if err := m.flush(ctx); err != nil {
			m.log.ErrorContext(ctx, "heartbeats wait in memory: the store takes none", "error", err)
			listeningSince = m.now()
			continue
		}
		m.mu.Lock()
		m.numbers.stored(now)
		m.mu.Unlock()
		if now.Sub(listeningSince) < m.thresholds.StaleAfter {
			continue
		}
		stale := now.Add(-m.thresholds.StaleAfter)
		moved, err := m.store.SweepLiveness(ctx, stale, stale.Add(-m.thresholds.DeadAfter), now)
		if err != nil {
			m.log.ErrorContext(ctx, "liveness was not swept", "error", err)
			listeningSince = m.now() // nobody could be let in to beat
			continue
		}
		m.announce(moved)
	}
}

func (m *Monitor) flush(ctx context.Context) error {
	m.mu.Lock()
	batch := m.pending
	m.pending = make(map[string]Heartbeat, len(batch))
	m.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	beats := make([]Heartbeat, 0, len(batch))
	for _, b := range batch {
		beats = append(beats, b)
	}
	back, err := m.store.RecordHeartbeats(ctx, beats)
	if err != nil {
		m.mu.Lock()
		for key, b := range batch {
			if newer, ok := m.pending[key]; ok {
				newer.after(&b)
				b = newer
			}
			m.pending[key] = b
		}
		m.mu.Unlock()
		return err
	}
	// It is live from now on: another server may have called it dead after the
	// heartbeat, which was in memory then.
	now := m.now()
	for i := range back {
		back[i].At = now
	}
	m.announce(back)
	return nil
}

func (m *Monitor) announce(ts []Transition) {
	for _, t := range ts {
		m.log.Info("agent liveness changed", "agent", t.AgentID, "name", t.Name, "liveness", t.To)
		m.onChange(t)
	}
}
