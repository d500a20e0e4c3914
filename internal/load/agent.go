package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// agent is one simulated agent: a goroutine that keeps a connection, and reads
// from it.
type agent struct {
	id    *Identity
	index int
	fleet *Fleet

	mu      sync.Mutex
	conn    conn          // nil while there is none
	waiting []waitingBeat // those that were sent and not answered, the oldest first
	lastAck time.Time     // the server's time in its last answer to a heartbeat
	window  time.Duration // over which the fleet spreads its return
}

// waitingBeat is a heartbeat under way: when it was due, and who counts it.
type waitingBeat struct {
	due time.Duration // since the fleet's epoch
	by  *beats        // nil when nobody does
}

// run keeps the connection until ctx ends.
func (a *agent) run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		c, err := a.dial(ctx)
		if err != nil {
			failures++
			a.fleet.dialFailed(err)
			if pause(ctx, backoff(failures, a.reconnectWindow())) != nil {
				return
			}
			continue
		}
		failures = 0
		a.fleet.up()
		err = a.serve(ctx, c)
		a.fleet.down(err)
		if h := a.fleet.hooks.Load(); h != nil && h.lost != nil {
			h.lost(a.index, time.Now())
		}
		if pause(ctx, backoff(0, a.reconnectWindow())) != nil {
			return
		}
	}
}

// backoff is how long to wait after some failures in a row: as a real agent
// does, from a tenth of a second to a minute, and spread over the server's
// window at least, so that the fleet does not come back as one.
func backoff(failures int, window time.Duration) time.Duration {
	d := time.Second
	for range min(failures, 10) {
		d = d * 8 / 5
	}
	d = max(min(d, time.Minute), window)
	return d/10 + rand.N(d*9/10+1) //nolint:gosec // spreading load needs no secret
}

func (a *agent) reconnectWindow() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.window
}

// dial opens a connection and waits for the welcome. It does so on a goroutine
// of its own: a handshake needs a deep stack, which would stay with the agent.
func (a *agent) dial(ctx context.Context) (c conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		began := time.Now()
		if c, err = a.fleet.carrier.dial(ctx, a.id); err != nil {
			return
		}
		var f *stellav1.ConnectResponse
		if f, err = c.recv(); err == nil && f.GetWelcome() == nil {
			err = errors.New("the server did not begin with a welcome")
		}
		if err != nil {
			c.close()
			return
		}
		a.fleet.dials.record(time.Since(began))
		a.fleet.welcomed(f.GetWelcome())
		a.mu.Lock()
		a.window = time.Duration(f.GetWelcome().GetReconnectWindowMs()) * time.Millisecond
		a.mu.Unlock()
	}()
	<-done
	return c, err
}

// serve reads until the connection ends.
func (a *agent) serve(ctx context.Context, c conn) error {
	a.mu.Lock()
	a.conn = c
	a.mu.Unlock()
	if ctx.Err() != nil {
		c.close() // the fleet was closed while this one connected
	}
	a.beat(time.Now(), nil) // as a real agent does, the first comes at once
	for {
		f, err := c.recv()
		if err == nil {
			err = a.take(c, f)
		}
		if err != nil {
			c.close()
			a.mu.Lock()
			a.conn, a.waiting = nil, nil
			a.mu.Unlock()
			return err
		}
	}
}

// beat sends a heartbeat that was due at some time, which may be past. An
// agent without a connection cannot.
func (a *agent) beat(due time.Time, by *beats) {
	a.mu.Lock()
	c := a.conn
	if by == nil && a.fleet.interval > 0 && len(a.waiting) > 0 {
		c = nil // who polls asks again only after the answer; whoever counts wants to know what that hides
	}
	if c != nil {
		// Before it is sent: the answer may come before beat returns.
		a.waiting = append(a.waiting, waitingBeat{due.Sub(a.fleet.epoch), by})
	}
	a.mu.Unlock()
	if c == nil {
		return
	}
	if by != nil {
		by.sent(time.Since(due))
	}
	if c.beat() != nil {
		c.close() // its reader notices
	}
}

// cut ends the connection as a broken network does.
func (a *agent) cut() {
	a.mu.Lock()
	c := a.conn
	a.mu.Unlock()
	if c != nil {
		c.close()
	}
}

// take does what a frame says.
func (a *agent) take(c conn, f *stellav1.ConnectResponse) error {
	now := time.Now()
	switch f := f.GetFrame().(type) {
	case *stellav1.ConnectResponse_HeartbeatAck:
		a.acked(f.HeartbeatAck, now)
	case *stellav1.ConnectResponse_Task:
		return a.work(c, f.Task, now)
	case *stellav1.ConnectResponse_Command:
		return a.obey(c, f.Command, now)
	case *stellav1.ConnectResponse_ResultAck:
		if h := a.fleet.hooks.Load(); h != nil && h.resultAck != nil {
			h.resultAck(f.ResultAck.GetRef().GetTaskId(), now)
		}
	case *stellav1.ConnectResponse_CommandReceipt:
		if h := a.fleet.hooks.Load(); h != nil && h.receipt != nil {
			h.receipt(f.CommandReceipt.GetCommandId(), now)
		}
	}
	return nil
}

// acked matches an answer with its heartbeat: they come in the order in which
// the heartbeats were sent.
func (a *agent) acked(ack *stellav1.HeartbeatAck, now time.Time) {
	a.mu.Lock()
	var beat waitingBeat
	if len(a.waiting) > 0 {
		beat = a.waiting[0]
		a.waiting = a.waiting[:copy(a.waiting, a.waiting[1:])]
	}
	if t := ack.GetServerTime(); t != nil {
		a.lastAck = t.AsTime()
	}
	if w := ack.GetReconnectWindowMs(); w > 0 {
		a.window = time.Duration(w) * time.Millisecond
	}
	a.mu.Unlock()
	if beat.by != nil {
		beat.by.acked(a.index, now.Sub(a.fleet.epoch)-beat.due, now)
	}
}

// work accepts a task and is done with it at once.
func (a *agent) work(c conn, f *stellav1.Task, now time.Time) error {
	var t api.AgentTask
	if err := json.Unmarshal(f.GetTaskJson(), &t); err != nil {
		return fmt.Errorf("decode a task: %w", err)
	}
	if h := a.fleet.hooks.Load(); h != nil && h.task != nil {
		h.task(&t, now)
	}
	ref := &stellav1.TaskRef{TaskId: t.ID, Attempt: t.Attempt}
	if err := c.send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskAccepted{TaskAccepted: &stellav1.TaskAccepted{Ref: ref, At: timestamppb.New(now)}}}); err != nil {
		return err
	}
	return c.send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskResult{TaskResult: &stellav1.TaskResult{Ref: ref, ResultJson: []byte(`{"success":true}`)}}})
}

// obey acknowledges a command.
func (a *agent) obey(c conn, f *stellav1.Command, now time.Time) error {
	var cmd api.AgentCommand
	if err := json.Unmarshal(f.GetCommandJson(), &cmd); err != nil {
		return fmt.Errorf("decode a command: %w", err)
	}
	if h := a.fleet.hooks.Load(); h != nil && h.command != nil {
		h.command(a.index, &cmd, now)
	}
	return c.send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_CommandAck{CommandAck: &stellav1.CommandAck{CommandId: cmd.ID}}})
}

// lastAnswered is when, by the server's clock, the last heartbeat came that
// was answered; the answer is made a moment after, so a second is let pass. A
// server that does not say gets the time since when somebody counted.
func (a *agent) lastAnswered(since time.Time) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at := a.lastAck.Add(-time.Second); at.After(since) {
		return at
	}
	return since
}
