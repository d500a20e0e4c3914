package load

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// Fleet is simulated agents that keep their connections, and beat as often as
// the server asks, until Close.
type Fleet struct {
	carrier  carrier
	agents   []*agent
	interval time.Duration // between two requests of agents that poll; 0 for what the server wants
	progress func(format string, args ...any)
	epoch    time.Time
	hooks    atomic.Pointer[hooks]
	dials    *latencies // from dialling to the welcome

	ctx     context.Context // ends with the fleet
	cancel  context.CancelFunc
	running sync.WaitGroup
	beating func() // ends the heartbeats that nobody counts; nil while there are none

	connected   atomic.Int64
	failedDials atomic.Int64

	mu         sync.Mutex
	asked      time.Duration // the interval that the server wants
	offset     time.Duration // how far the server's clock is ahead, at least
	clockKnown bool
	lastErr    error
	hopeless   error
	comings    []time.Time // when agents connected, since forget
	goings     []time.Time // when they lost their connection
	lossCause  error
}

// hooks are what a scenario wants to hear; each may be nil, and must not block.
type hooks struct {
	task      func(t *api.AgentTask, at time.Time)
	resultAck func(taskID string, at time.Time)
	command   func(agent int, c *api.AgentCommand, at time.Time)
	receipt   func(commandID string, at time.Time)
	lost      func(agent int, at time.Time)
}

func newFleet(o *Options, ids []*Identity) (*Fleet, error) {
	c, err := newCarrier(o)
	if err != nil {
		return nil, err
	}
	f := &Fleet{carrier: c, progress: o.progress, epoch: time.Now(), dials: newLatencies(), agents: make([]*agent, len(ids))}
	if o.Transport == Poll {
		f.interval = o.PollInterval
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	for i, id := range ids {
		f.agents[i] = &agent{id: id, index: i, fleet: f}
	}
	return f, nil
}

// Close ends every connection and waits until all is over.
func (f *Fleet) Close() {
	f.stopBeating()
	f.cancel()
	f.cutAll()
	f.running.Wait()
}

// cutAll ends every connection that stands now.
func (f *Fleet) cutAll() {
	for _, a := range f.agents {
		a.cut()
	}
}

// maxDials is how many agents connect at a time at first. Later, when the
// server was lost, nothing holds them back but what the server asked for.
const maxDials = 128

// stalled is after how long without any agent that connects the rest is given
// up.
const stalled = 30 * time.Second

// connect starts all agents, rate a second, and waits until all are connected.
func (f *Fleet) connect(ctx context.Context, rate float64) error {
	stop := every(progressEvery, func() { f.progress("connecting agents: %d of %d", f.connected.Load(), len(f.agents)) })
	defer stop()
	began := time.Now()
	most, since := int64(0), began
	// room waits until fewer than n agents are on their way.
	room := func(started, n int) error {
		for int64(started)-f.connected.Load() >= int64(n) {
			if err := f.hope(); err != nil {
				return err
			}
			if now := f.connected.Load(); now > most {
				most, since = now, time.Now()
			} else if time.Since(since) > stalled {
				return fmt.Errorf("%d of %d agents connected, and for %s no other did: %w", most, len(f.agents), stalled, f.lastError())
			}
			if err := pause(ctx, time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	}
	for i, a := range f.agents {
		if rate > 0 {
			if err := pause(ctx, time.Until(began.Add(time.Duration(float64(i)/rate*float64(time.Second))))); err != nil {
				return err
			}
		}
		if err := room(i, maxDials); err != nil {
			return err
		}
		f.running.Go(func() { a.run(f.ctx) })
	}
	if err := room(len(f.agents), 1); err != nil {
		return err
	}
	f.startBeating() //nolint:contextcheck // the fleet outlives its connecting
	// What the handshakes left behind is not what a connected agent costs.
	debug.FreeOSMemory()
	return nil
}

// whole waits until every agent is connected.
func (f *Fleet) whole(ctx context.Context) error {
	ok, err := waitFor(ctx, time.Minute, func() bool { return f.connected.Load() == int64(len(f.agents)) })
	if err == nil && !ok {
		err = fmt.Errorf("only %d of %d agents are connected: %w", f.connected.Load(), len(f.agents), f.lastError())
	}
	return err
}

// hope returns why no agent will ever connect, if that is so.
func (f *Fleet) hope() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hopeless != nil {
		return fmt.Errorf("an agent was not let in: %w", f.hopeless)
	}
	return nil
}

func (f *Fleet) lastError() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lastErr == nil {
		return errors.New("nothing answers")
	}
	return f.lastErr
}

func (f *Fleet) dialFailed(err error) {
	f.failedDials.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastErr = err
	if f.hopeless == nil && hopeless(err) {
		f.hopeless = err
	}
}

func (f *Fleet) up() {
	f.connected.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.comings = append(f.comings, time.Now())
}

func (f *Fleet) down(err error) {
	f.connected.Add(-1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.goings = append(f.goings, time.Now())
	f.lossCause = err
}

// forget drops what was noted of connections that came and went.
func (f *Fleet) forget() {
	f.failedDials.Store(0)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.comings, f.goings = nil, nil
}

// noted returns when connections came and went, in this order.
func (f *Fleet) noted() (comings, goings []time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.comings), slices.Clone(f.goings)
}

// lost returns how many connections were lost that nobody wanted to lose, and
// the last reason.
func (f *Fleet) lost() (n int, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.goings), f.lossCause
}

func (f *Fleet) welcomed(w *stellav1.Welcome) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = time.Duration(w.GetHeartbeatIntervalMs()) * time.Millisecond
	// The answer was under way for a while, so each is a bound from below, and
	// the greatest is the nearest.
	if t := w.GetServerTime(); t != nil {
		if ahead := t.AsTime().Sub(now); !f.clockKnown || ahead > f.offset {
			f.clockKnown, f.offset = true, ahead
		}
	}
}

// serverTime is what the server's clock showed, or a little less, at a time of
// this machine's.
func (f *Fleet) serverTime(at time.Time) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return at.Add(f.offset)
}

// startBeating lets every agent beat as often as the server wants it; nobody
// counts.
func (f *Fleet) startBeating() {
	f.mu.Lock()
	interval := f.interval
	if interval == 0 {
		interval = f.asked
	}
	f.mu.Unlock()
	if interval <= 0 {
		interval = 30 * time.Second
	}
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		openLoop(ctx, len(f.agents), float64(len(f.agents))/interval.Seconds(), 0, func(i int, due time.Time) { f.agents[i].beat(due, nil) })
	}()
	f.beating = func() { cancel(); <-done }
}

func (f *Fleet) stopBeating() {
	if f.beating != nil {
		f.beating()
		f.beating = nil
	}
}

// beatAt makes the fleet beat at a rate and waits, for a while, for what was
// not answered yet.
func (f *Fleet) beatAt(ctx context.Context, rate float64, duration, grace time.Duration) (b *beats, asked int64, began time.Time, err error) {
	f.stopBeating()
	defer f.startBeating() //nolint:contextcheck // the fleet outlives the measurement
	b, began = newBeats(len(f.agents)), time.Now()
	// Who falls behind by that much does not send the rest.
	late, cancel := context.WithDeadline(ctx, began.Add(duration+grace))
	defer cancel()
	asked = openLoop(late, len(f.agents), rate, duration, func(i int, due time.Time) { f.agents[i].beat(due, b) })
	_, err = waitFor(ctx, time.Until(began.Add(duration+grace)), func() bool { return b.ackedCount.Load() >= asked })
	return b, asked, began, err
}

// longestWindow is over what the server asked the fleet to spread its return.
func (f *Fleet) longestWindow() (w time.Duration) {
	for _, a := range f.agents {
		w = max(w, a.reconnectWindow())
	}
	return w
}
