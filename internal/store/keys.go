package store

import (
	"context"

	"stella-ops.org/stella/internal/store/internal/db"
)

// Key returns one of the server's sealed keys, or nil when there is none of
// that name.
func (s *Store) Key(ctx context.Context, name string) ([]byte, error) {
	sealed, _, err := one(s.read().Key(ctx, name))
	if err != nil {
		return nil, s.explain(ctx, "read key", err)
	}
	return sealed, nil
}

// PutKeyIfAbsent keeps a sealed key unless there is one of that name, and
// returns the one that is kept: of many servers that start together, the first
// decides for all.
func (s *Store) PutKeyIfAbsent(ctx context.Context, name string, sealed []byte) (winner []byte, err error) {
	err = s.write(ctx, "keep key "+name, func(q *db.Queries) error {
		if err := q.PutKeyIfAbsent(ctx, db.PutKeyIfAbsentParams{Name: name, Sealed: sealed}); err != nil {
			return err
		}
		winner, err = q.Key(ctx, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return winner, nil
}

// SwapKey replaces a sealed key, if it is still the one that the caller has
// read; false when it is not.
func (s *Store) SwapKey(ctx context.Context, name string, old, anew []byte) (done bool, err error) {
	err = s.write(ctx, "replace key "+name, func(q *db.Queries) error {
		n, err := q.SwapKey(ctx, db.SwapKeyParams{Name: name, Old: old, Anew: anew})
		done = n > 0
		return err
	})
	return done && err == nil, err
}

// KeyNames returns the names of all keys, in order.
func (s *Store) KeyNames(ctx context.Context) ([]string, error) {
	names, err := s.read().KeyNames(ctx)
	if err != nil {
		return nil, s.explain(ctx, "read keys", err)
	}
	return names, nil
}
