package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"stella-ops.org/stella/internal/store/internal/db"
)

// Engine is what differs between the databases, apart from their migrations.
type Engine interface {
	// Name is sqlite or postgres.
	Name() string
	// Statements are the engine's own texts, by name, for the statements that
	// it cannot take as they are; it does not change.
	Statements() map[string]string
	// Judge says what an error of the driver means.
	Judge(err error) Verdict
	// Check looks for trouble that a write would not show.
	Check() error
	// Prepare reports whether statements should be prepared when the store is
	// opened, because the driver keeps none by itself.
	Prepare() bool
	// OneWriter reports whether the database takes one writer at a time, so
	// that those who wait for it are better served by one commit.
	OneWriter() bool
	Dialect
}

// Dialect is how an engine says what lists need and SQL has no one way for.
// Columns and places are parts of texts; a place is an argument's, as in $2.
type Dialect interface {
	// Never is a time before all others, to order by where there is none.
	Never() string
	// Fold makes A to Z small in a text, and leaves all else as it is.
	Fold(text string) string
	// Label is the value of a key in a column of labels; NULL without one.
	Label(column, key string) string
	// HasLabel is the condition that a column of labels has all of those at a
	// place, if the engine has an index for that; false otherwise.
	HasLabel(column string, place func() string) (condition string, ok bool)
	// HasAny is the condition that a column holds a JSON list in which at
	// least one of the texts at the places is.
	HasAny(column string, places []string) string
	// Explain stands before a query whose plan is asked for.
	Explain() string
}

// Constraint is a rule that the database holds and callers care for.
type Constraint string

// The constraints, by the names that they have on PostgreSQL.
const (
	AgentID      Constraint = "agents_id"
	AgentName    Constraint = "agents_name"
	TargetName   Constraint = "targets_name"
	TargetChange Constraint = "tasks_change"
)

// Verdict is what an error of the driver means.
type Verdict struct {
	// Violated is the constraint that a statement would have broken.
	Violated Constraint
	// Retry: the transaction lost against another one and may win next time.
	Retry bool
	// Unavailable: the database is gone, full, locked or not writable.
	Unavailable bool
}

// ParseStatements reads an engine's own statements, written like sqlc's: each
// begins with a line `-- name: Name :kind`.
func ParseStatements(text string) map[string]string {
	const mark = "-- name: "
	own := map[string]string{}
	for _, part := range strings.Split(text, "\n"+mark)[1:] {
		name, _, _ := strings.Cut(part, " ")
		own[name] = mark + strings.TrimRight(part, "; \n")
	}
	return own
}

// name returns the name that sqlc has put on a statement's first line.
func name(query string) string {
	name, _ := strings.CutPrefix(query, "-- name: ")
	name, _, _ = strings.Cut(name, " ")
	return name
}

// pool is a database as the statements see it: it puts in the engine's own
// texts, prepared if the engine wants that.
type pool struct {
	*sql.DB
	engine   Engine
	prepared map[string]*sql.Stmt // by the name of the statement; read only
}

func openPool(ctx context.Context, d *sql.DB, e Engine) (*pool, error) {
	p := &pool{DB: d, engine: e, prepared: map[string]*sql.Stmt{}}
	if e.Prepare() {
		// The generated code prepares all that it has; PrepareContext keeps it.
		if _, err := db.Prepare(ctx, p); err != nil {
			return nil, fmt.Errorf("prepare statements: %w", err)
		}
		for own := range e.Statements() {
			if p.prepared[own] == nil {
				return nil, fmt.Errorf("prepare statements: %s has a text for %s, which nobody calls", e.Name(), own)
			}
		}
	}
	return p, nil
}

// PrepareContext implements db.DBTX.
func (p *pool) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	st, err := p.DB.PrepareContext(ctx, p.text(query))
	if err == nil {
		p.prepared[name(query)] = st
	}
	return st, err
}

func (p *pool) text(query string) string {
	if own, ok := p.engine.Statements()[name(query)]; ok {
		return own
	}
	return query
}

// ExecContext implements db.DBTX.
func (p *pool) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if st := p.prepared[name(query)]; st != nil {
		return st.ExecContext(ctx, clean(args)...)
	}
	return p.DB.ExecContext(ctx, p.text(query), clean(args)...)
}

// QueryContext implements db.DBTX.
func (p *pool) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if st := p.prepared[name(query)]; st != nil {
		return st.QueryContext(ctx, clean(args)...)
	}
	return p.DB.QueryContext(ctx, p.text(query), clean(args)...)
}

// QueryRowContext implements db.DBTX.
func (p *pool) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if st := p.prepared[name(query)]; st != nil {
		return st.QueryRowContext(ctx, clean(args)...)
	}
	return p.DB.QueryRowContext(ctx, p.text(query), clean(args)...)
}

// tx is a transaction on a pool.
type tx struct {
	*sql.Tx
	pool *pool
}

// ExecContext implements db.DBTX.
func (t tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if st := t.pool.prepared[name(query)]; st != nil {
		return t.StmtContext(ctx, st).ExecContext(ctx, clean(args)...) //nolint:sqlclosecheck // it is closed with the transaction
	}
	return t.Tx.ExecContext(ctx, t.pool.text(query), clean(args)...)
}

// QueryContext implements db.DBTX.
func (t tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if st := t.pool.prepared[name(query)]; st != nil {
		return t.StmtContext(ctx, st).QueryContext(ctx, clean(args)...) //nolint:sqlclosecheck // it is closed with the transaction
	}
	return t.Tx.QueryContext(ctx, t.pool.text(query), clean(args)...)
}

// QueryRowContext implements db.DBTX.
func (t tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if st := t.pool.prepared[name(query)]; st != nil {
		return t.StmtContext(ctx, st).QueryRowContext(ctx, clean(args)...) //nolint:sqlclosecheck // it is closed with the transaction
	}
	return t.Tx.QueryRowContext(ctx, t.pool.text(query), clean(args)...)
}

var (
	_ db.DBTX = (*pool)(nil)
	_ db.DBTX = tx{}
)

// clean puts the replacement character for what PostgreSQL refuses in a text:
// NUL, and bytes that are no UTF-8. Both occur in what programs print, and both
// engines should keep the same.
func clean(args []any) []any {
	for i, a := range args {
		if s, ok := a.(string); ok {
			args[i] = cleanText(s)
		}
	}
	return args
}

// cleanText is clean for a text that becomes part of a batch: what one agent
// says must not be able to fail the others'.
func cleanText(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}
