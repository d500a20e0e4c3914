package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
	"stella-ops.org/stella/internal/task"
)

// Queued implements task.Store.
func (s *Store) Queued(ctx context.Context, tenant, agentID string, sharedTargets []string, at time.Time, limit int) ([]task.Candidate, error) {
	if sharedTargets == nil {
		sharedTargets = []string{}
	}
	shared, err := json.Marshal(sharedTargets)
	if err != nil {
		return nil, fmt.Errorf("encode shared targets: %w", err)
	}
	rows, err := s.read().Queued(ctx, db.QueuedParams{
		At: column.At(at), TenantID: tenant, AgentID: agentID, SharedTargets: shared, Page: int64(page(limit)),
	})
	if err != nil {
		return nil, s.explain(ctx, "read queued tasks", err)
	}
	candidates := make([]task.Candidate, len(rows))
	for i, r := range rows {
		candidates[i] = task.Candidate{Ref: task.Ref{ID: r.ID, Attempt: r.Attempt}, Capability: r.Capability}
	}
	return candidates, nil
}

// ClaimTask implements task.Store.
//
// Claims of one agent wait for each other, because the tasks that it holds are
// counted. Claims of different agents do not; that two of them change one
// target is what a unique index refuses.
func (s *Store) ClaimTask(ctx context.Context, c task.Claim) (*task.Task, error) {
	var claimed *task.Task
	err := s.write(ctx, "claim task "+c.Ref.ID, func(q *db.Queries) error {
		claimed = nil
		a, ok, err := one(q.LockAgent(ctx, c.AgentID))
		if err != nil || !ok || a.Lifecycle != string(api.LifecycleActive) {
			return err
		}
		n, err := q.ClaimTask(ctx, db.ClaimTaskParams{
			ID: c.Ref.ID, Attempt: c.Ref.Attempt, TenantID: a.TenantID, AgentID: c.AgentID, AgentName: a.Name,
			MaxActive: int64(c.MaxActive), LeaseUntil: column.At(c.LeaseUntil), At: column.At(c.At),
		})
		if err != nil {
			return err
		}
		if n == 0 {
			return taskExists(ctx, q, "", c.Ref.ID)
		}
		row, err := q.TaskByID(ctx, c.Ref.ID)
		if err != nil {
			return err
		}
		claimed = taskOf(row)
		return nil
	})
	switch {
	case s.engine.Judge(err).Violated == TargetChange:
		return nil, nil // another agent's change was faster
	case err != nil:
		return nil, err
	}
	return claimed, nil
}

// HeldBy implements task.Store.
func (s *Store) HeldBy(ctx context.Context, agentID string) ([]*task.Task, error) {
	rows, err := s.read().HeldBy(ctx, agentID)
	if err != nil {
		return nil, s.explain(ctx, "read tasks of agent", err)
	}
	return each(rows, taskOf), nil
}

// StartTask implements task.Store.
func (s *Store) StartTask(ctx context.Context, agentID string, ref task.Ref, at time.Time) (bool, error) {
	return s.changeTask(ctx, "start task "+ref.ID, "", ref.ID, func(q *db.Queries) (int64, error) {
		return q.StartTask(ctx, db.StartTaskParams{ID: ref.ID, Attempt: ref.Attempt, AgentID: agentID, At: column.At(at)})
	})
}

// RenewLeases implements task.Store. A lease is never shortened, and attempts
// that the agent does not hold are passed over.
func (s *Store) RenewLeases(ctx context.Context, agentID string, refs []task.Ref, until time.Time) error {
	if len(refs) == 0 {
		return nil
	}
	return s.write(ctx, "renew leases", func(q *db.Queries) error {
		for _, ref := range refs {
			if err := q.RenewLease(ctx, db.RenewLeaseParams{ID: ref.ID, Attempt: ref.Attempt, AgentID: agentID, Until: column.At(until)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// FinishTask implements task.Store.
func (s *Store) FinishTask(ctx context.Context, f task.Finish) (bool, error) {
	return s.changeTask(ctx, "finish task "+f.Ref.ID, "", f.Ref.ID, func(q *db.Queries) (int64, error) {
		n, err := q.FinishTask(ctx, db.FinishTaskParams{
			ID: f.Ref.ID, Attempt: f.Ref.Attempt, AgentID: f.AgentID,
			State: string(f.State), Reason: f.Reason, Result: column.Result{V: f.Result}, At: column.At(f.At),
		})
		if err != nil || n == 0 || f.Deployment == nil {
			return n, err
		}
		return n, insertDeployment(ctx, q, f.Deployment)
	})
}

// LeasesBefore implements task.Store.
func (s *Store) LeasesBefore(ctx context.Context, at time.Time) ([]*task.Task, error) {
	rows, err := s.read().LeasesBefore(ctx, column.At(at))
	if err != nil {
		return nil, s.explain(ctx, "read lost leases", err)
	}
	return each(rows, taskOf), nil
}

// Requeue implements task.Store. A task whose end was asked for is not given
// back.
func (s *Store) Requeue(ctx context.Context, ref task.Ref, reason string, leaseBefore, _ time.Time) (bool, error) {
	return s.changeTask(ctx, "requeue task "+ref.ID, "", ref.ID, func(q *db.Queries) (int64, error) {
		return q.Requeue(ctx, db.RequeueParams{ID: ref.ID, Attempt: ref.Attempt, Reason: reason, LeaseBefore: column.At(leaseBefore)})
	})
}

// FailLost implements task.Store.
func (s *Store) FailLost(ctx context.Context, f task.Finish, leaseBefore time.Time) (bool, error) {
	return s.changeTask(ctx, "end lost task "+f.Ref.ID, "", f.Ref.ID, func(q *db.Queries) (int64, error) {
		return q.FailLost(ctx, db.FailLostParams{
			ID: f.Ref.ID, Attempt: f.Ref.Attempt, AgentID: f.AgentID, State: string(f.State), Reason: f.Reason,
			Result: column.Result{V: f.Result}, At: column.At(f.At), LeaseBefore: column.At(leaseBefore),
		})
	})
}
