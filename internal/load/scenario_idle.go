package load

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// IdleOptions are what the scenario idle may be told.
type IdleOptions struct {
	// Settle is how long the server is left alone, with the agents' usual
	// heartbeats, before it is looked at.
	Settle time.Duration
}

// IdleResult is what it finds out.
type IdleResult struct {
	// BytesPerAgent is by how much the server's memory grew for each agent;
	// 0 when it could not be measured.
	BytesPerAgent float64 `json:"serverBytesPerAgent"`
	// EnrolledNow is how many agents registered in this run: what that left in
	// the server's memory is not told from what connections take.
	EnrolledNow    int       `json:"enrolledNow"`
	ConnectSeconds float64   `json:"connectSeconds"`
	Connect        Quantiles `json:"connect"`
	SettleSeconds  float64   `json:"settleSeconds"`
	Lost           int       `json:"lostConnections"`
	Costs

	lossCause error
}

// Idle measures what agents cost that are connected and have nothing to do.
func Idle(ctx context.Context, o Options, i IdleOptions) (*Report, error) {
	r, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer r.end()
	ids, made, err := r.identities(ctx)
	if err != nil {
		return nil, err
	}
	m, err := r.startMeters()
	if err != nil {
		return nil, err
	}
	defer m.drop()
	began := time.Now()
	f, err := r.connect(ctx, ids)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	res := &IdleResult{EnrolledNow: made, ConnectSeconds: time.Since(began).Seconds(), Connect: f.dials.quantiles(), SettleSeconds: i.Settle.Seconds()}
	if err := r.settle(ctx, i.Settle); err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // of the simulation
	if res.Costs, err = r.costs(m); err != nil {
		return nil, err
	}
	if u := res.ServerUsage; u != nil {
		res.BytesPerAgent = float64(u.RSSAfter-u.RSSBefore) / float64(len(ids))
	}
	res.Lost, res.lossCause = f.lost()
	return r.report("idle", res), nil
}

// Rows implements Result.
func (i *IdleResult) Rows() []Row {
	var rows []Row
	if i.ServerUsage != nil {
		note := fmt.Sprintf("by which its resident memory grew, %s after all were connected", seconds(i.SettleSeconds))
		if i.EnrolledNow > 0 {
			note += fmt.Sprintf("; %d agents registered just before, so restart the server and measure again with the same --identities", i.EnrolledNow)
		}
		rows = append(rows, Row{"server's memory for each agent", kibibytes(i.BytesPerAgent), note})
	}
	rows = append(rows, Row{"until all were connected", seconds(i.ConnectSeconds), ""})
	return append(append(rows, quantileRows("one connection", i.Connect)...), i.rows()...)
}

func (i *IdleResult) failures() []string { return lostConnections(i.Lost, i.lossCause) }
