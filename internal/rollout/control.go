package rollout

import (
	"context"
	"fmt"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// change reads a rollout, changes it and writes it, again if somebody has
// written meanwhile.
func (s *Service) change(ctx context.Context, tenant, id string, fn func(r *Rollout) error) (*Rollout, error) {
	for {
		r, err := s.store.Rollout(ctx, tenant, id)
		if err != nil {
			return nil, err
		}
		if err := fn(r); err != nil {
			return nil, err
		}
		done, err := s.store.UpdateRollout(ctx, r)
		if err != nil {
			return nil, err
		}
		if done {
			s.moved(r)
			return r, nil
		}
	}
}

func notNow(r *Rollout, what, next string) error {
	return fault.New(fault.Conflict, "rollout_state", "rollout %s is %s, and cannot be %s: %s", r.ID, r.State, what, next)
}

// Pause lets a running rollout begin no other target; those that were begun go
// on.
func (s *Service) Pause(ctx context.Context, tenant, id, by string) (*Rollout, error) {
	return s.change(ctx, tenant, id, func(r *Rollout) error {
		if r.State != api.RolloutRunning {
			return notNow(r, "paused", "only a running one can")
		}
		r.enter(api.RolloutPaused, "paused by "+by, s.now())
		return nil
	})
}

// Resume lets a paused or stopped rollout go on. Failures until now count no
// more towards its limit; with retry, the targets that failed have another turn.
func (s *Service) Resume(ctx context.Context, tenant, id, by string, retry bool) (*Rollout, error) {
	return s.change(ctx, tenant, id, func(r *Rollout) error {
		counts := r.Counts()
		switch {
		case r.State == api.RolloutPaused || r.State == api.RolloutStopped:
		case r.State == api.RolloutFailed && counts[api.RolloutTargetRolledBack]+counts[api.RolloutTargetRollbackFailed] > 0:
			return notNow(r, "resumed", "targets of it were rolled back; begin a new one")
		case r.State == api.RolloutFailed && retry && counts[api.RolloutTargetFailed] > 0:
		default:
			return notNow(r, "resumed", "only one that is paused or stopped can, and one that failed with another turn for its failed targets")
		}
		failed := 0
		for i := range r.Targets {
			t := &r.Targets[i]
			switch {
			case retry && t.State == api.RolloutTargetFailed, r.State == api.RolloutFailed && t.State == api.RolloutTargetSkipped:
				t.State, t.Unclear = api.RolloutTargetPending, false
			case t.State == api.RolloutTargetFailed:
				failed++
			}
		}
		if r.State == api.RolloutPaused {
			r.Plan.PauseAfter = 0
		}
		r.Plan.Forgiven = failed
		r.enter(api.RolloutRunning, "resumed by "+by, s.now())
		return nil
	})
}

// Cancel ends a rollout: no other target is begun, and the tasks that were begun
// are asked to stop, and undo themselves.
func (s *Service) Cancel(ctx context.Context, tenant, id, by string) (*Rollout, error) {
	return s.change(ctx, tenant, id, func(r *Rollout) error {
		switch r.State {
		case api.RolloutRunning, api.RolloutPaused, api.RolloutStopped:
		case api.RolloutRollingBack:
			return notNow(r, "cancelled", "wait until its targets are back")
		default:
			return notNow(r, "cancelled", "it is over")
		}
		r.enter(api.RolloutCancelling, "cancelled by "+by, s.now())
		return nil
	})
}

// Rollback brings the targets of a rollout back to what they ran before it; one
// that was changed since is left alone.
func (s *Service) Rollback(ctx context.Context, tenant, id, by string) (*Rollout, error) {
	return s.change(ctx, tenant, id, func(r *Rollout) error {
		switch {
		case r.State == api.RolloutRollingBack || r.State == api.RolloutCancelling:
			return notNow(r, "rolled back", "it is on its way to its end already")
		case r.flying() > 0:
			return fault.New(fault.Conflict, "rollout_busy",
				"rollout %s still works on %s: cancel it, or pause it and wait, then roll it back", r.ID, targets(r.flying()))
		}
		counts := r.Counts()
		if counts[api.RolloutTargetSucceeded]+counts[api.RolloutTargetRollbackFailed]+unclear(r) == 0 {
			return fault.New(fault.Conflict, "rollout_unchanged", "rollout %s has changed no target, so that there is nothing to roll back", r.ID)
		}
		r.goBack(true, fmt.Sprintf("rolled back by %s", by), s.now())
		return nil
	})
}

func unclear(r *Rollout) int {
	n := 0
	for i := range r.Targets {
		if r.Targets[i].State == api.RolloutTargetFailed && r.Targets[i].Unclear {
			n++
		}
	}
	return n
}
