package load

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"stella-ops.org/stella/api"
)

// Clean removes what simulated agents left on the server: all agents of their
// group, and their targets. It returns how many agents it removed.
func Clean(ctx context.Context, c Connection, progress func(text string)) (int, error) {
	o := Options{Connection: c, Agents: 1, Transport: Poll, Progress: progress}
	r, err := begin(ctx, o)
	if err != nil {
		return 0, err
	}
	defer r.end()
	agents, err := r.api.fleetAgents(ctx, "")
	if err != nil {
		return 0, err
	}
	ids := make([]api.Agent, 0, len(agents))
	for _, a := range agents {
		ids = append(ids, a)
	}
	var done atomic.Int64
	stop := every(progressEvery, func() { r.progress("removing agents: %d of %d", done.Load(), len(ids)) })
	defer stop()
	err = each(ctx, len(ids), enrolWorkers, func(ctx context.Context, i int) error {
		if err := gone(r.api.DeleteTarget(ctx, ids[i].Name)); err != nil {
			return fmt.Errorf("remove the target %s: %w", ids[i].Name, err)
		}
		if err := gone(r.api.DeleteAgent(ctx, ids[i].ID)); err != nil {
			return fmt.Errorf("remove the agent %s: %w", ids[i].Name, err)
		}
		done.Add(1)
		return nil
	})
	return int(done.Load()), err
}

// gone takes what is not there for removed.
func gone(err error) error {
	if p, ok := errors.AsType[*api.Problem](err); ok && p.Status == http.StatusNotFound {
		return nil
	}
	return err
}
