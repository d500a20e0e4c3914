package store

import (
	"context"

	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
	"stella-ops.org/stella/internal/target"
)

// InsertTarget implements target.Store.
func (s *Store) InsertTarget(ctx context.Context, t *target.Target) error {
	return s.targetError(t, s.write(ctx, "insert target", func(q *db.Queries) error {
		return q.InsertTarget(ctx, db.InsertTargetParams{
			ID: t.ID, TenantID: t.TenantID, Name: t.Name, Kind: t.Kind, AgentID: t.AgentID,
			Selector: column.Selector{V: t.Selector}, Environment: t.Environment, Labels: column.Labels{V: t.Labels},
			Config: column.Config{V: t.Config}, CreatedAt: column.At(t.CreatedAt), UpdatedAt: column.At(t.UpdatedAt),
		})
	}))
}

// Target implements target.Store.
func (s *Store) Target(ctx context.Context, tenant, idOrName string) (*target.Target, error) {
	row, ok, err := one(s.read().Target(ctx, db.TargetParams{TenantID: tenant, IDOrName: idOrName}))
	if err != nil {
		return nil, s.explain(ctx, "read target", err)
	}
	if !ok {
		return nil, targetNotFound(idOrName)
	}
	return targetOf(row), nil
}

// Targets implements target.Store.
func (s *Store) Targets(ctx context.Context, tenant string, f target.Filter) ([]*target.Target, error) {
	rows, err := list(ctx, s, targetListing, f.Where(), f.Query, f.Limit, func(q *db.Queries) ([]*db.Target, error) {
		return q.Targets(ctx, tenant)
	})
	return each(rows, targetOf), err
}

// SharedTargets implements task.Store.
func (s *Store) SharedTargets(ctx context.Context, tenant string) ([]*target.Target, error) {
	rows, err := s.read().SharedTargets(ctx, tenant)
	if err != nil {
		return nil, s.explain(ctx, "list shared targets", err)
	}
	return each(rows, targetOf), nil
}

// UpdateTarget implements target.Store.
func (s *Store) UpdateTarget(ctx context.Context, t *target.Target) error {
	return s.targetError(t, s.write(ctx, "update target "+t.ID, func(q *db.Queries) error {
		n, err := q.UpdateTarget(ctx, db.UpdateTargetParams{
			TenantID: t.TenantID, ID: t.ID, Name: t.Name, Kind: t.Kind, AgentID: t.AgentID,
			Selector: column.Selector{V: t.Selector}, Environment: t.Environment, Labels: column.Labels{V: t.Labels},
			Config: column.Config{V: t.Config}, UpdatedAt: column.At(t.UpdatedAt),
		})
		if err == nil && n == 0 {
			return targetNotFound(t.ID)
		}
		return err
	}))
}

// DeleteTarget implements target.Store. The target's history goes with it.
func (s *Store) DeleteTarget(ctx context.Context, tenant, id string) error {
	return s.write(ctx, "delete target "+id, func(q *db.Queries) error {
		name, ok, err := one(q.LockTarget(ctx, db.LockTargetParams{TenantID: tenant, ID: id}))
		if err != nil {
			return err
		}
		if !ok {
			return targetNotFound(id)
		}
		n, err := q.UnfinishedOnTarget(ctx, id)
		if err != nil {
			return err
		}
		if n > 0 {
			return fault.New(fault.Conflict, "target_busy",
				"target %s has %d tasks that are not over: wait for them, or cancel them with `stella task cancel`, then delete it", name, n)
		}
		if err := q.KeepTargetName(ctx, db.KeepTargetNameParams{TargetID: id, TargetName: name}); err != nil {
			return err
		}
		_, err = q.DeleteTarget(ctx, db.DeleteTargetParams{TenantID: tenant, ID: id})
		return err
	})
}

// targetError names the name that was taken.
func (s *Store) targetError(t *target.Target, err error) error {
	if s.engine.Judge(err).Violated != TargetName {
		return err
	}
	return fault.New(fault.Conflict, "name_taken", "another target is called %q: choose another name", t.Name)
}

func targetNotFound(idOrName string) error {
	return fault.New(fault.NotFound, "target_not_found", "there is no target %q: `stella target list` shows those that are", idOrName)
}

func targetOf(r *db.Target) *target.Target {
	return &target.Target{
		ID: r.ID, TenantID: r.TenantID, Name: r.Name, Kind: r.Kind, AgentID: r.AgentID, Selector: r.Selector.V,
		Environment: r.Environment, Labels: r.Labels.V, Config: r.Config.V, CreatedAt: r.CreatedAt.Time, UpdatedAt: r.UpdatedAt.Time,
	}
}
