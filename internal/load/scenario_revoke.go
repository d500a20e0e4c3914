package load

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// RevokeOptions are what the scenario revoke may be told.
type RevokeOptions struct {
	// Agents is how many of the connected ones are revoked, one after the other.
	Agents int
}

// RevokeResult is what it finds out.
type RevokeResult struct {
	Connected int `json:"connected"`
	// Cut is from the request to revoke an agent to the end of its connection,
	// as the agent sees it.
	Cut Quantiles `json:"cut"`
	// NotCut is how many were connected still ten seconds later, and Lost how
	// many lost their connection that nobody had revoked.
	NotCut int `json:"notCut"`
	Lost   int `json:"lostConnections"`
	Costs

	lossCause error
}

// revokePatience is after how long an agent counts as not cut.
const revokePatience = 10 * time.Second

// Revoke measures how long it takes until a revoked agent's connection is cut,
// while all others stay. What was revoked is of no use afterwards: it is deleted.
func Revoke(ctx context.Context, o Options, ro RevokeOptions) (*Report, error) {
	r, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer r.end()
	if ro.Agents < 1 || ro.Agents > r.Agents {
		return nil, fmt.Errorf("%d of %d agents cannot be revoked", ro.Agents, r.Agents)
	}
	if r.Identities != "" {
		return nil, fmt.Errorf("identities that are kept (%s) would be worth nothing afterwards: leave them out", r.Identities)
	}
	f, err := r.fleet(ctx)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := r.startMeters()
	if err != nil {
		return nil, err
	}
	defer m.drop()
	cuts := cutTimes{at: map[int]time.Time{}, changed: make(chan struct{}, 1)}
	f.hooks.Store(&hooks{lost: cuts.note})
	defer f.hooks.Store(nil)
	f.forget()
	res, took := &RevokeResult{Connected: len(f.agents)}, newLatencies()
	for n := range ro.Agents {
		i := n * len(f.agents) / ro.Agents // all over the fleet
		r.progress("revoking agents: %d of %d", n, ro.Agents)
		began := time.Now()
		if _, err := r.api.RevokeAgent(ctx, f.agents[i].id.ID); err != nil {
			return nil, err
		}
		at, ok := cuts.wait(ctx, i, began.Add(revokePatience))
		if !ok {
			res.NotCut++
			at = time.Now()
		}
		took.record(at.Sub(began))
	}
	res.Cut = took.quantiles()
	if res.Costs, err = r.costs(m); err != nil {
		return nil, err
	}
	all, why := f.lost()
	res.Lost, res.lossCause = max(0, all-ro.Agents+res.NotCut), why
	return r.report("revoke", res), nil
}

// cutTimes are when agents lost their connections.
type cutTimes struct {
	mu      sync.Mutex
	at      map[int]time.Time
	changed chan struct{}
}

func (c *cutTimes) note(agent int, at time.Time) {
	c.mu.Lock()
	if _, known := c.at[agent]; !known {
		c.at[agent] = at
	}
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// wait returns when an agent lost its connection.
func (c *cutTimes) wait(ctx context.Context, agent int, until time.Time) (time.Time, bool) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for {
		c.mu.Lock()
		at, ok := c.at[agent]
		c.mu.Unlock()
		if ok {
			return at, true
		}
		select {
		case <-ctx.Done():
			return time.Time{}, false
		case <-c.changed:
		}
	}
}

// Rows implements Result.
func (e *RevokeResult) Rows() []Row {
	rows := []Row{{"connected agents", fmt.Sprint(e.Connected), fmt.Sprintf("of which %d were revoked, one after the other", e.Cut.Count)}}
	return append(append(rows, quantileRows("from the revocation to the end of the connection", e.Cut)...), e.rows()...)
}

func (e *RevokeResult) failures() []string {
	out := lostConnections(e.Lost, e.lossCause)
	if e.NotCut > 0 {
		out = append(out, fmt.Sprintf("%d revoked agents were connected still after %s", e.NotCut, revokePatience))
	}
	return out
}
