package postgres

import (
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"stella-ops.org/stella/internal/store"
)

// engine tells the store what is different about PostgreSQL.
type engine struct{}

var _ store.Engine = engine{}

// Name implements store.Engine.
func (engine) Name() string { return "postgres" }

// Statements implements store.Engine: the common texts are PostgreSQL's.
func (engine) Statements() map[string]string { return nil }

// Prepare implements store.Engine: the driver keeps statements by itself.
func (engine) Prepare() bool { return false }

// OneWriter implements store.Engine.
func (engine) OneWriter() bool { return false }

// Check implements store.Engine.
func (engine) Check() error { return nil }

// Never implements store.Dialect; the index tasks_finished has the same text.
func (engine) Never() string { return "TIMESTAMPTZ '-infinity'" }

// Fold implements store.Dialect.
func (engine) Fold(text string) string { return `lower(` + text + ` COLLATE "C")` }

// Label implements store.Dialect.
func (engine) Label(column, key string) string {
	return column + " ->> CAST(" + key + " AS TEXT)"
}

// HasLabel implements store.Dialect: there is a GIN index for containment.
func (engine) HasLabel(column string, place func() string) (string, bool) {
	return column + " @> CAST(" + place() + " AS JSONB)", true
}

// HasAny implements store.Dialect.
func (engine) HasAny(column string, places []string) string {
	return column + " ?| CAST(ARRAY[" + strings.Join(places, ", ") + "] AS TEXT[])"
}

// Explain implements store.Dialect.
func (engine) Explain() string { return "EXPLAIN" }

// Judge implements store.Engine. The codes are in appendix A of PostgreSQL's
// manual.
func (engine) Judge(err error) store.Verdict {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return store.Verdict{Unavailable: true} // whatever the server gave as its reason
	}
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return judgeCode(refused)
	}
	var network net.Error
	switch {
	case err == nil:
		return store.Verdict{}
	case errors.As(err, &network), pgconn.SafeToRetry(err), pgconn.Timeout(err),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, driver.ErrBadConn), errors.Is(err, net.ErrClosed):
		return store.Verdict{Unavailable: true}
	}
	return store.Verdict{}
}

func judgeCode(e *pgconn.PgError) store.Verdict {
	switch e.Code {
	case "23505": // unique_violation
		return store.Verdict{Violated: store.Constraint(e.ConstraintName)}
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return store.Verdict{Retry: true, Unavailable: true}
	case "25006", "55P03": // read_only_sql_transaction (not the primary any more), lock_not_available
		return store.Verdict{Unavailable: true}
	}
	for _, class := range []string{
		"08", // connection exception
		"28", // invalid authorization
		"3D", // the database is gone
		"53", // insufficient resources: disk full, too many connections
		"57", // operator intervention: shutdown, cannot connect now
		"58", // system error
	} {
		if strings.HasPrefix(e.Code, class) {
			return store.Verdict{Unavailable: true}
		}
	}
	return store.Verdict{}
}
