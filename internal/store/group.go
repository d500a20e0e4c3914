package store

import (
	"context"
	"database/sql"
	"fmt"

	"stella-ops.org/stella/internal/store/internal/db"
)

// maxGroup bounds how many transactions one commit takes: the first of them
// waits for the last.
const maxGroup = 128

// groupWriter runs small transactions that wait for the one writer as one, and
// makes all of them durable by a single commit: on SQLite the commit, with its
// wait for the disk, is most of what a small write costs. Alone, a transaction
// runs as it would without; nobody waits for company.
//
// Each still stands or falls by itself, behind a savepoint. Only when the
// common commit fails, all fail.
type groupWriter struct {
	pool  *pool
	queue chan *write
	quit  chan struct{}
	ended chan struct{}
}

// write is one transaction that waits.
type write struct {
	ctx  context.Context
	fn   func(q *db.Queries) error
	err  error
	done chan error
}

func newGroupWriter(p *pool) *groupWriter {
	g := &groupWriter{pool: p, queue: make(chan *write, maxGroup), quit: make(chan struct{}), ended: make(chan struct{})}
	go g.run()
	return g
}

// do runs fn in a transaction and returns when it is durable, or did not come
// about. A transaction that has begun is not stopped by the end of ctx: SQLite
// would roll its companions back too.
func (g *groupWriter) do(ctx context.Context, fn func(q *db.Queries) error) error {
	w := &write{ctx: ctx, fn: fn, done: make(chan error, 1)}
	select {
	case g.queue <- w:
	case <-ctx.Done():
		return ctx.Err()
	case <-g.quit:
		return sql.ErrConnDone
	}
	select {
	case err := <-w.done:
		return err
	case <-g.ended:
		// It was queued behind the last group.
		select {
		case err := <-w.done:
			return err
		default:
			return sql.ErrConnDone
		}
	}
}

// close lets the group at work end and refuses what comes behind it.
func (g *groupWriter) close() {
	close(g.quit)
	<-g.ended
}

func (g *groupWriter) run() {
	defer close(g.ended)
	for {
		select {
		case <-g.quit:
			return
		case first := <-g.queue:
			g.group(first)
		}
	}
}

// group runs first and whatever else waits, and tells each how it ended.
func (g *groupWriter) group(first *write) {
	t, err := g.pool.BeginTx(context.Background(), nil)
	if err != nil {
		first.done <- fmt.Errorf("begin: %w", err)
		return
	}
	queries := db.New(unstoppable{tx{t, g.pool}})
	var taken []*write
	var stopped error
	for w := first; w != nil; w = g.next(len(taken)) {
		taken = append(taken, w)
		w.err = g.one(t, queries, w)
		if v := g.pool.engine.Judge(w.err); v.Unavailable || v.Retry {
			stopped = w.err // SQLite may have given up the whole transaction: nobody's stands
			break
		}
	}
	if stopped == nil {
		if err := t.Commit(); err != nil {
			stopped = fmt.Errorf("commit: %w", err)
		}
	}
	if stopped != nil {
		_ = t.Rollback() // the error before says what is wrong
	}
	// Nobody is told before the commit, not even who failed: it may have
	// failed for what a companion had written, which stands only now.
	for _, w := range taken {
		if stopped != nil {
			w.err = stopped
		}
		w.done <- w.err
	}
}

// next returns the next transaction that waits already, or nil.
func (g *groupWriter) next(taken int) *write {
	if taken >= maxGroup {
		return nil
	}
	select {
	case w := <-g.queue:
		return w
	default:
		return nil
	}
}

// one runs a transaction behind a savepoint, so that its failure is its own.
func (g *groupWriter) one(t *sql.Tx, queries *db.Queries, w *write) (err error) {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if _, err := t.Exec("SAVEPOINT one"); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		p := recover()
		if p != nil {
			err = fmt.Errorf("panic in a transaction: %v", p)
		}
		end := "RELEASE one"
		if err != nil {
			end = "ROLLBACK TO one; RELEASE one"
		}
		if _, endErr := t.Exec(end); endErr != nil && err == nil {
			err = fmt.Errorf("end: %w", endErr)
		}
	}()
	return w.fn(queries)
}

// unstoppable keeps the end of one caller's context from stopping a statement
// in the middle of the common transaction.
type unstoppable struct{ tx tx }

// ExecContext implements db.DBTX.
func (u unstoppable) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return u.tx.ExecContext(context.WithoutCancel(ctx), query, args...)
}

// PrepareContext implements db.DBTX.
func (u unstoppable) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	return u.tx.PrepareContext(context.WithoutCancel(ctx), query)
}

// QueryContext implements db.DBTX.
func (u unstoppable) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return u.tx.QueryContext(context.WithoutCancel(ctx), query, args...)
}

// QueryRowContext implements db.DBTX.
func (u unstoppable) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return u.tx.QueryRowContext(context.WithoutCancel(ctx), query, args...)
}

var _ db.DBTX = unstoppable{}
