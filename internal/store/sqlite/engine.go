package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"stella-ops.org/stella/internal/store"
)

// engine tells the store what is different about SQLite.
type engine struct {
	path string
	file os.FileInfo
	own  map[string]string
}

var _ store.Engine = (*engine)(nil)

// Name implements store.Engine.
func (e *engine) Name() string { return "sqlite" }

// Statements implements store.Engine.
func (e *engine) Statements() map[string]string { return e.own }

// Prepare implements store.Engine: to parse a statement takes SQLite longer
// than to run most.
func (e *engine) Prepare() bool { return true }

// OneWriter implements store.Engine.
func (e *engine) OneWriter() bool { return true }

// Never implements store.Dialect; the index tasks_finished has the same text.
func (e *engine) Never() string { return "-9223372036854775807" }

// Fold implements store.Dialect.
func (e *engine) Fold(text string) string { return "lower(" + text + ")" }

// Label implements store.Dialect. The arrow would be shorter, but takes some
// keys for paths.
func (e *engine) Label(column, key string) string {
	return "(SELECT j.value FROM json_each(" + column + ") j WHERE j.key = " + key + ")"
}

// HasLabel implements store.Dialect: there is no index for it.
func (e *engine) HasLabel(string, func() string) (string, bool) { return "", false }

// HasAny implements store.Dialect.
func (e *engine) HasAny(column string, places []string) string {
	return "EXISTS (SELECT 1 FROM json_each(" + column + ") j WHERE j.value IN (" + strings.Join(places, ", ") + "))"
}

// Explain implements store.Dialect.
func (e *engine) Explain() string { return "EXPLAIN QUERY PLAN" }

// Check implements store.Engine. SQLite goes on writing to a file that was
// deleted or replaced, and all of that would be lost.
func (e *engine) Check() error {
	now, err := os.Stat(e.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the database file was deleted while the server ran: restart the server, or restore the file first")
	case err != nil:
		return fmt.Errorf("look at the database file: %w", err)
	case !os.SameFile(e.file, now):
		return errors.New("the database file was replaced while the server ran: restart the server")
	}
	return nil
}

// constraints are what SQLite calls the constraints that callers care for.
var constraints = map[string]store.Constraint{
	"agents.id":                       store.AgentID,
	"agents.tenant_id, agents.name":   store.AgentName,
	"targets.tenant_id, targets.name": store.TargetName,
	"tasks.target_id":                 store.TargetChange,
}

// Judge implements store.Engine.
func (e *engine) Judge(err error) store.Verdict {
	var trouble *sqlite.Error
	if !errors.As(err, &trouble) {
		return store.Verdict{}
	}
	switch code := trouble.Code(); code & 0xff { // the rest is detail
	case sqlite3.SQLITE_CONSTRAINT:
		_, columns, _ := strings.Cut(trouble.Error(), "UNIQUE constraint failed: ")
		columns, _, _ = strings.Cut(columns, " (")
		return store.Verdict{Violated: constraints[columns]}
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL,
		sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		return store.Verdict{Unavailable: true}
	}
	return store.Verdict{}
}
