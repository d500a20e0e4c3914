package load

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// StormOptions are what the scenario storm may be told.
type StormOptions struct {
	// Cut makes the agents break all their connections; otherwise somebody
	// restarts the server.
	Cut bool
	// Restart, when set, restarts the server.
	Restart func(ctx context.Context) error
	// Wait is how long to wait for somebody to do it.
	Wait time.Duration
	// Limit is how long the agents may take to come back.
	Limit time.Duration
}

// StormResult is what it finds out. Times count from the first connection that
// was lost.
type StormResult struct {
	Lost int `json:"lostConnections"`
	Back int `json:"back"`
	// WindowSeconds is over what the server asked the agents to spread.
	WindowSeconds    float64 `json:"windowSeconds"`
	FirstBackSeconds float64 `json:"firstBackSeconds"`
	HalfBackSeconds  float64 `json:"halfBackSeconds"`
	AllBackSeconds   float64 `json:"allBackSeconds"`
	// PeakPerSecond is the most connections in any second.
	PeakPerSecond int   `json:"peakConnectionsPerSecond"`
	FailedDials   int64 `json:"failedDials"`
	// Stale is how many agents were seen stale or dead at any time.
	Stale int `json:"stale"`
	Costs

	agents int
	limit  time.Duration
}

// quiet is how long no connection may be lost for a storm to be over.
const quiet = 2 * time.Second

// Storm measures how a fleet that has lost its server comes back.
func Storm(ctx context.Context, o Options, s StormOptions) (*Report, error) {
	if s.Wait <= 0 || s.Limit <= 0 {
		return nil, errors.New("the time to wait and the limit must be above 0")
	}
	r, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer r.end()
	f, err := r.fleet(ctx)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	f.forget()
	m, err := r.startMeters()
	if err != nil {
		return nil, err
	}
	defer m.drop()
	if err := r.strike(ctx, f, s); err != nil {
		return nil, err
	}
	res := &StormResult{agents: len(f.agents), limit: s.Limit, WindowSeconds: f.longestWindow().Seconds()}
	stale := newStaleWatch(r, f)
	stop := every(time.Second, func() { stale.look(ctx) })
	err = r.comeBack(ctx, f, s.Limit)
	stop()
	if err != nil {
		return nil, err
	}
	stale.look(ctx) // at least once, now that the server answers for sure
	if stale.err != nil {
		return nil, stale.err
	}
	res.Stale = len(stale.seen)
	res.Back = int(f.connected.Load())
	res.FailedDials = f.failedDials.Load()
	res.count(f.noted())
	server, self, err := m.stop()
	if err != nil {
		// The process of before has ended; it took its figures along.
		server, r.unseen = nil, "it is another process than before"
	}
	res.Costs = Costs{ServerUsage: server, ServerUnseen: r.unseen, Simulation: self}
	return r.report("storm", res), nil
}

// strike makes the agents lose their connections, or waits until they do.
func (r *run) strike(ctx context.Context, f *Fleet, s StormOptions) error {
	switch {
	case s.Cut:
		f.cutAll()
	case s.Restart != nil:
		r.progress("restarting the server")
		if err := s.Restart(ctx); err != nil {
			return fmt.Errorf("restart the server: %w", err)
		}
	}
	deadline := time.Now().Add(s.Wait)
	stop := every(progressEvery, func() {
		r.progress("%d agents are connected: restart the server now (waiting for %s)", f.connected.Load(), time.Until(deadline).Round(time.Second))
	})
	defer stop()
	ok, err := waitFor(ctx, s.Wait, func() bool { n, _ := f.lost(); return n > 0 })
	if err == nil && !ok {
		err = fmt.Errorf("no agent lost its connection within %s: restart the server while this runs, or use --cut", s.Wait)
	}
	return err
}

// comeBack waits until all agents are connected, and have been for a moment:
// those that were lost last may still believe in their connections.
func (r *run) comeBack(ctx context.Context, f *Fleet, limit time.Duration) error {
	stop := every(progressEvery, func() { r.progress("%d of %d agents are back", f.connected.Load(), len(f.agents)) })
	defer stop()
	lost, since := 0, time.Now()
	_, err := waitFor(ctx, limit, func() bool {
		if n, _ := f.lost(); n != lost || f.connected.Load() != int64(len(f.agents)) {
			lost, since = n, time.Now()
		}
		return time.Since(since) >= quiet
	})
	return err
}

// count makes the figures out of when connections came and went.
func (s *StormResult) count(comings, goings []time.Time) {
	s.Lost = len(goings)
	if len(comings) == 0 || len(goings) == 0 {
		return
	}
	slices.SortFunc(comings, time.Time.Compare)
	slices.SortFunc(goings, time.Time.Compare)
	since := func(t time.Time) float64 { return t.Sub(goings[0]).Seconds() }
	s.FirstBackSeconds, s.HalfBackSeconds, s.AllBackSeconds = since(comings[0]), since(comings[len(comings)/2]), since(comings[len(comings)-1])
	from := 0
	for i, t := range comings {
		for t.Sub(comings[from]) >= time.Second {
			from++
		}
		s.PeakPerSecond = max(s.PeakPerSecond, i-from+1)
	}
}

// staleWatch looks for agents of the fleet that the server calls stale or dead.
type staleWatch struct {
	run  *run
	mine map[string]bool
	seen map[string]bool
	err  error // of the last look
}

func newStaleWatch(r *run, f *Fleet) *staleWatch {
	w := &staleWatch{run: r, mine: map[string]bool{}, seen: map[string]bool{}}
	for _, a := range f.agents {
		w.mine[a.id.ID] = true
	}
	return w
}

// look fails while the server is away.
func (w *staleWatch) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, status := range []string{"stale", "dead"} {
		agents, err := w.run.api.fleetAgents(ctx, status)
		if w.err = err; err != nil {
			return
		}
		for id := range agents {
			if w.mine[id] {
				w.seen[id] = true
			}
		}
	}
}

// Rows implements Result.
func (s *StormResult) Rows() []Row {
	rows := []Row{
		{"connections lost", fmt.Sprint(s.Lost), ""},
		{"agents back", fmt.Sprintf("%d of %d", s.Back, s.agents), fmt.Sprintf("the server asked them to spread over %s", seconds(s.WindowSeconds))},
		{"first back after", seconds(s.FirstBackSeconds), "counted from the first connection that was lost"},
		{"half back after", seconds(s.HalfBackSeconds), ""},
		{"all back after", seconds(s.AllBackSeconds), ""},
		{"most connections in a second", fmt.Sprint(s.PeakPerSecond), fmt.Sprintf("%d attempts failed", s.FailedDials)},
		{"agents that turned stale", fmt.Sprint(s.Stale), "as the server saw them, asked every second"},
	}
	return append(rows, s.rows()...)
}

func (s *StormResult) failures() []string {
	var out []string
	if n := s.agents - s.Back; n > 0 {
		out = append(out, fmt.Sprintf("%d of %d agents were not back within %s", n, s.agents, s.limit))
	}
	if s.Stale > 0 {
		out = append(out, fmt.Sprintf("%d agents turned stale", s.Stale))
	}
	return out
}
