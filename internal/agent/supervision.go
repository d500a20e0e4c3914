package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"stella-ops.org/stella/internal/agent/sdnotify"
)

// supervision tells the service manager that started the agent how it does. Where
// there is none that listens, it does nothing.
type supervision struct {
	link  *linkState
	alive func() error
	// drain is how long the agent may take to end.
	drain time.Duration
	log   *slog.Logger
	ended chan struct{} // closed when all parts of the agent have ended
}

func newSupervision(a *Agent, conn *connector) *supervision {
	a.link.changed = make(chan struct{}, 1)
	return &supervision{link: &a.link, alive: conn.alive, drain: a.Config.DrainTimeout, log: a.Log, ended: make(chan struct{})}
}

// Run says that the agent has started, what becomes of its link, and, when ctx
// ends, that it stops. The watchdog is served until the agent's parts have ended,
// for running tasks may take their time.
func (s *supervision) Run(ctx context.Context) error {
	manager := sdnotify.New()
	if manager == nil {
		<-ctx.Done()
		return nil
	}
	s.told(ctx, manager.Ready(s.link.String()))
	within, err := manager.Watchdog()
	s.told(ctx, err)
	if within > 0 {
		go s.watch(context.WithoutCancel(ctx), manager, within/2)
	}
	for {
		select {
		case <-ctx.Done():
			status := fmt.Sprintf("stops; running tasks have %s to end", s.drain)
			s.told(context.WithoutCancel(ctx), manager.Stopping(status, s.drain+stopSlack))
			return nil
		case <-s.link.changed:
			s.told(ctx, manager.Status(s.link.String()))
		}
	}
}

// stopSlack is for what is left to do when the tasks have ended.
const stopSlack = 10 * time.Second

// watch says that the agent is alive for as long as it is. Should looking whether
// it is hang, then nothing is said, and the service manager ends the program with
// SIGABRT, at which Go writes down what every goroutine waits for.
func (s *supervision) watch(ctx context.Context, manager *sdnotify.Manager, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.ended:
			return
		case <-tick.C:
		}
		if err := s.alive(); err != nil {
			s.log.ErrorContext(ctx, "the agent is stuck; the service manager restarts it unless that passes", "error", err)
			continue
		}
		s.told(ctx, manager.Alive())
	}
}

// told logs what the service manager could not be told; the agent works without.
func (s *supervision) told(ctx context.Context, err error) {
	if err != nil {
		s.log.WarnContext(ctx, "the service manager does not hear how the agent does", "error", err)
	}
}

// alive goes through what all of the agent's work goes through, and what could
// hang: the runner's lock, the journal, and the connector's loop. It blocks as
// long as they do.
func (c *connector) alive() error {
	c.run.busyWith()
	if err := c.run.journal.Check(); err != nil {
		return err
	}
	if err := c.pulse.check(); err != nil {
		return fmt.Errorf("the link's loop: %w", err)
	}
	return nil
}
