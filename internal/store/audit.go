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

// AuditEvents returns a page of a tenant's audit log, the newest first unless
// the filter says another order. The events' numbers rise and are never used
// again; a missing one is a write that did not come about. What nobody who is
// known did, as with an unknown token, belongs to the empty tenant.
func (s *Store) AuditEvents(ctx context.Context, tenant string, f access.Filter) ([]*access.Event, error) {
	rows, err := list(ctx, s, auditListing, f.Query.Where, f.Query, f.Limit, func(q *db.Queries) ([]*db.Audit, error) {
		return q.AuditEvents(ctx, tenant)
	})
	return each(rows, eventOf), err
}

func eventOf(r *db.Audit) *access.Event {
	return &access.Event{
		Seq: r.Seq, TenantID: r.TenantID, At: r.At.Time, Actor: r.Actor, Action: r.Action, Object: r.Object,
		Remote: r.Remote, Outcome: r.Outcome, Detail: r.Detail,
	}
}
