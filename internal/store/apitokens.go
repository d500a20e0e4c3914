package store

import (
	"context"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// InsertAPIToken implements access.Store.
func (s *Store) InsertAPIToken(ctx context.Context, t *access.APIToken) error {
	return s.write(ctx, "insert API token", func(q *db.Queries) error {
		return q.InsertAPIToken(ctx, db.InsertAPITokenParams{
			ID: t.ID, TenantID: t.TenantID, Hash: t.Hash, Name: t.Name, Role: string(t.Role), CreatedBy: t.CreatedBy,
			CreatedAt: column.At(t.CreatedAt), ExpiresAt: column.At(t.ExpiresAt),
			RevokedAt: column.At(t.RevokedAt), LastUsedAt: column.At(t.LastUsedAt),
		})
	})
}

// APITokenByHash implements access.Store.
func (s *Store) APITokenByHash(ctx context.Context, hash string) (*access.APIToken, error) {
	row, ok, err := one(s.read().APITokenByHash(ctx, hash))
	if err != nil || !ok {
		return nil, s.explain(ctx, "read API token", err)
	}
	return apiTokenOf(row), nil
}

// APITokens implements access.Store.
func (s *Store) APITokens(ctx context.Context, tenant string, f access.Filter) ([]*access.APIToken, error) {
	rows, err := list(ctx, s, apiTokenListing, f.Query.Where, f.Query, f.Limit, func(q *db.Queries) ([]*db.APIToken, error) {
		return q.APITokens(ctx, tenant)
	})
	return each(rows, apiTokenOf), err
}

// RevokeAPIToken implements access.Store; a token that was revoked keeps its
// first time.
func (s *Store) RevokeAPIToken(ctx context.Context, tenant, id string, at time.Time) error {
	return s.write(ctx, "revoke API token", func(q *db.Queries) error {
		n, err := q.RevokeAPIToken(ctx, db.RevokeAPITokenParams{TenantID: tenant, ID: id, At: column.At(at)})
		if err != nil || n > 0 {
			return err
		}
		n, err = q.APITokenExists(ctx, db.APITokenExistsParams{TenantID: tenant, ID: id})
		return tokenFound(n, err, id)
	})
}

// TouchAPIToken implements access.Store.
func (s *Store) TouchAPIToken(ctx context.Context, id string, at time.Time) error {
	return s.write(ctx, "note use of API token", func(q *db.Queries) error {
		return q.TouchAPIToken(ctx, db.TouchAPITokenParams{ID: id, At: column.At(at)})
	})
}

// CountAPITokens implements access.Store.
func (s *Store) CountAPITokens(ctx context.Context) (int, error) {
	n, err := s.read().CountAPITokens(ctx)
	return int(n), s.explain(ctx, "count API tokens", err)
}

func apiTokenOf(r *db.APIToken) *access.APIToken {
	return &access.APIToken{
		ID: r.ID, TenantID: r.TenantID, Hash: r.Hash, Name: r.Name, Role: api.Role(r.Role), CreatedBy: r.CreatedBy,
		CreatedAt: r.CreatedAt.Time, ExpiresAt: r.ExpiresAt.Time, RevokedAt: r.RevokedAt.Time, LastUsedAt: r.LastUsedAt.Time,
	}
}
