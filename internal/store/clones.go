package store

import (
	"context"
	"time"

	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// NoteClone implements fleet.Store.
func (s *Store) NoteClone(ctx context.Context, tenant, agentID string, c fleet.Clone, forget time.Time) error {
	return s.write(ctx, "note a clone of agent "+agentID, func(q *db.Queries) error {
		if err := q.ForgetClones(ctx, column.At(forget)); err != nil {
			return err
		}
		return q.NoteClone(ctx, db.NoteCloneParams{
			TenantID: tenant, AgentID: agentID, SeenAt: column.At(c.SeenAt), Held: cleanText(c.Held), Kept: cleanText(c.Kept),
		})
	})
}

// Clones implements fleet.Store.
func (s *Store) Clones(ctx context.Context, tenant string, since time.Time) (map[string]fleet.Clone, error) {
	rows, err := s.read().Clones(ctx, db.ClonesParams{TenantID: tenant, SeenAt: column.At(since)})
	if err != nil {
		return nil, s.explain(ctx, "read clones", err)
	}
	out := make(map[string]fleet.Clone, len(rows))
	for _, r := range rows {
		out[r.AgentID] = fleet.Clone{SeenAt: r.SeenAt.Time, Held: r.Held, Kept: r.Kept}
	}
	return out, nil
}
