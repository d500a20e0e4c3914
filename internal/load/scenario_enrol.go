package load

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"stella-ops.org/stella/api"
)

// EnrolOptions are what the scenario enrol may be told.
type EnrolOptions struct {
	// Concurrency is how many agents register at a time.
	Concurrency int
}

// EnrolResult is what it finds out.
type EnrolResult struct {
	Registered   int       `json:"registered"`
	TookSeconds  float64   `json:"tookSeconds"`
	Rate         float64   `json:"ratePerSecond"`
	Concurrency  int       `json:"concurrency"`
	Registration Quantiles `json:"registration"`
	Costs
}

// Enrol measures registrations: each agent has a one-time token, a key and a
// TLS connection of its own, as new hosts have. Tokens and keys are made
// before the clock starts.
func Enrol(ctx context.Context, o Options, e EnrolOptions) (*Report, error) {
	if e.Concurrency < 1 {
		return nil, fmt.Errorf("%d registrations at a time are none: use 1 or more", e.Concurrency)
	}
	r, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer r.end()
	book, err := r.openBook(ctx)
	if err != nil {
		return nil, err
	}
	regs, err := r.prepareAll(ctx)
	if err != nil {
		return nil, err
	}
	m, err := r.startMeters()
	if err != nil {
		return nil, err
	}
	defer m.drop()
	var (
		clients = sync.Pool{New: func() any { return &http.Client{Transport: r.api.transport(true)} }}
		ids     = make([]*Identity, len(regs))
		took    = newLatencies()
		done    atomic.Int64
	)
	stop := every(progressEvery, func() { r.progress("registering agents: %d of %d", done.Load(), len(regs)) })
	began := time.Now()
	err = each(ctx, len(regs), e.Concurrency, func(ctx context.Context, i int) error {
		hc, ok := clients.Get().(*http.Client)
		if !ok {
			return fmt.Errorf("load: no HTTP client in the pool")
		}
		defer clients.Put(hc)
		at := time.Now()
		id, err := regs[i].send(ctx, r.api, hc)
		took.record(time.Since(at))
		ids[i] = id
		done.Add(1)
		return err
	})
	all := time.Since(began)
	stop()
	for _, id := range ids {
		if id != nil {
			book.add([]*Identity{id})
		}
	}
	if saveErr := book.save(); err == nil {
		err = saveErr
	}
	if err != nil {
		return nil, err
	}
	res := &EnrolResult{Registered: len(ids), TookSeconds: all.Seconds(), Rate: float64(len(ids)) / all.Seconds(), Concurrency: e.Concurrency, Registration: took.quantiles()}
	if res.Costs, err = r.costs(m); err != nil {
		return nil, err
	}
	rep := r.report("enrol", res)
	rep.Transport = ""
	return rep, nil
}

func (r *run) prepareAll(ctx context.Context) ([]*registration, error) {
	regs := make([]*registration, r.Agents)
	name := names()
	var done atomic.Int64
	stop := every(progressEvery, func() { r.progress("making tokens and keys: %d of %d", done.Load(), len(regs)) })
	defer stop()
	err := each(ctx, len(regs), enrolWorkers, func(ctx context.Context, i int) error {
		token, err := r.api.CreateRegistrationToken(ctx, api.RegistrationTokenRequest{Group: Group, TTLSeconds: 3600})
		if err != nil {
			return fmt.Errorf("make a registration token: %w", err)
		}
		regs[i], err = prepare(name(i), token.Token)
		done.Add(1)
		return err
	})
	return regs, err
}

// Rows implements Result.
func (e *EnrolResult) Rows() []Row {
	rows := []Row{{"registrations a second", fmt.Sprintf("%.0f", e.Rate), fmt.Sprintf("%d in %s, %d at a time, each with its own token, key and TLS connection", e.Registered, seconds(e.TookSeconds), e.Concurrency)}}
	return append(append(rows, quantileRows("one registration", e.Registration)...), e.rows()...)
}

func (*EnrolResult) failures() []string { return nil }
