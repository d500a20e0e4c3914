package store

import (
	"context"
	"encoding/json"
	"fmt"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/rollout"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// InsertRollout implements rollout.Store.
func (s *Store) InsertRollout(ctx context.Context, r *rollout.Rollout) (first *rollout.Rollout, err error) {
	plan, members, err := rolloutJSON(r)
	if err != nil {
		return nil, err
	}
	err = s.write(ctx, "insert rollout", func(q *db.Queries) error {
		first = nil
		n, err := q.InsertRollout(ctx, db.InsertRolloutParams{
			ID: r.ID, TenantID: r.TenantID, State: string(r.State), Reason: r.Reason, Plan: plan, ReleaseID: r.ReleaseID, ReleaseName: r.ReleaseName,
			Payload: string(r.Payload), Sealed: r.Sealed, Members: members, IdempotencyKey: r.IdempotencyKey, Version: r.Version,
			CreatedBy: r.CreatedBy, CreatedAt: column.At(r.CreatedAt), UpdatedAt: column.At(r.UpdatedAt), FinishedAt: column.At(r.FinishedAt),
		})
		if err != nil || n > 0 {
			return err
		}
		row, err := q.RolloutByKey(ctx, db.RolloutByKeyParams{TenantID: r.TenantID, IdempotencyKey: r.IdempotencyKey})
		if err != nil {
			return err
		}
		first, err = rolloutOf(row)
		return err
	})
	return first, err
}

// RolloutByKey implements rollout.Store.
func (s *Store) RolloutByKey(ctx context.Context, tenant, key string) (*rollout.Rollout, error) {
	row, ok, err := one(s.read().RolloutByKey(ctx, db.RolloutByKeyParams{TenantID: tenant, IdempotencyKey: key}))
	if err != nil || !ok {
		return nil, s.explain(ctx, "read rollout", err)
	}
	return rolloutOf(row)
}

// Rollout implements rollout.Store.
func (s *Store) Rollout(ctx context.Context, tenant, id string) (*rollout.Rollout, error) {
	row, ok, err := one(s.read().Rollout(ctx, db.RolloutParams{TenantID: tenant, ID: id}))
	if err != nil {
		return nil, s.explain(ctx, "read rollout", err)
	}
	if !ok {
		return nil, fault.New(fault.NotFound, "rollout_not_found", "there is no rollout %q: `stella rollout list` shows those that are", id)
	}
	return rolloutOf(row)
}

// Rollouts implements rollout.Store.
func (s *Store) Rollouts(ctx context.Context, tenant string, f rollout.Filter) ([]*rollout.Rollout, error) {
	rows, err := list(ctx, s, rolloutListing, f.Query.Where, f.Query, f.Limit, func(q *db.Queries) ([]*db.RolloutsRow, error) {
		return q.Rollouts(ctx, tenant)
	})
	if err != nil {
		return nil, err
	}
	out := make([]*rollout.Rollout, len(rows))
	for i, r := range rows {
		if out[i], err = rolloutOf(&db.Rollout{
			ID: r.ID, TenantID: r.TenantID, State: r.State, Reason: r.Reason, Plan: r.Plan, ReleaseID: r.ReleaseID, ReleaseName: r.ReleaseName,
			Members: r.Members, Version: r.Version, CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, FinishedAt: r.FinishedAt,
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// UpdateRollout implements rollout.Store.
func (s *Store) UpdateRollout(ctx context.Context, r *rollout.Rollout) (done bool, err error) {
	plan, members, err := rolloutJSON(r)
	if err != nil {
		return false, err
	}
	err = s.write(ctx, "write rollout", func(q *db.Queries) error {
		n, err := q.UpdateRollout(ctx, db.UpdateRolloutParams{
			ID: r.ID, Version: r.Version, State: string(r.State), Reason: r.Reason, Plan: plan, Members: members,
			UpdatedAt: column.At(r.UpdatedAt), FinishedAt: column.At(r.FinishedAt),
		})
		done = n > 0
		return err
	})
	return done && err == nil, err
}

// MovingRollouts implements rollout.Store.
func (s *Store) MovingRollouts(ctx context.Context) ([]rollout.Ref, error) {
	rows, err := s.read().MovingRollouts(ctx)
	if err != nil {
		return nil, s.explain(ctx, "read moving rollouts", err)
	}
	refs := make([]rollout.Ref, len(rows))
	for i, r := range rows {
		refs[i] = rollout.Ref{TenantID: r.TenantID, ID: r.ID}
	}
	return refs, nil
}

func rolloutJSON(r *rollout.Rollout) (plan, members string, err error) {
	p, err := json.Marshal(r.Plan)
	if err != nil {
		return "", "", fmt.Errorf("encode rollout %s: %w", r.ID, err)
	}
	m, err := json.Marshal(r.Targets)
	if err != nil {
		return "", "", fmt.Errorf("encode rollout %s: %w", r.ID, err)
	}
	return string(p), string(m), nil
}

func rolloutOf(row *db.Rollout) (*rollout.Rollout, error) {
	r := &rollout.Rollout{
		ID: row.ID, TenantID: row.TenantID, State: api.RolloutState(row.State), Reason: row.Reason, ReleaseID: row.ReleaseID, ReleaseName: row.ReleaseName,
		Payload: json.RawMessage(row.Payload), Sealed: row.Sealed, IdempotencyKey: row.IdempotencyKey, Version: row.Version, CreatedBy: row.CreatedBy,
		CreatedAt: row.CreatedAt.Time, UpdatedAt: row.UpdatedAt.Time, FinishedAt: row.FinishedAt.Time,
	}
	if err := json.Unmarshal([]byte(row.Plan), &r.Plan); err != nil {
		return nil, fmt.Errorf("decode rollout %s: %w", r.ID, err)
	}
	if err := json.Unmarshal([]byte(row.Members), &r.Targets); err != nil {
		return nil, fmt.Errorf("decode rollout %s: %w", r.ID, err)
	}
	return r, nil
}
