package store

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// auditLine is a line as the statement reads it.
type auditLine struct {
	Tenant   string `json:"tenant"`
	Seq      int64  `json:"seq"`
	At       int64  `json:"at"` // microseconds since 1970
	Actor    string `json:"actor"`
	Action   string `json:"action"`
	Object   string `json:"object"`
	Remote   string `json:"remote"`
	Outcome  string `json:"outcome"`
	Detail   string `json:"detail"`
	Previous string `json:"previous"`
	Hash     string `json:"hash"`
}

// ChangeAudit implements access.LogStore. The database itself refuses to change
// lines, and to remove those above the floor.
func (s *Store) ChangeAudit(ctx context.Context, tenant string, change func(c *access.Chain) ([]*access.Event, error)) error {
	return s.write(ctx, "write audit log", func(q *db.Queries) error {
		r, ok, err := one(q.LockAuditChain(ctx, tenant))
		if err == nil && !ok {
			r, err = beginAuditChain(ctx, q, tenant)
		}
		if err != nil {
			return err
		}
		c := chainOf((*db.AuditChainRow)(r))
		floor := c.Floor.Seq
		lines, err := change(c)
		if err != nil {
			return err
		}
		if len(lines) > 0 {
			batch, err := encodeLines(lines)
			if err != nil {
				return err
			}
			if err := q.InsertAudit(ctx, batch); err != nil {
				return err
			}
		}
		if err := q.UpdateAuditChain(ctx, db.UpdateAuditChainParams{
			TenantID: tenant, Origin: c.Origin, FloorSeq: c.Floor.Seq, FloorHash: c.Floor.Hash, FloorAt: column.At(c.FloorAt),
			HeadSeq: c.Head.Seq, HeadHash: c.Head.Hash, Seal: c.Seal,
		}); err != nil {
			return err
		}
		if c.Floor.Seq > floor {
			_, err = q.RemoveAudit(ctx, db.RemoveAuditParams{TenantID: tenant, Seq: c.Floor.Seq})
		}
		return err
	})
}

// beginAuditChain makes the row of a chain, unless another server is faster,
// and locks it.
func beginAuditChain(ctx context.Context, q *db.Queries, tenant string) (*db.LockAuditChainRow, error) {
	if err := q.BeginAuditChain(ctx, tenant); err != nil {
		return nil, err
	}
	return q.LockAuditChain(ctx, tenant)
}

func encodeLines(lines []*access.Event) (column.Raw, error) {
	batch := make([]auditLine, len(lines))
	for i, e := range lines {
		batch[i] = auditLine{
			Tenant: e.TenantID, Seq: e.Seq, At: e.At.UnixMicro(), Actor: e.Actor, Action: e.Action, Object: e.Object,
			Remote: e.Remote, Outcome: e.Outcome, Detail: e.Detail,
			Previous: hex.EncodeToString(e.Previous), Hash: hex.EncodeToString(e.Hash),
		}
	}
	raw, err := json.Marshal(batch)
	if err != nil {
		return nil, fmt.Errorf("encode audit lines: %w", err)
	}
	return raw, nil
}

// AuditChain implements access.LogStore.
func (s *Store) AuditChain(ctx context.Context, tenant string) (*access.Chain, error) {
	// The lines first: what is not in a chain after them was in none before.
	bounds, err := s.read().AuditBounds(ctx, tenant)
	if err != nil {
		return nil, s.explain(ctx, "read the audit log's ends", err)
	}
	r, ok, err := one(s.read().AuditChain(ctx, tenant))
	if err != nil {
		return nil, s.explain(ctx, "read the audit log's ends", err)
	}
	if !ok {
		return &access.Chain{TenantID: tenant, First: bounds.First, Last: bounds.Last}, nil
	}
	return chainOf(r), nil
}

// AuditLines implements access.LogStore.
func (s *Store) AuditLines(ctx context.Context, tenant string, after, until int64, limit int) ([]*access.Event, error) {
	rows, err := s.read().AuditLines(ctx, db.AuditLinesParams{TenantID: tenant, After: after, Until: until, Most: int32(page(limit))}) //nolint:gosec // a page is small
	if err != nil {
		return nil, s.explain(ctx, "read the audit log", err)
	}
	return each(rows, eventOf), nil
}

// AuditEvents implements access.LogStore. What nobody who is known did, as with
// an unknown token, belongs to the default tenant.
func (s *Store) AuditEvents(ctx context.Context, tenant string, f access.Filter) ([]*access.Event, error) {
	rows, err := list(ctx, s, auditListing, f.Query.Where, f.Query, f.Limit, func(q *db.Queries) ([]*db.Audit, error) {
		return q.AuditEvents(ctx, tenant)
	})
	return each(rows, eventOf), err
}

// AuditChains implements access.LogStore.
func (s *Store) AuditChains(ctx context.Context) ([]string, error) {
	tenants, err := s.read().AuditChains(ctx)
	return tenants, s.explain(ctx, "list the audit logs", err)
}

// LastUnchained implements access.KeyStore.
func (s *Store) LastUnchained(ctx context.Context) (map[string]int64, error) {
	rows, err := s.read().UnchainedAudit(ctx)
	if err != nil {
		return nil, s.explain(ctx, "look for audit lines from before the chain", err)
	}
	last := map[string]int64{}
	for _, r := range rows {
		last[r.TenantID] = r.Last
	}
	return last, nil
}

func chainOf(r *db.AuditChainRow) *access.Chain {
	return &access.Chain{
		TenantID: r.TenantID, Origin: r.Origin,
		Floor: access.Mark{Seq: r.FloorSeq, Hash: r.FloorHash}, FloorAt: r.FloorAt.Time,
		Head: access.Mark{Seq: r.HeadSeq, Hash: r.HeadHash}, Seal: r.Seal, First: r.First, Last: r.Last,
	}
}

func eventOf(r *db.Audit) *access.Event {
	return &access.Event{
		Seq: r.Seq, TenantID: r.TenantID, At: r.At.Time, Actor: r.Actor, Action: r.Action, Object: r.Object,
		Remote: r.Remote, Outcome: r.Outcome, Detail: r.Detail, Previous: r.Previous, Hash: r.Hash,
	}
}
