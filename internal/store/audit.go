package store

import (
	"context"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// Audit adds a line to the audit log. The database refuses to change or remove
// one.
func (s *Store) Audit(ctx context.Context, e access.Event) error {
	return s.write(ctx, "write audit log", func(q *db.Queries) error {
		return q.InsertAudit(ctx, db.InsertAuditParams{
			TenantID: e.TenantID, At: column.At(e.At), Actor: e.Actor, Action: e.Action, Object: e.Object,
			Remote: e.Remote, Outcome: e.Outcome, Detail: e.Detail,
		})
	})
}

// AuditEvents returns lines of a tenant's audit log, the newest first. Their
// numbers rise and are never used again; a missing one is a write that did not
// come about. They are those numbered below beforeSeq, or from the newest on when that is 0. What nobody
// who is known did, as with an unknown token, belongs to the empty tenant.
func (s *Store) AuditEvents(ctx context.Context, tenant string, beforeSeq int64, limit int) ([]access.Event, error) {
	rows, err := s.read().AuditEvents(ctx, db.AuditEventsParams{TenantID: tenant, BeforeSeq: beforeSeq, Page: int64(page(limit))})
	if err != nil {
		return nil, s.explain(ctx, "read audit log", err)
	}
	events := make([]access.Event, len(rows))
	for i, r := range rows {
		events[i] = access.Event{
			Seq: r.Seq, TenantID: r.TenantID, At: r.At.Time, Actor: r.Actor, Action: r.Action, Object: r.Object,
			Remote: r.Remote, Outcome: r.Outcome, Detail: r.Detail,
		}
	}
	return events, nil
}
