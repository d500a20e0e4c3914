package agent

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/agent/link"
	"stella-ops.org/stella/internal/obs"
)

// standing is a connection whose welcome has come.
type standing struct {
	link.Conn
	carrier link.Carrier
	welcome *stellav1.Welcome
	cancel  context.CancelFunc
}

func (s *standing) close() {
	s.Close()
	s.cancel()
}

// dial opens a connection, which stands until it is closed or ctx ends. When the
// server has heard of a later boot, the agent begins one above it, and tries again.
func (c *connector) dial(ctx context.Context, carrier link.Carrier) (*standing, error) {
	s, err := c.dialOnce(ctx, carrier)
	refused, ok := errors.AsType[*link.NumberRefusedError](err)
	if !ok {
		return s, err
	}
	if err := c.agent.boot.Raise(refused.KnownBoot); err != nil {
		return nil, err
	}
	c.log.WarnContext(ctx, "the server has heard what this agent has yet to say: its data folder was restored from a copy, or another agent runs from one; the agent counts on from there", "known_boot", refused.KnownBoot)
	return c.dialOnce(ctx, carrier)
}

func (c *connector) dialOnce(ctx context.Context, carrier link.Carrier) (*standing, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &standing{carrier: carrier, cancel: cancel}
	c.taking.Lock()
	held := c.run.held()
	c.taking.Unlock()
	conn, err := carrier.Dial(ctx, &stellav1.Hello{
		ProtocolVersion: api.ProtocolVersion, Version: obs.BuildVersion(), Capabilities: c.agent.capabilities.names(),
		MaxConcurrentTasks: int32(c.agent.Config.MaxConcurrentTasks), Held: held, SentAt: timestamppb.New(c.agent.clock.now()), Commands: true, //nolint:gosec // at most 1000
		NotAccepting: c.agent.drained(), Instance: c.agent.boot.instance(), Host: hostname(),
	})
	if err != nil {
		cancel()
		return nil, err
	}
	s.Conn = conn
	// A dial that is swallowed on the way must not hang for ever.
	patience := time.AfterFunc(20*time.Second, conn.Close)
	first, err := conn.Recv()
	if !patience.Stop() && err == nil {
		err = context.DeadlineExceeded
	}
	if err == nil && first.GetWelcome() == nil {
		err = errors.New("the server did not begin with a welcome")
	}
	if err != nil {
		s.close()
		return nil, err
	}
	s.welcome = first.GetWelcome()
	return s, nil
}
