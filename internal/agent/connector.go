package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/agent/command"
	"stella-ops.org/stella/internal/agent/link"
)

// connector keeps the link: it dials, and dials again for ever, and moves
// frames between the link and the runner while one stands.
type connector struct {
	agent    *Agent
	id       *identity
	run      *runner
	commands *command.Runner
	carriers []link.Carrier
	log      *slog.Logger
	beat     chan struct{} // a heartbeat is wanted now
	anew     chan struct{} // the certificate is another: the link is to be made anew
	// follow is told when the server wants the certificate to be renewed.
	follow func(trust string, spread time.Duration, anew bool)

	pulse pulse // of Run, and of the sending that it does

	usage    usageMeter
	failures int          // in a row, over all carriers; owned by Run
	window   atomic.Int64 // what the server last said of how to spread, in milliseconds

	taking  sync.Mutex // while a task is taken over a link, or a hello says which were
	handing bool       // the link is being handed over: tasks come over the next one
	missed  bool       // one that came over this one was left for the next
}

func newConnector(a *Agent, id *identity, server *clients, run *runner, commands *command.Runner) (*connector, error) {
	self := link.Agent{
		ServerURL: id.ServerURL, ID: id.AgentID, Number: a.boot.Next,
		Plain: server.current(server.plain), Upgrading: server.current(server.upgrading),
	}
	ws, err := link.NewWebSocket(self)
	if err != nil {
		return nil, err
	}
	poll, err := link.NewPoll(self, a.Config.PollInterval)
	if err != nil {
		return nil, err
	}
	c := &connector{agent: a, id: id, run: run, commands: commands, log: a.Log, beat: make(chan struct{}, 1), anew: make(chan struct{}, 1), follow: func(string, time.Duration, bool) {}}
	// The leanest first, as measured by the server's memory for an agent that
	// says nothing.
	for _, carrier := range []link.Carrier{ws, link.NewGRPC(self), poll} {
		if a.Config.Transport == "auto" || a.Config.Transport == carrier.Name() {
			c.carriers = append(c.carriers, carrier)
		}
	}
	return c, nil
}

// beatNow asks for a heartbeat out of turn.
func (c *connector) beatNow() { ring(c.beat) }

// renewed has the link made anew with the certificate that the agent has now.
func (c *connector) renewed() { ring(c.anew) }

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default: // it rings already
	}
}

// A carrier that fails this often in a row gives way to the next. A lesser
// carrier is used for a while before the better ones are tried again, once
// each; the while grows, for what is between here and there may never let them
// through.
const (
	carrierTries = 3
	lesserMost   = 5 * time.Minute
)

// Run keeps the link until ctx ends, and lets running tasks end then.
func (c *connector) Run(ctx context.Context) error {
	current, tries := 0, 0
	lesserFor := c.agent.Pace.lesserFirst()
	good := 0 // what to come back to while better carriers are tried again
	var next *standing
	for ctx.Err() == nil {
		carrier := c.carriers[current]
		began := time.Now()
		var connected bool
		var err error
		c.pulse.beat(0)
		connected, next, err = c.connect(ctx, carrier, next, lesserFor)
		if ctx.Err() != nil {
			break
		}
		if next != nil {
			continue
		}
		switch {
		case errors.Is(err, errTryBest):
			good, current, tries, c.failures = current, 0, 0, 0
			lesserFor = min(2*lesserFor, lesserMost)
			continue
		case connected && (time.Since(began) >= c.agent.Pace.steady() || errors.Is(err, link.ErrEnded)):
			c.failures, tries, good = 0, 0, 0
			if current == 0 {
				lesserFor = c.agent.Pace.lesserFirst()
			}
		case current < good:
			// It did not get through. The one that does must not wait.
			c.log.InfoContext(ctx, "a better transport still does not get through", "transport", carrier.Name(), "error", c.explain(err))
			current++
			continue
		case connected:
			c.failures = 0
			tries++
		default:
			c.failures++
			tries++
		}
		if tries >= carrierTries {
			current, tries, good = (current+1)%len(c.carriers), 0, 0
		}
		why := c.explain(err)
		c.agent.link.failed(why, c.failures, c.agent.clock.now())
		if limit := c.agent.Config.MaxReconnectAttempts; limit > 0 && c.failures == limit {
			c.log.ErrorContext(ctx, "unhealthy: the server is out of reach; the agent goes on trying", "attempts", c.failures, "error", why)
		}
		step := c.failures
		if connected && time.Since(began) < 10*time.Second {
			step = max(step, 1) // it was thrown out at once: do not hurry back
		}
		wait := backoff(c.agent.Config.ReconnectBackoff, step, time.Duration(c.window.Load())*time.Millisecond)
		c.log.WarnContext(ctx, "the link is down", "transport", carrier.Name(), "error", why, "retry", wait.Round(time.Millisecond).String())
		c.pulse.beat(wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		case <-c.anew: // the old certificate may have been what was in the way
		}
	}
	if next != nil {
		next.close()
	}
	c.pulse.beat(c.agent.Config.DrainTimeout)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.agent.Config.DrainTimeout)
	defer cancel()
	var commands sync.WaitGroup
	commands.Go(func() { c.commands.Drain(grace) })
	if err := c.run.drain(grace); err != nil {
		c.log.WarnContext(grace, "stopping", "reason", err)
	}
	commands.Wait()
	return nil
}

// explain says why the server was not reached, and what to do about it.
func (c *connector) explain(err error) error {
	return toward(c.id.ServerURL, c.agent.clock.now()).explain(err)
}

// backoff grows from base to a minute and is jittered over its whole length,
// so that a fleet that lost its server does not come back as one; over the
// window at least, which the server has chosen for its fleet's size.
func backoff(base time.Duration, failures int, window time.Duration) time.Duration {
	d := base
	for range min(failures, 10) {
		d = d * 8 / 5
	}
	d = max(min(d, max(time.Minute, base)), window)
	return d/10 + rand.N(d*9/10+1) //nolint:gosec // spreading load needs no secret
}

// errTryBest ends a connection over a lesser carrier.
var errTryBest = errors.New("the best carrier is tried again")

// connect runs one connection until it ends, and reports whether it stood: the
// one that stands already, or one that it dials. A lesser carrier's connection
// ends after a while with errTryBest. When the certificate was renewed, it ends
// only when the next one stands, which it returns.
func (c *connector) connect(ctx context.Context, carrier link.Carrier, conn *standing, lesserFor time.Duration) (connected bool, next *standing, err error) {
	parent := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if conn == nil {
		c.handOver(false)
		if conn, err = c.dial(parent, carrier); err != nil {
			return false, nil, err
		}
	}
	defer conn.close()
	c.handOver(false)
	welcome := conn.welcome
	c.window.Store(welcome.GetReconnectWindowMs())
	c.log.InfoContext(ctx, "connected", "server", welcome.GetServer(), "transport", carrier.Name())
	if at := welcome.GetServerTime(); at != nil {
		c.agent.clock.compare(ctx, c.log, at.AsTime())
	}
	c.follow(welcome.GetTrust(), time.Duration(welcome.GetTrustSpreadMs())*time.Millisecond, true)
	c.agent.link.up(carrier.Name(), c.agent.clock.now())
	c.run.reconnected()
	c.commands.Reconnected()

	received := make(chan error, 1)
	go func() { received <- c.receive(ctx, conn) }()
	if lesserFor > 0 && carrier != c.carriers[0] {
		best := time.AfterFunc(lesserFor, func() { cancel(errTryBest) })
		defer best.Stop()
	}
	h := &handover{connector: c, parent: parent, carrier: carrier}
	err = c.send(ctx, conn, time.Duration(welcome.GetHeartbeatIntervalMs())*time.Millisecond, received, h)
	if errors.Is(context.Cause(ctx), errTryBest) {
		err = errTryBest
	}
	if next = h.settle(); next == nil {
		c.agent.link.down(c.agent.clock.now())
	}
	return true, next, err
}

// send is the only one to write to the connection: heartbeats when they are
// due, and whatever the runner has.
func (c *connector) send(ctx context.Context, conn link.Conn, interval time.Duration, received <-chan error, h *handover) error {
	if interval <= 0 {
		interval = 30 * time.Second
	}
	// The first heartbeat goes at once; the next ones where chance puts
	// them, so that a fleet does not beat as one.
	next := time.NewTimer(0)
	defer next.Stop()
	firstBeat := true
	for {
		c.pulse.beat(interval) // a heartbeat is due by then
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-received:
			return err
		case <-next.C:
			if err := conn.Send(c.heartbeat(ctx)); err != nil {
				return errors.Join(err, afterSend(received))
			}
			wait := interval
			if firstBeat {
				wait, firstBeat = rand.N(interval)+1, false //nolint:gosec // spreading load needs no secret
			}
			next.Reset(wait)
		case <-c.beat:
			if err := conn.Send(c.heartbeat(ctx)); err != nil {
				return errors.Join(err, afterSend(received))
			}
		case <-c.anew:
			h.begin()
		case <-h.done:
			if over, err := h.over(ctx); over {
				return err
			}
		case <-c.run.dirty:
			if err := c.run.flush(h.send(conn)); errors.Is(err, errStands) {
				return nil
			} else if err != nil {
				return errors.Join(err, afterSend(received))
			}
		case <-c.commands.Dirty():
			// Who reads that the agent is drained may rely on it: the server
			// must have heard so before.
			select {
			case <-c.beat:
				if err := conn.Send(c.heartbeat(ctx)); err != nil {
					return errors.Join(err, afterSend(received))
				}
			default:
			}
			if err := c.commands.Flush(h.send(conn)); errors.Is(err, errStands) {
				return nil
			} else if err != nil {
				return errors.Join(err, afterSend(received))
			}
		}
	}
}

// afterSend fetches what the server said when sending failed: the stream's end
// says why, the failed send only that.
func afterSend(received <-chan error) error {
	select {
	case err := <-received:
		return err
	case <-time.After(time.Second):
		return nil
	}
}

func (c *connector) heartbeat(ctx context.Context) *stellav1.ConnectRequest {
	usage := c.usage.read(ctx, c.agent.Config.Data)
	raw, err := json.Marshal(usage)
	if err != nil {
		c.log.ErrorContext(ctx, "the resource usage was not encoded", "error", err)
	}
	status := api.StatusOnline
	if c.agent.capabilities.broken() != "" {
		status = api.StatusDegraded
	}
	notAccepting := cmp.Or(c.agent.drained(), overLimit(&c.agent.Config, usage))
	c.agent.link.beats(notAccepting)
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Heartbeat{Heartbeat: &stellav1.Heartbeat{
		Status: string(status), ResourceUsageJson: raw, Running: c.run.held(), Capabilities: c.agent.capabilities.names(),
		NotAccepting: notAccepting, SentAt: timestamppb.New(c.agent.clock.now()),
	}}}
}

// receive does what the server says until the connection ends.
func (c *connector) receive(ctx context.Context, conn link.Conn) error {
	for {
		f, err := conn.Recv()
		if err != nil {
			return err
		}
		switch f := f.GetFrame().(type) {
		case *stellav1.ConnectResponse_Task:
			if err := c.take(ctx, f.Task); err != nil {
				// Not begun: the server hands it out again when this
				// connection is made anew, and the disk may be well then.
				return err
			}
		case *stellav1.ConnectResponse_CancelTask:
			c.run.cancelTask(f.CancelTask.GetRef().GetTaskId(), f.CancelTask.GetReason())
		case *stellav1.ConnectResponse_Command:
			k, err := c.run.unwrap.command(ctx, f.Command.GetCommandJson())
			switch {
			case k == nil:
				return err
			case err != nil:
				c.log.ErrorContext(ctx, "a command is refused", "command", k.ID, "type", k.Type, "error", err)
				c.commands.Refuse(k.ID, err)
			default:
				c.commands.Take(k) //nolint:contextcheck // it outlives the link that it came over
			}
		case *stellav1.ConnectResponse_CommandReceipt:
			c.commands.Known(ctx, f.CommandReceipt)
		case *stellav1.ConnectResponse_HeartbeatAck:
			c.agent.link.beaten(c.agent.clock.now())
			if w := f.HeartbeatAck.GetReconnectWindowMs(); w > 0 {
				c.window.Store(w)
			}
			if ctx.Err() != nil {
				return ctx.Err() // the next link has said already what is to be followed
			}
			c.follow(f.HeartbeatAck.GetTrust(), time.Duration(f.HeartbeatAck.GetTrustSpreadMs())*time.Millisecond, false)
		case *stellav1.ConnectResponse_ResultAck:
			c.run.acked(ctx, f.ResultAck.GetRef(), f.ResultAck.GetAccepted(), f.ResultAck.GetReason())
		case *stellav1.ConnectResponse_HeartbeatWanted:
			c.beatNow()
		case *stellav1.ConnectResponse_LogAck:
			c.run.logAcked(f.LogAck.GetRef(), f.LogAck.GetLastSeq())
		}
	}
}
