package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/artifact"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/rollout"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

var (
	_ fleet.Store     = (*Store)(nil)
	_ enroll.Store    = (*Store)(nil)
	_ access.Store    = (*Store)(nil)
	_ access.LogStore = (*Store)(nil)
	_ access.KeyStore = (*Store)(nil)
	_ target.Store    = (*Store)(nil)
	_ task.Store      = (*Store)(nil)
	_ command.Store   = (*Store)(nil)
	_ artifact.Store  = (*Store)(nil)
	_ secret.Store    = (*Store)(nil)
	_ rollout.Store   = (*Store)(nil)
)

// Store keeps everything, on either engine. It is safe for concurrent use, and
// what a method has written is durable when it returns.
type Store struct {
	engine Engine
	writer *pool
	reader *pool
	group  *groupWriter // nil where writers do not wait for each other
	closed atomic.Bool
}

// New returns a store over a database whose migrations have run. Writes go to
// one pool and reads to another, which may be the same. The store owns both.
func New(ctx context.Context, engine Engine, writer, reader *sql.DB) (*Store, error) {
	s := &Store{engine: engine}
	var err error
	if s.writer, err = openPool(ctx, writer, engine); err != nil {
		return nil, err
	}
	s.reader = s.writer
	if reader != writer {
		if s.reader, err = openPool(ctx, reader, engine); err != nil {
			return nil, err
		}
	}
	if engine.OneWriter() {
		s.group = newGroupWriter(s.writer) //nolint:contextcheck // it lives until Close, not until ctx ends
	}
	return s, nil
}

// Engine is the name of the database's kind: sqlite or postgres.
func (s *Store) Engine() string { return s.engine.Name() }

// Close gives the database back.
func (s *Store) Close() error {
	if first := s.closed.CompareAndSwap(false, true); first && s.group != nil {
		s.group.close()
	}
	err := s.writer.Close()
	if s.reader != s.writer {
		err = errors.Join(s.reader.Close(), err)
	}
	return err
}

// Ping reports whether the store can be read and written at this moment. It
// really writes, so that a full disk shows.
func (s *Store) Ping(ctx context.Context) error {
	const what = "check the store"
	if err := s.engine.Check(); err != nil {
		return unavailable(what, err)
	}
	if err := s.write(ctx, what, func(q *db.Queries) error {
		return q.Ready(ctx, column.At(time.Now()))
	}); err != nil {
		return err
	}
	_, err := s.Key(ctx, "")
	return err
}

// tries bounds how often a transaction that lost against others is repeated.
const tries = 8

// write runs fn in a transaction, again if it lost against another one. fn
// sets its results anew each time.
func (s *Store) write(ctx context.Context, what string, fn func(q *db.Queries) error) error {
	for try := 1; ; try++ {
		err := s.transact(ctx, fn)
		if err == nil {
			return nil
		}
		if try < tries && ctx.Err() == nil && s.engine.Judge(err).Retry {
			continue
		}
		return s.explain(ctx, what, err)
	}
}

func (s *Store) transact(ctx context.Context, fn func(q *db.Queries) error) error {
	if s.group != nil {
		return s.group.do(ctx, fn)
	}
	t, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer t.Rollback()
	if err := fn(db.New(tx{t, s.writer})); err != nil {
		return err
	}
	if err := t.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// read returns the queries for a method that only reads.
func (s *Store) read() *db.Queries { return db.New(s.reader) }

// explain makes of a driver's error what a caller gets.
func (s *Store) explain(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case fault.As(err) != nil:
		return err
	case ctx.Err() != nil:
		// Each driver has words of its own for having been stopped.
		return fmt.Errorf("%s: %w", what, ctx.Err())
	case s.engine.Judge(err).Unavailable, s.closed.Load():
		return unavailable(what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func unavailable(what string, cause error) error {
	return fault.Wrap(fmt.Errorf("%s: %w", what, cause), fault.Unavailable, "store_unavailable",
		"the server's database cannot be used now: try again shortly; if it stays so, the server's log has the cause (gone, full or locked)")
}

// one makes a result of a query for one row: the zero value when there is
// none.
func one[T any](v T, err error) (T, bool, error) {
	if errors.Is(err, sql.ErrNoRows) {
		var zero T
		return zero, false, nil
	}
	return v, err == nil, err
}

// each makes of rows what they stand for; of none, none.
func each[R, T any](rows []*R, of func(*R) *T) []*T {
	if rows == nil {
		return nil
	}
	list := make([]*T, len(rows))
	for i, r := range rows {
		list[i] = of(r)
	}
	return list
}

// page bounds how many rows a list gives.
func page(limit int) int {
	const most = 1000
	if limit <= 0 || limit > most {
		return most
	}
	return limit
}
