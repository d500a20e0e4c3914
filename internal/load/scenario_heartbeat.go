package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
)

// HeartbeatOptions are what the scenario heartbeat may be told.
type HeartbeatOptions struct {
	// Rate is how many heartbeats a second the fleet sends.
	Rate float64
	// Max raises the rate, from Rate on, until the server does not keep up, and
	// finds the highest that it sustains.
	Max bool
	// Duration is how long a rate is held.
	Duration time.Duration
	// Limit is the 99th percentile of the latency above which a rate does not
	// count as sustained.
	Limit time.Duration
}

// HeartbeatResult is what it finds out. With Max, it is of the highest rate
// that was sustained.
type HeartbeatResult struct {
	HeartbeatStep
	// Steps are the rates that were tried, when one was looked for.
	Steps []HeartbeatStep `json:"steps,omitempty"`
	// Checked agents had an answer, and for Missing of them the store does not
	// know a heartbeat as late as that.
	Checked       int     `json:"storeChecked"`
	Missing       int     `json:"storeMissing"`
	StoreSeconds  float64 `json:"storeSeconds"`
	Lost          int     `json:"lostConnections"`
	lossCause     error
	limit         time.Duration
	lookedForBest bool
}

// HeartbeatStep is one rate that was held for a while.
type HeartbeatStep struct {
	AskedRate   float64 `json:"askedRate"`
	ReachedRate float64 `json:"reachedRate"`
	// Asked heartbeats had their time, Sent were sent, and Acked answered.
	Asked int64 `json:"asked"`
	Sent  int64 `json:"sent"`
	Acked int64 `json:"acked"`
	Lost  int64 `json:"lost"`
	// Latency is from when a heartbeat was due to its answer, SendDelay how
	// much of it passed before it was sent: that is the simulation's own part.
	Latency   Quantiles `json:"latency"`
	SendDelay Quantiles `json:"sendDelay"`
	Sustained bool      `json:"sustained"`
	Costs
}

// ackGrace is how long an answer may take before it counts as lost.
const ackGrace = 10 * time.Second

// A rate counts as sustained when so much of it was reached. The search steps
// up by a factor, and then halves what it does not know a few times.
const (
	sustainedShare = 0.98
	stepUp         = 1.5
	halvings       = 3
)

// Heartbeat measures heartbeats that come at fixed times, and whether they
// reach the store.
func Heartbeat(ctx context.Context, o Options, h HeartbeatOptions) (*Report, error) {
	if h.Rate <= 0 || h.Duration <= 0 || h.Limit <= 0 {
		return nil, errors.New("the rate, the duration and the limit must be above 0")
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
	res := &HeartbeatResult{limit: h.Limit, lookedForBest: h.Max}
	heard := make([]bool, len(f.agents))
	hold := func(rate float64) (HeartbeatStep, error) {
		step, who, err := r.hold(ctx, f, rate, h)
		for i, ok := range who {
			heard[i] = heard[i] || ok
		}
		res.Steps = append(res.Steps, step)
		return step, err
	}
	began := time.Now()
	if h.Max {
		res.HeartbeatStep, err = highest(h.Rate, hold)
	} else {
		res.HeartbeatStep, err = hold(h.Rate)
		res.Steps = nil
	}
	if err != nil {
		return nil, err
	}
	if err := r.checkStore(ctx, f, began, heard, res); err != nil {
		return nil, err
	}
	res.Lost, res.lossCause = f.lost()
	return r.report("heartbeat", res), nil
}

// hold makes the fleet beat at a rate.
func (r *run) hold(ctx context.Context, f *Fleet, rate float64, h HeartbeatOptions) (step HeartbeatStep, heard []bool, err error) {
	if err := f.whole(ctx); err != nil { // the rate before may have cost some
		return step, nil, err
	}
	m, err := r.startMeters()
	if err != nil {
		return step, nil, err
	}
	defer m.drop()
	stop := every(progressEvery, func() { r.progress("%d agents beat %.0f times a second", len(f.agents), rate) })
	b, asked, began, err := f.beatAt(ctx, rate, h.Duration, ackGrace)
	stop()
	if err != nil {
		return step, nil, err
	}
	step = HeartbeatStep{AskedRate: rate, Asked: asked, Sent: b.sentCount.Load(), Acked: b.ackedCount.Load(), Latency: b.latency.quantiles(), SendDelay: b.late.quantiles()}
	step.Lost = step.Asked - step.Acked
	// Answers that came after the last heartbeat was due took that long too.
	if took := max(h.Duration, b.until().Sub(began)); took > 0 {
		step.ReachedRate = float64(step.Acked) / took.Seconds()
	}
	step.Sustained = step.Lost == 0 && step.Latency.P99 <= ms(h.Limit) && step.ReachedRate >= sustainedShare*float64(asked)/h.Duration.Seconds()
	step.Costs, err = r.costs(m)
	return step, b.who(), err
}

// highest looks for the highest rate that hold sustains, from one that it
// begins with.
func highest(rate float64, hold func(rate float64) (HeartbeatStep, error)) (HeartbeatStep, error) {
	var good HeartbeatStep
	bad := 0.0
	for bad == 0 {
		step, err := hold(rate)
		if err != nil {
			return good, err
		}
		if !step.Sustained {
			bad = rate
			break
		}
		good = step
		rate *= stepUp
	}
	for range halvings {
		rate = (good.AskedRate + bad) / 2
		step, err := hold(rate)
		if err != nil {
			return good, err
		}
		if step.Sustained {
			good = step
		} else {
			bad = rate
		}
	}
	return good, nil
}

// storePatience is how long the store may take to know what was answered.
const storePatience = 15 * time.Second

// checkStore asks the API for every agent's last heartbeat: one that was
// answered must be in the store soon after.
func (r *run) checkStore(ctx context.Context, f *Fleet, began time.Time, heard []bool, res *HeartbeatResult) error {
	r.progress("looking for the heartbeats in the store")
	want := map[string]time.Time{}
	since := f.serverTime(began)
	for i, a := range f.agents {
		if heard[i] {
			want[a.id.ID] = a.lastAnswered(since)
		}
	}
	res.Checked = len(want)
	asked := time.Now()
	for deadline := asked.Add(storePatience); ; {
		stored, err := r.api.fleetAgents(ctx, "")
		if err != nil {
			return err
		}
		res.Missing = notStored(want, stored)
		res.StoreSeconds = time.Since(asked).Seconds()
		if res.Missing == 0 || time.Now().After(deadline) {
			return nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// notStored counts those whose last heartbeat in the store is older than the
// one that they had an answer to.
func notStored(want map[string]time.Time, stored map[string]api.Agent) (missing int) {
	for id, at := range want {
		if last := stored[id].LastHeartbeat; last == nil || last.Before(at) {
			missing++
		}
	}
	return missing
}

// Rows implements Result.
func (h *HeartbeatResult) Rows() []Row {
	var rows []Row
	if h.lookedForBest {
		rows = append(rows, Row{"highest rate sustained", fmt.Sprintf("%.0f a second", h.AskedRate), fmt.Sprintf("nothing lost, and p99 within %s", h.limit)})
		for _, s := range h.Steps {
			word := "sustained"
			if !s.Sustained {
				word = "not sustained"
			}
			rows = append(rows, Row{fmt.Sprintf("  at %.0f a second", s.AskedRate), fmt.Sprintf("%.0f reached", s.ReachedRate), fmt.Sprintf("%s; p99 %s, %d lost", word, millis(s.Latency.P99), s.Lost)})
		}
	}
	rows = append(rows,
		Row{"heartbeats a second, asked", fmt.Sprintf("%.0f", h.AskedRate), "at fixed times, whatever the answers did"},
		Row{"heartbeats a second, reached", fmt.Sprintf("%.0f", h.ReachedRate), fmt.Sprintf("%d of %d answered, %d lost", h.Acked, h.Asked, h.HeartbeatStep.Lost)},
		Row{"agents that the store knows of", fmt.Sprintf("%d of %d", h.Checked-h.Missing, h.Checked), fmt.Sprintf("their last heartbeat was there %s later", seconds(h.StoreSeconds))},
	)
	rows = append(rows, quantileRows("due to answered", h.Latency)...)
	rows = append(rows, Row{"due to sent, p99", millis(h.SendDelay.P99), "the simulation's own part of it"})
	return append(rows, h.rows()...)
}

func (h *HeartbeatResult) failures() []string {
	var out []string
	if h.lookedForBest && h.AskedRate == 0 {
		out = append(out, "not even the lowest rate that was tried was sustained: begin lower with --from")
	}
	if !h.lookedForBest { // too high a rate may well have cost some
		out = lostConnections(h.Lost, h.lossCause)
	}
	if n := h.HeartbeatStep.Lost; n > 0 {
		out = append(out, fmt.Sprintf("%d of %d heartbeats were not answered within %s", n, h.Asked, ackGrace))
	}
	if h.Missing > 0 {
		out = append(out, fmt.Sprintf("of %d agents the store does not know the heartbeat that was answered", h.Missing))
	}
	return out
}
