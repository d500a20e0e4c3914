// Package load simulates agents, thousands in one process, and measures how a
// server bears them. Each has a key of its own, registers as every agent does,
// and holds its own TLS 1.3 connection with its own certificate; what it leaves
// out is the work.
//
// Two rules make its figures worth something. What is sent at a rate is sent at
// times that are fixed beforehand, whatever the answers do, and latency counts
// from that time: a server that stalls cannot hide how many it kept waiting.
// And the simulation is lean, for on one machine it competes with the server:
// an agent that waits costs a goroutine and its TLS state, and a heartbeat is
// bytes that were made once.
//
// The package knows the contract in api/ and nothing of the server's or the
// agent's inside.
package load

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// The carriers.
const (
	WebSocket = "websocket"
	GRPC      = "grpc"
	Poll      = "poll"
)

// Transports returns the carriers' names.
func Transports() []string { return []string{WebSocket, GRPC, Poll} }

// Group is the group that simulated agents register in, so that they are told
// from real ones.
const Group = "stella-load"

// Options say which server is loaded, and by how many agents of which kind.
type Options struct {
	Connection
	Agents    int
	Transport string
	// Identities is the file that keeps the agents' identities from one run to
	// the next; none are kept when it is empty.
	Identities string
	// ConnectRate is how many agents a second connect at first; 0 is without a
	// limit.
	ConnectRate float64
	// PollInterval is how often agents that poll ask for tasks.
	PollInterval time.Duration
	// ServerPID is the server's process, when it cannot be found by its port.
	ServerPID int
	// Progress, when set, is told what is being done, several times a second.
	Progress func(text string)
}

// maxAgents is how many one registration token may register.
const maxAgents = 100_000

func (o *Options) validate() error {
	switch {
	case o.Agents < 1:
		return fmt.Errorf("%d agents are none: say how many with --agents, from 1 to %d", o.Agents, maxAgents)
	case o.Agents > maxAgents:
		return fmt.Errorf("%d agents are more than one process simulates: use up to %d, and several machines for more", o.Agents, maxAgents)
	case o.ConnectRate < 0 || o.PollInterval < 0:
		return errors.New("a rate or an interval below 0 has no meaning")
	}
	if !slices.Contains(Transports(), o.Transport) {
		return fmt.Errorf("%q is no transport: use %s", o.Transport, strings.Join(Transports(), ", "))
	}
	return o.Connection.validate()
}

func (o *Options) progress(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

// run is what the scenarios share: the server, seen as a person and as a
// process.
type run struct {
	Options
	api    *control
	server *process // nil when it cannot be measured
	unseen string   // why
}

// begin checks what was asked for before anything is done.
func begin(ctx context.Context, o Options) (*run, error) {
	if o.PollInterval == 0 {
		o.PollInterval = 2 * time.Second
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	if err := roomForConnections(o.Agents); err != nil {
		return nil, err
	}
	api, err := newControl(o.Connection)
	if err != nil {
		return nil, err
	}
	if err := api.check(ctx); err != nil {
		return nil, err
	}
	r := &run{Options: o, api: api}
	return r, r.findServer(ctx)
}

// findServer looks for the server's process; it has a new one after a restart.
func (r *run) findServer(ctx context.Context) error {
	r.server, r.unseen = nil, ""
	p, err := findProcess(ctx, r.URL, r.ServerPID)
	if errors.Is(err, errUnseen) {
		r.unseen = err.Error()
		return nil
	}
	r.server = p
	return err
}

func (r *run) end() { r.api.Close() }

// identities returns as many as are asked for, and how many of them were
// registered just now.
func (r *run) identities(ctx context.Context) (ids []*Identity, made int, err error) {
	book, err := r.openBook(ctx)
	if err != nil {
		return nil, 0, err
	}
	ids = book.usable(r.Agents)
	if made = r.Agents - len(ids); made == 0 {
		return ids, 0, nil
	}
	more, err := r.enrolMissing(ctx, made)
	book.add(more)
	// What is registered is kept also when the rest failed: the server has it.
	if saveErr := book.save(); err == nil {
		err = saveErr
	}
	return append(ids, more...), made, err
}

// fleet connects the agents.
func (r *run) fleet(ctx context.Context) (*Fleet, error) {
	ids, _, err := r.identities(ctx)
	if err != nil {
		return nil, err
	}
	return r.connect(ctx, ids)
}

func (r *run) connect(ctx context.Context, ids []*Identity) (*Fleet, error) {
	f, err := newFleet(&r.Options, ids)
	if err != nil {
		return nil, err
	}
	if err := f.connect(ctx, r.ConnectRate); err != nil {
		if f.hope() != nil && r.Identities != "" {
			err = fmt.Errorf("%w; if its agents were removed from the server, delete %s, and new ones are registered", err, r.Identities)
		}
		f.Close()
		return nil, err
	}
	return f, nil
}

// report begins the report of a scenario.
func (r *run) report(scenario string, result Result) *Report {
	return &Report{
		Scenario: scenario, Machine: Machine(), Server: r.URL, Transport: r.Transport, Agents: r.Agents,
		Result: result, Failures: result.failures(),
	}
}

// every calls f now and each d until the returned function is called.
func every(d time.Duration, f func()) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			f()
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() { close(done); <-ended }
}

// progressEvery is how often a person is told how far it is.
const progressEvery = 250 * time.Millisecond

// pause waits, or returns why the context has ended.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// waitFor asks every few milliseconds until ok; false when the time is over.
func waitFor(ctx context.Context, limit time.Duration, ok func() bool) (bool, error) {
	for deadline := time.Now().Add(limit); ; {
		if ok() {
			return true, nil
		}
		if !time.Now().Before(deadline) {
			return false, nil
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return false, err
		}
	}
}

// settle waits without haste, and says for how long still.
func (r *run) settle(ctx context.Context, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		r.progress("letting the server settle: %s left", time.Until(end).Round(time.Second))
		if err := pause(ctx, min(time.Second, time.Until(end))); err != nil {
			return err
		}
	}
	return nil
}

func readFile(what, path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return data, nil
}
