package task

import (
	"context"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// Run ends what waited too long and takes back what its agent lost, once a
// second, until ctx ends. Leases are looked at only when the service itself
// has listened for a whole lease: agents could not renew while it was away.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	listeningSince := s.now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := s.now()
		expired, err := s.store.ExpireQueued(ctx, now)
		if err != nil {
			s.log.ErrorContext(ctx, "queued tasks were not swept", "error", err)
			listeningSince = now
			continue
		}
		for _, t := range expired {
			s.log.InfoContext(ctx, "task expired", "task", t.ID, "target", t.TargetName)
			s.moved(t, api.TaskExpired, t.Reason)
		}
		if now.Sub(listeningSince) < s.opts.Lease {
			continue
		}
		if err := s.sweepLeases(ctx, now); err != nil {
			s.log.ErrorContext(ctx, "leases were not swept", "error", err)
		}
	}
}

func (s *Service) sweepLeases(ctx context.Context, now time.Time) error {
	lost, err := s.store.LeasesBefore(ctx, now)
	if err != nil {
		return err
	}
	for _, t := range lost {
		if err := s.lost(ctx, t, now); err != nil {
			return fmt.Errorf("task %s: %w", t.ID, err)
		}
	}
	return nil
}

// lost decides about an attempt whose agent fell silent: what never began, or
// what another agent can do, goes back to the queue; the rest has failed.
func (s *Service) lost(ctx context.Context, t *Task, now time.Time) error {
	ref := Ref{t.ID, t.Attempt}
	again, err := s.mayRequeue(ctx, t)
	if err != nil {
		return err
	}
	if t.CancelRequested && t.State == api.TaskAssigned {
		f := Finish{Ref: ref, AgentID: t.AgentID, State: api.TaskCancelled, Reason: "cancelled; agent " + t.AgentName + " fell silent before it began the task", At: now}
		done, err := s.store.FailLost(ctx, f, now)
		if done {
			s.moved(t, f.State, f.Reason)
		}
		return err
	}
	if again && !t.CancelRequested {
		reason := fmt.Sprintf("attempt %d was taken back: agent %s fell silent", t.Attempt, t.AgentName)
		done, err := s.store.Requeue(ctx, ref, reason, now, now)
		if err != nil || !done {
			return err
		}
		s.log.WarnContext(ctx, "task requeued", "task", t.ID, "agent", t.AgentID, "attempt", t.Attempt)
		s.moved(t, api.TaskQueued, reason)
		s.wake.TaskQueued(t.TenantID, "")
		return nil
	}
	reason := fmt.Sprintf("agent %s fell silent while it ran the task: it will finish or undo it when it returns; look at the target before you deploy again", t.AgentName)
	done, err := s.store.FailLost(ctx, Finish{
		Ref: ref, AgentID: t.AgentID, State: api.TaskFailed, Reason: reason, At: now,
		Result: &api.TaskResult{TaskID: t.ID, Attempt: t.Attempt, StartedAt: t.AssignedAt, CompletedAt: now, Error: reason, ErrorType: api.ErrAgentLost, Retriable: true},
	}, now)
	if err != nil || !done {
		return err
	}
	s.log.WarnContext(ctx, "task lost with its agent", "task", t.ID, "agent", t.AgentID, "attempt", t.Attempt)
	s.moved(t, api.TaskFailed, reason)
	return nil
}

func (s *Service) mayRequeue(ctx context.Context, t *Task) (bool, error) {
	if t.State == api.TaskAssigned {
		return true, nil
	}
	if t.Attempt >= maxAttempts {
		return false, nil
	}
	tgt, err := s.store.Target(ctx, t.TenantID, t.TargetID)
	if fault.KindOf(err) == fault.NotFound {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if tgt.Selector == nil {
		return false, nil
	}
	agents, err := s.store.Agents(ctx, t.TenantID, fleet.Filter{Status: string(api.Live), Limit: 1000})
	if err != nil {
		return false, err
	}
	for _, a := range agents {
		if a.ID != t.AgentID && active(a) && a.Can(t.Capability) && tgt.ServedBy(a) {
			return true, nil
		}
	}
	return false, nil
}

// AppendLog stores log entries of an attempt that an agent holds, and returns
// the number of the last entry stored. A stale attempt's entries are dropped.
func (s *Service) AppendLog(ctx context.Context, a *fleet.Agent, ref Ref, firstSeq int64, entries []api.LogEntry) (int64, error) {
	t, err := s.store.Task(ctx, a.TenantID, ref.ID)
	if err != nil {
		return 0, err
	}
	if ref.Attempt == 0 {
		ref.Attempt = t.Attempt
	}
	if t.AgentID != a.ID || t.Attempt != ref.Attempt {
		return firstSeq + int64(len(entries)) - 1, nil
	}
	last, err := s.store.AppendLog(ctx, ref, firstSeq, entries, MaxLogBytes)
	if err != nil {
		return 0, err
	}
	s.wake.TaskChanged(t.TenantID, t.ID)
	return last, nil
}

// WaitingFor returns for whom tasks wait, so that a server can wake the links
// that it holds even when a wake-up was lost.
func (s *Service) WaitingFor(ctx context.Context) ([]Waiting, error) {
	return s.store.WaitingFor(ctx, s.now())
}

// Assigned returns what agents were given and have not begun, so that a server
// can look whether it went out over the links that it holds.
func (s *Service) Assigned(ctx context.Context) ([]Held, error) {
	return s.store.Assigned(ctx)
}
