package task

import (
	"context"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/target"
)

// Next claims the task that an agent should run next, or returns nil. The
// caller says how many tasks the agent may hold; 0 means the default. The
// claim is durable when Next returns.
func (s *Service) Next(ctx context.Context, a *fleet.Agent, maxActive int) (*api.AgentTask, error) {
	if !active(a) {
		return nil, nil
	}
	if maxActive <= 0 {
		maxActive = DefaultMaxActive
	}
	shared, err := s.store.SharedTargets(ctx, a.TenantID)
	if err != nil {
		return nil, err
	}
	var mine []string
	for _, t := range shared {
		if t.ServedBy(a) {
			mine = append(mine, t.ID)
		}
	}
	now := s.now()
	// What does not suit this agent, however much of it stands in front, must
	// not hide what does.
	for seen, limit := 0, 64; ; seen, limit = limit, 4*limit {
		queued, err := s.store.Queued(ctx, a.TenantID, a.ID, mine, now, limit)
		if err != nil {
			return nil, err
		}
		for _, c := range queued[min(seen, len(queued)):] {
			if !a.Can(c.Capability) {
				continue
			}
			if len(mine) > 0 && a.EncryptionKey == "" {
				if leave, err := s.leaveToAnother(ctx, a, c.Ref.ID); err != nil {
					return nil, err
				} else if leave {
					continue
				}
			}
			t, err := s.store.ClaimTask(ctx, Claim{
				Ref: c.Ref, AgentID: a.ID, MaxActive: maxActive, LeaseUntil: now.Add(s.opts.Lease), At: now,
			})
			if err != nil {
				return nil, err
			}
			if t != nil {
				s.moved(t, api.TaskAssigned, "")
				if assigned, err := s.assign(ctx, a, t); assigned != nil || err != nil {
					return assigned, err
				}
			}
		}
		if len(queued) < limit {
			return nil, nil
		}
	}
}

// Shares returns, for a tenant, a function that reports whether an agent serves
// any of the targets that several agents may serve.
func (s *Service) Shares(ctx context.Context, tenant string) (func(*fleet.Agent) bool, error) {
	shared, err := s.store.SharedTargets(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return func(a *fleet.Agent) bool {
		return slices.ContainsFunc(shared, func(t *target.Target) bool { return t.ServedBy(a) })
	}, nil
}

// Resume compares what the store says an agent holds with what the agent says
// when it connects. It returns the tasks to hand out again, because their
// assignment was lost on the way, and the attempts to cancel. A task that the
// agent had begun and knows no more (its journal is gone) is ended as lost.
func (s *Service) Resume(ctx context.Context, a *fleet.Agent, held []Ref) (again []*api.AgentTask, cancel []Ref, err error) {
	tasks, err := s.store.HeldBy(ctx, a.ID)
	if err != nil {
		return nil, nil, err
	}
	has := make(map[string]int64, len(held))
	for _, r := range held {
		has[r.ID] = r.Attempt
	}
	now := s.now()
	for _, t := range tasks {
		ref := Ref{t.ID, t.Attempt}
		attempt, known := has[t.ID]
		switch {
		case known && !outdated(a, t, attempt):
			if t.State == api.TaskAssigned {
				if err := s.Accepted(ctx, a, ref, now); err != nil {
					return nil, nil, err
				}
			}
			if t.CancelRequested {
				cancel = append(cancel, ref)
			}
		case t.State == api.TaskAssigned && !t.CancelRequested && active(a):
			task, err := s.assign(ctx, a, t)
			if err != nil {
				return nil, nil, err
			}
			if task != nil {
				again = append(again, task)
			}
		case t.State == api.TaskAssigned && !t.CancelRequested:
			// The agent may have no new task now; the lease gives it back.
		case t.State == api.TaskAssigned:
			// Never begun, and not wanted any more.
			f := Finish{Ref: ref, AgentID: a.ID, State: api.TaskCancelled, Reason: "cancelled before it began", At: now}
			if _, err := s.store.FinishTask(ctx, f); err != nil {
				return nil, nil, err
			}
			s.moved(t, f.State, f.Reason)
		default:
			reason := "agent " + a.Name + " has come back without any record of this task: its state was deleted; look at the target before you deploy again"
			f := Finish{
				Ref: ref, AgentID: a.ID, State: api.TaskFailed, Reason: reason, At: now,
				Result: &api.TaskResult{TaskID: t.ID, Attempt: t.Attempt, StartedAt: t.StartedAt, CompletedAt: now, Error: reason, ErrorType: api.ErrAgentLost},
			}
			if _, err := s.store.FinishTask(ctx, f); err != nil {
				return nil, nil, err
			}
			s.moved(t, f.State, f.Reason)
		}
	}
	return again, cancel, s.Renew(ctx, a.ID, held)
}

// Pending is Resume for agents that poll: the assigned tasks that they do not
// name come again, but nothing is concluded from what they leave out, because
// a simple client may name nothing at all.
func (s *Service) Pending(ctx context.Context, a *fleet.Agent, running []Ref) (again []*api.AgentTask, cancel []Ref, err error) {
	tasks, err := s.store.HeldBy(ctx, a.ID)
	if err != nil {
		return nil, nil, err
	}
	has := make(map[string]int64, len(running))
	for _, r := range running {
		has[r.ID] = r.Attempt
	}
	var renew []Ref
	for _, t := range tasks {
		attempt, known := has[t.ID]
		if known {
			// Whatever attempt it says: a simple client says none.
			renew = append(renew, Ref{t.ID, t.Attempt})
		}
		switch {
		case t.CancelRequested:
			cancel = append(cancel, Ref{t.ID, t.Attempt})
		case known && !outdated(a, t, attempt):
			if t.State == api.TaskAssigned {
				if err := s.Accepted(ctx, a, Ref{t.ID, t.Attempt}, s.now()); err != nil {
					return nil, nil, err
				}
			}
		case t.State == api.TaskAssigned && active(a):
			task, err := s.assign(ctx, a, t)
			if err != nil {
				return nil, nil, err
			}
			if task != nil {
				again = append(again, task)
			}
		}
	}
	return again, cancel, s.Renew(ctx, a.ID, renew)
}

// Again returns an attempt that an agent was given and has not begun, for it to
// be handed out again; nil when that is not so, or not any more.
func (s *Service) Again(ctx context.Context, a *fleet.Agent, ref Ref) (*api.AgentTask, error) {
	t, err := s.store.Task(ctx, a.TenantID, ref.ID)
	if fault.KindOf(err) == fault.NotFound {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if t.AgentID != a.ID || t.Attempt != ref.Attempt || t.State != api.TaskAssigned || t.CancelRequested || !active(a) {
		return nil, nil
	}
	return s.assign(ctx, a, t)
}

// outdated reports whether an agent holds an older attempt at a task than the
// one that it was assigned: that one was lost on the way and comes again, for
// the agent must take over its number, or its result is refused. 0 stands for
// the current attempt.
func outdated(a *fleet.Agent, t *Task, attempt int64) bool {
	return attempt != 0 && attempt < t.Attempt && t.State == api.TaskAssigned && !t.CancelRequested && active(a)
}

// Accepted notes that an attempt is in its agent's journal and begins. A stale
// attempt is ignored: its result will be refused.
func (s *Service) Accepted(ctx context.Context, a *fleet.Agent, ref Ref, at time.Time) error {
	now := s.now()
	if at.IsZero() || at.After(now) {
		at = now
	}
	started, err := s.store.StartTask(ctx, a.ID, ref, at)
	if err != nil || !started {
		return err
	}
	s.movedTo(ctx, a.TenantID, ref.ID, api.TaskRunning)
	return nil
}

// Renew prolongs the leases of the attempts that an agent names.
func (s *Service) Renew(ctx context.Context, agentID string, refs []Ref) error {
	if len(refs) == 0 {
		return nil
	}
	return s.store.RenewLeases(ctx, agentID, refs, s.now().Add(s.opts.Lease))
}

// Finish takes the result of an attempt. It is idempotent: the same result
// again is taken again. A result of an attempt that is over is refused with
// the reason, and kept in the audit log.
func (s *Service) Finish(ctx context.Context, a *fleet.Agent, ref Ref, r *api.TaskResult) (accepted bool, reason string, err error) {
	t, err := s.store.Task(ctx, a.TenantID, ref.ID)
	if err != nil {
		return false, "", err
	}
	if ref.Attempt == 0 {
		ref.Attempt = t.Attempt
	}
	now := s.now()
	r.TaskID, r.Attempt = t.ID, ref.Attempt
	if r.CompletedAt.IsZero() || r.CompletedAt.After(now) {
		r.CompletedAt = now
	}
	if r.StartedAt.IsZero() {
		r.StartedAt = t.AssignedAt
	}
	f := Finish{Ref: ref, AgentID: a.ID, State: api.TaskSucceeded, Result: r, At: now}
	if !r.Success {
		f.State, f.Reason = api.TaskFailed, firstLine(r.Error)
		if r.ErrorType == api.ErrCancelled {
			f.State = api.TaskCancelled
		}
	}
	if r.Success && (t.Type == api.TaskDeploy || t.Type == api.TaskRollback) {
		if f.Deployment, err = s.deployed(t, r, now); err != nil {
			return false, "", err
		}
	}
	done, err := s.store.FinishTask(ctx, f)
	if err != nil {
		return false, "", err
	}
	if done {
		s.moved(t, f.State, f.Reason)
		s.wake.TaskQueued(a.TenantID, a.ID) // it has a slot again
		if t.Changing {
			// And the target is free, for others who serve it too.
			if tgt, err := s.store.Target(ctx, a.TenantID, t.TargetID); err == nil && tgt.Selector != nil {
				s.wake.TaskQueued(a.TenantID, "")
			}
		}
		return true, "", nil
	}
	// Again, or too late?
	if t, err = s.store.Task(ctx, a.TenantID, ref.ID); err != nil {
		return false, "", err
	}
	if t.AgentID == a.ID && t.Attempt == ref.Attempt && t.Result != nil && t.Result.Success == r.Success && t.Result.ErrorType == r.ErrorType {
		return true, "", nil
	}
	reason = "the attempt is over: the task is " + string(t.State)
	if t.Attempt != ref.Attempt {
		reason = "a newer attempt has replaced this one"
	}
	outcome := "failed"
	if r.Success {
		outcome = "succeeded"
	}
	s.audit.Audit(ctx, access.Event{
		TenantID: a.TenantID, Actor: "agent:" + a.ID, Action: "task.late_result", Object: t.ID,
		Outcome: "denied", Detail: reason + "; the late result: " + outcome + " " + r.ErrorType + " " + firstLine(r.Error),
	})
	return false, reason, nil
}

// deployed makes the entry of the target's history.
func (s *Service) deployed(t *Task, r *api.TaskResult, at time.Time) (*Deployment, error) {
	sec, err := s.openSecret(t.ID, t.Sealed)
	if err != nil {
		return nil, err
	}
	d := &Deployment{TaskID: t.ID, TenantID: t.TenantID, TargetID: t.TargetID, At: at}
	d.ReleaseID, _ = r.Outputs["releaseId"].(string)
	d.Digest, _ = r.Outputs["digest"].(string)
	if d.ReleaseID == "" {
		d.ReleaseID = t.ID
	}
	return d, s.fillDeployment(d, t, sec)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 1000 {
		s = s[:1000] + "…"
	}
	return s
}
