package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/task"
)

// How often a server looks at the rollouts that move, whether there are any, and
// at the most when it is told that something has happened.
const (
	movingEvery = 300 * time.Millisecond
	idleEvery   = 2 * time.Second
	nudgedEvery = 30 * time.Millisecond
)

// Run moves rollouts on until ctx ends. Any number of servers may do so.
func (s *Service) Run(ctx context.Context) error {
	every, looked := idleEvery, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		case <-s.nudge:
			// Many tasks may end at once, and each look reads all of them.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(nudgedEvery - time.Since(looked)):
			}
		}
		looked = time.Now()
		moving, err := s.store.MovingRollouts(ctx)
		if err != nil {
			s.log.ErrorContext(ctx, "rollouts were not looked at", "error", err)
			continue
		}
		every = idleEvery
		for _, ref := range moving {
			every = movingEvery
			if err := s.Advance(ctx, ref); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "a rollout was not moved on", "rollout", ref.ID, "error", err)
			}
		}
	}
}

// Advance takes a rollout as far as it goes now. It may be called at any time,
// by several servers at once.
func (s *Service) Advance(ctx context.Context, ref Ref) error {
	for {
		r, err := s.store.Rollout(ctx, ref.TenantID, ref.ID)
		if err != nil {
			return err
		}
		was := r.clone()
		if err := s.observe(ctx, r); err != nil {
			return err
		}
		r.decide(s.now())
		if reflect.DeepEqual(was, r) {
			return nil
		}
		// Whatever is written first is acted upon next: a target's task is
		// queued only once everybody can read that its turn has come.
		done, err := s.store.UpdateRollout(ctx, r)
		if err != nil {
			return err
		}
		if done && was.State != r.State {
			s.log.InfoContext(ctx, "rollout moved", "rollout", r.ID, "state", r.State, "reason", r.Reason)
			s.moved(r)
		}
	}
}

func (r *Rollout) clone() *Rollout {
	c := *r
	c.Targets = slices.Clone(r.Targets)
	return &c
}

// observe brings the targets up to date with their tasks, and queues the tasks
// of those whose turn has come.
func (s *Service) observe(ctx context.Context, r *Rollout) error {
	var open *content
	for i := range r.Targets {
		t := &r.Targets[i]
		if !t.inFlight() {
			continue
		}
		id := t.Task
		if t.State == api.RolloutTargetRollingBack {
			id = t.UndoTask
		}
		if id == "" {
			if open == nil {
				var err error
				if open, err = s.open(r); err != nil {
					return err
				}
			}
			if err := s.begin(ctx, r, t, open); err != nil {
				return err
			}
			continue
		}
		if err := s.look(ctx, r, t, id); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) open(r *Rollout) (*content, error) {
	plain, err := s.seal.Open(SealName(r.ID), r.Sealed)
	if err != nil {
		return nil, fmt.Errorf("open rollout %s: %w", r.ID, err)
	}
	var c content
	if err := json.Unmarshal(plain, &c); err != nil {
		return nil, fmt.Errorf("decode rollout %s: %w", r.ID, err)
	}
	return &c, nil
}

// begin queues a target's task, under a name that belongs to this very turn.
func (s *Service) begin(ctx context.Context, r *Rollout, t *Target, c *content) error {
	undo := t.State == api.RolloutTargetRollingBack
	req := api.TaskRequest{
		Type: api.TaskDeploy, Target: t.ID, Payload: c.Payload, Credentials: c.Credentials,
		Timeout: r.Plan.Timeout, DeliveryTimeout: r.Plan.DeliveryTimeout, Priority: r.Plan.Priority,
		IdempotencyKey: fmt.Sprintf("rollout/%s/%s/%d", r.ID, t.ID, t.Try),
	}
	// A server that died behind its submission has left the task, and perhaps
	// it has run since: then the target says nothing about before any more.
	first, err := s.tasks.ByKey(ctx, r.TenantID, req.IdempotencyKey)
	if err != nil {
		return err
	}
	if first != nil {
		t.queued(first.ID, undo)
		return nil
	}
	current, err := s.tasks.Current(ctx, r.TenantID, t.ID)
	if err != nil {
		return err
	}
	switch {
	case undo:
		if why := t.stays(current); why != "" {
			t.settle(api.RolloutTargetRollbackFailed, why, s.now())
			return nil
		}
		req.Type, req.Credentials = api.TaskRollback, nil
		if req.Payload, err = json.Marshal(api.RollbackPayload{ReleaseID: t.From}); err != nil {
			return err
		}
	case !t.Looked:
		// Written before anything is queued, for the same reason.
		t.Looked = true
		if current != nil {
			t.From, t.FromTask = current.ReleaseID, current.TaskID
		}
		return nil
	}
	queued, _, err := s.tasks.Submit(ctx, r.TenantID, r.CreatedBy, req)
	f := fault.As(err)
	switch {
	case err == nil:
		t.queued(queued.ID, undo)
	case f == nil || f.Kind == fault.Unavailable || f.Kind == fault.Internal:
		return err
	case undo:
		t.settle(api.RolloutTargetRollbackFailed, f.Message, s.now())
	default: // it was checked when the rollout was made; the world has changed
		t.settle(api.RolloutTargetFailed, f.Message, s.now())
	}
	return nil
}

func (t *Target) queued(id string, undo bool) {
	if undo {
		t.UndoTask = id
	} else {
		t.Task = id
	}
}

// stays says why a target must not be rolled back now; empty when it may.
func (t *Target) stays(current *task.Deployment) string {
	switch {
	case t.From == "":
		return "nothing was deployed there before"
	case current == nil:
		return "its history is gone"
	case current.TaskID != t.Task && current.TaskID != t.FromTask:
		return "it was changed since, by task " + current.TaskID
	}
	return ""
}

func (t *Target) settle(state api.RolloutTargetState, reason string, now time.Time) {
	t.State, t.Reason, t.FinishedAt = state, reason, now
}

// look takes over what became of a target's task.
func (s *Service) look(ctx context.Context, r *Rollout, t *Target, id string) error {
	k, err := s.tasks.Get(ctx, r.TenantID, id)
	if fault.KindOf(err) == fault.NotFound {
		k = &task.Task{ID: id, State: api.TaskFailed, Reason: "its task is gone"}
	} else if err != nil {
		return err
	}
	if !k.State.Final() {
		if r.State == api.RolloutCancelling && t.State == api.RolloutTargetRunning && !k.CancelRequested {
			if _, err := s.tasks.Cancel(ctx, r.TenantID, id, r.CreatedBy); err != nil && fault.KindOf(err) != fault.Conflict {
				return err
			}
		}
		return nil
	}
	ok := k.State == api.TaskSucceeded
	undo := t.State == api.RolloutTargetRollingBack
	switch {
	case ok && undo:
		t.settle(api.RolloutTargetRolledBack, "", s.now())
	case ok:
		t.settle(api.RolloutTargetSucceeded, "", s.now())
	case undo:
		t.settle(api.RolloutTargetRollbackFailed, k.Reason, s.now())
	default:
		reason := k.Reason
		if reason == "" {
			reason = "its task was " + string(k.State)
		}
		t.settle(api.RolloutTargetFailed, reason, s.now())
		t.Unclear = unclearAfter(k)
	}
	return nil
}

// unclearAfter says whether a failed deployment may have left something else
// than what ran before.
func unclearAfter(k *task.Task) bool {
	res := k.Result
	if res == nil || res.RolledBack {
		return false
	}
	switch res.ErrorType {
	case api.ErrAgentLost, api.ErrRollbackFailed, api.ErrInternal:
		return true
	}
	return slices.ContainsFunc(res.Phases, func(p api.PhaseTime) bool { return p.Name == "switch" && p.State != "undone" })
}
