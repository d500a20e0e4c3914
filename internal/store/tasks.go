package store

import (
	"context"
	"encoding/json"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
	"stella-ops.org/stella/internal/task"
)

// TaskByKey implements task.Store.
func (s *Store) TaskByKey(ctx context.Context, tenant, key string) (*task.Task, error) {
	row, ok, err := one(s.read().TaskByKey(ctx, db.TaskByKeyParams{TenantID: tenant, IdempotencyKey: key}))
	if err != nil || !ok {
		return nil, s.explain(ctx, "read task by its idempotency key", err)
	}
	return taskOf(row), nil
}

// InsertTask implements task.Store. A missing target is a fault of kind
// NotFound.
func (s *Store) InsertTask(ctx context.Context, t *task.Task) (first *task.Task, err error) {
	err = s.write(ctx, "insert task", func(q *db.Queries) error {
		if first, err = taskByKey(ctx, q, t); first != nil || err != nil {
			return err
		}
		// The target must not be deleted under the task.
		name, ok, err := one(q.ShareTarget(ctx, db.ShareTargetParams{TenantID: t.TenantID, ID: t.TargetID}))
		if err != nil {
			return err
		}
		if !ok {
			return targetNotFound(t.TargetID)
		}
		if err := takeArtifacts(ctx, q, t); err != nil {
			return err
		}
		payload := column.Raw(t.Payload)
		if len(payload) == 0 {
			payload = column.Raw("{}")
		}
		n, err := q.InsertTask(ctx, db.InsertTaskParams{
			ID: t.ID, TenantID: t.TenantID, Type: string(t.Type), TargetID: t.TargetID, TargetName: name, Reason: t.Reason,
			Changing: t.Changing, Capability: t.Capability, Priority: int64(t.Priority), Payload: payload, Sealed: t.Sealed,
			TimeoutMS: t.Timeout.Milliseconds(), IdempotencyKey: t.IdempotencyKey, Attempt: t.Attempt,
			CreatedBy: t.CreatedBy, CreatedAt: column.At(t.CreatedAt), ExpiresAt: column.At(t.ExpiresAt),
		})
		if err != nil {
			return err
		}
		if n == 0 {
			first, err = taskByKey(ctx, q, t)
			return err
		}
		for _, a := range t.Artifacts {
			if err := q.InsertArtifactUse(ctx, db.InsertArtifactUseParams{TenantID: t.TenantID, Digest: a.Digest, TaskID: t.ID}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return first, nil
}

// CheckArtifacts implements task.Store.
func (s *Store) CheckArtifacts(ctx context.Context, t *task.Task) error {
	for _, a := range t.Artifacts {
		row, ok, err := one(s.read().Artifact(ctx, db.ArtifactParams{TenantID: t.TenantID, Digest: a.Digest}))
		switch {
		case err != nil:
			return s.explain(ctx, "read artifact", err)
		case !ok:
			return a.Missing(false, 0, 0)
		case !row.Complete:
			return a.Missing(true, row.Received, row.Size)
		}
	}
	return nil
}

// takeArtifacts marks the artifacts of a task as used now: from here on, nobody
// removes them before the task stands.
func takeArtifacts(ctx context.Context, q *db.Queries, t *task.Task) error {
	for _, a := range t.Artifacts {
		n, err := q.UseArtifact(ctx, db.UseArtifactParams{TenantID: t.TenantID, Digest: a.Digest, At: column.At(t.CreatedAt)})
		if err != nil {
			return err
		}
		if n == 0 {
			return a.Missing(false, 0, 0)
		}
	}
	return nil
}

// taskByKey returns the task that has the same idempotency key, or nil.
func taskByKey(ctx context.Context, q *db.Queries, t *task.Task) (*task.Task, error) {
	if t.IdempotencyKey == "" {
		return nil, nil
	}
	row, ok, err := one(q.TaskByKey(ctx, db.TaskByKeyParams{TenantID: t.TenantID, IdempotencyKey: t.IdempotencyKey}))
	if err != nil || !ok {
		return nil, err
	}
	return taskOf(row), nil
}

// Task implements task.Store.
func (s *Store) Task(ctx context.Context, tenant, id string) (*task.Task, error) {
	row, ok, err := one(s.read().Task(ctx, db.TaskParams{TenantID: tenant, ID: id}))
	if err != nil {
		return nil, s.explain(ctx, "read task", err)
	}
	if !ok {
		return nil, taskNotFound(id)
	}
	return taskOf(row), nil
}

// Tasks implements task.Store.
func (s *Store) Tasks(ctx context.Context, tenant string, f task.Filter) ([]*task.Task, error) {
	rows, err := list(ctx, s, taskListing, f.Where(), f.Query, f.Limit, func(q *db.Queries) ([]*db.TaskDetail, error) {
		return q.Tasks(ctx, tenant)
	})
	return each(rows, taskOf), err
}

// CancelQueued implements task.Store.
func (s *Store) CancelQueued(ctx context.Context, tenant, id, reason string, at time.Time) (bool, error) {
	return s.changeTask(ctx, "cancel task "+id, tenant, id, func(q *db.Queries) (int64, error) {
		return q.CancelQueued(ctx, db.CancelQueuedParams{TenantID: tenant, ID: id, Reason: reason, At: column.At(at)})
	})
}

// RequestCancel implements task.Store. To ask again is no error, and changes
// nothing.
func (s *Store) RequestCancel(ctx context.Context, tenant, id string, at time.Time) (bool, error) {
	return s.changeTask(ctx, "request end of task "+id, tenant, id, func(q *db.Queries) (int64, error) {
		return q.RequestCancel(ctx, db.RequestCancelParams{TenantID: tenant, ID: id, At: column.At(at)})
	})
}

// changeTask runs a statement about one task and reports whether it did
// anything. A missing task is a fault; an empty tenant stands for any.
func (s *Store) changeTask(ctx context.Context, what, tenant, id string, change func(q *db.Queries) (int64, error)) (bool, error) {
	done := false
	err := s.write(ctx, what, func(q *db.Queries) error {
		n, err := change(q)
		done = n > 0
		if err != nil || done {
			return err
		}
		return taskExists(ctx, q, tenant, id)
	})
	return done && err == nil, err
}

// ExpireQueued implements task.Store. Each task is returned once, whatever the
// number of servers that ask.
func (s *Store) ExpireQueued(ctx context.Context, at time.Time) ([]*task.Task, error) {
	var expired []*task.Task
	err := s.write(ctx, "expire queued tasks", func(q *db.Queries) error {
		expired = nil
		ids, err := q.ExpireQueued(ctx, column.At(at))
		if err != nil {
			return err
		}
		for _, id := range ids {
			row, err := q.TaskByID(ctx, id)
			if err != nil {
				return err
			}
			expired = append(expired, taskOf(row))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return expired, nil
}

// WaitingFor implements task.Store.
func (s *Store) WaitingFor(ctx context.Context, at time.Time) ([]task.Waiting, error) {
	rows, err := s.read().WaitingFor(ctx, column.At(at))
	if err != nil {
		return nil, s.explain(ctx, "read waiting tasks", err)
	}
	waiting := make([]task.Waiting, len(rows))
	for i, r := range rows {
		waiting[i] = task.Waiting{TenantID: r.TenantID, AgentID: r.AgentID}
	}
	return waiting, nil
}

func taskExists(ctx context.Context, q *db.Queries, tenant, id string) error {
	n, err := q.TaskExists(ctx, db.TaskExistsParams{ID: id, TenantID: tenant})
	if err == nil && n == 0 {
		return taskNotFound(id)
	}
	return err
}

func taskNotFound(id string) error {
	return fault.New(fault.NotFound, "task_not_found", "there is no task %q: `stella task list` shows those that are", id)
}

func taskOf(r *db.TaskDetail) *task.Task {
	return &task.Task{
		ID: r.ID, TenantID: r.TenantID, Type: api.TaskType(r.Type), TargetID: r.TargetID,
		TargetName: r.TargetLabel, AgentName: r.AgentLabel, State: api.TaskState(r.State), Reason: r.Reason,
		Changing: r.Changing, Capability: r.Capability, Priority: int(r.Priority),
		Payload: json.RawMessage(r.Payload), Sealed: r.Sealed,
		Timeout: time.Duration(r.TimeoutMS) * time.Millisecond, IdempotencyKey: r.IdempotencyKey,
		AgentID: r.AgentID, Attempt: r.Attempt, LeaseUntil: r.LeaseUntil.Time, CancelRequested: r.CancelRequested,
		CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt.Time, ExpiresAt: r.ExpiresAt.Time, AssignedAt: r.AssignedAt.Time,
		StartedAt: r.StartedAt.Time, FinishedAt: r.FinishedAt.Time, Result: r.Result.V,
	}
}

// Assigned implements task.Store.
func (s *Store) Assigned(ctx context.Context) ([]task.Held, error) {
	rows, err := s.read().Assigned(ctx)
	if err != nil {
		return nil, s.explain(ctx, "read assigned tasks", err)
	}
	held := make([]task.Held, len(rows))
	for i, r := range rows {
		held[i] = task.Held{TenantID: r.TenantID, AgentID: r.AgentID, Ref: task.Ref{ID: r.ID, Attempt: r.Attempt}}
	}
	return held, nil
}
