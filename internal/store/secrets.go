package store

import (
	"context"

	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// PutSecret implements secret.Store.
func (s *Store) PutSecret(ctx context.Context, sec *secret.Secret) error {
	return s.write(ctx, "keep secret", func(q *db.Queries) error {
		row, err := q.PutSecret(ctx, db.PutSecretParams{
			TenantID: sec.TenantID, Name: sec.Name, Sealed: sec.Sealed, CreatedBy: sec.CreatedBy, UpdatedBy: sec.UpdatedBy,
			CreatedAt: column.At(sec.CreatedAt), UpdatedAt: column.At(sec.UpdatedAt),
		})
		if err != nil {
			return err
		}
		sec.Version, sec.CreatedBy, sec.CreatedAt = row.Version, row.CreatedBy, row.CreatedAt.Time
		return nil
	})
}

// Secret implements secret.Store.
func (s *Store) Secret(ctx context.Context, tenant, name string) (*secret.Secret, error) {
	row, ok, err := one(s.read().Secret(ctx, db.SecretParams{TenantID: tenant, Name: name}))
	if err != nil {
		return nil, s.explain(ctx, "read secret", err)
	}
	if !ok {
		return nil, secretMissing(name)
	}
	return secretOf(row), nil
}

// Secrets implements secret.Store.
func (s *Store) Secrets(ctx context.Context, tenant string, f secret.Filter) ([]*secret.Secret, error) {
	rows, err := list(ctx, s, secretListing, f.Query.Where, f.Query, f.Limit, func(q *db.Queries) ([]*db.Secret, error) {
		return q.Secrets(ctx, tenant)
	})
	return each(rows, secretOf), err
}

// DeleteSecret implements secret.Store.
func (s *Store) DeleteSecret(ctx context.Context, tenant, name string) error {
	return s.write(ctx, "delete secret", func(q *db.Queries) error {
		n, err := q.DeleteSecret(ctx, db.DeleteSecretParams{TenantID: tenant, Name: name})
		if err == nil && n == 0 {
			return secretMissing(name)
		}
		return err
	})
}

func secretMissing(name string) error {
	return fault.New(fault.NotFound, "secret_not_found", "there is no secret %q: `stella secret list` shows those that are", name)
}

func secretOf(r *db.Secret) *secret.Secret {
	return &secret.Secret{
		TenantID: r.TenantID, Name: r.Name, Version: r.Version, Sealed: r.Sealed, CreatedBy: r.CreatedBy, UpdatedBy: r.UpdatedBy,
		CreatedAt: r.CreatedAt.Time, UpdatedAt: r.UpdatedAt.Time,
	}
}
