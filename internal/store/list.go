package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// listing says how the fields of a list are asked of the database.
type listing struct {
	what   string // for errors
	schema *filter.Schema
	// given is how many arguments the query itself has; 0 stands for 1.
	given  int
	fields map[string]source
}

// source is where the database has a field.
type source struct {
	// column holds it, or orders by it.
	column string
	// mayBeNull: a time that is not there.
	mayBeNull bool
	// is makes the condition that the field is a value, where it is not just
	// what the column holds.
	is func(w *where, column, value string) string
}

// list runs one of the queries that are only the beginning of a list: it adds
// what is to match, the order, and the page. The tenant, or what belongs to one,
// is the query's first argument, and nothing that a client wrote becomes part of the text.
func list[T any](ctx context.Context, s *Store, l *listing, match filter.Expr, q filter.Query, limit int,
	query func(q *db.Queries) ([]T, error),
) ([]T, error) {
	w := &where{engine: s.engine, listing: l, now: q.Now}
	tail, err := w.tail(match, q, page(limit))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.what, err)
	}
	rows, err := query(db.New(longer{s.reader, tail, w.args}))
	if err != nil {
		return nil, s.explain(ctx, l.what, err)
	}
	return rows, nil
}

// longer is a database whose queries get more text and arguments behind what
// they have.
type longer struct {
	*pool
	tail string
	args []any
}

// QueryContext implements db.DBTX. The text differs with what is asked, so it
// is not among the prepared ones.
func (l longer) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	query, args = l.text(query)+l.tail, clean(slices.Concat(args, l.args))
	if plan, ok := ctx.Value(planKey{}).(*string); ok {
		if err := l.plan(ctx, plan, query, args); err != nil {
			return nil, err
		}
	}
	return l.DB.QueryContext(ctx, query, args...)
}

// where makes the conditions of a list.
type where struct {
	*listing
	engine Engine
	now    time.Time
	args   []any // behind the tenant
}

// arg adds an argument and returns its place in the text.
func (w *where) arg(v any) string {
	w.args = append(w.args, v)
	return fmt.Sprintf("$%d", len(w.args)+max(1, w.given))
}

// tail is the text behind `WHERE tenant_id = $1`.
func (w *where) tail(match filter.Expr, q filter.Query, limit int) (string, error) {
	order := q.Order
	if order == nil {
		order = w.schema.Usual()
	}
	var b strings.Builder
	if match != nil {
		cond, err := w.expr(match)
		if err != nil {
			return "", err
		}
		b.WriteString(" AND (" + cond + ")")
	}
	if q.After != nil {
		cond, err := w.behind(order, q.After)
		if err != nil {
			return "", err
		}
		b.WriteString(" AND (" + cond + ")")
	}
	keys := make([]string, len(order))
	for i, k := range order {
		var err error
		if keys[i], err = w.key(k.Field); err != nil {
			return "", err
		}
		if k.Desc {
			keys[i] += " DESC"
		}
	}
	b.WriteString(" ORDER BY " + strings.Join(keys, ", ") + " LIMIT CAST(" + w.arg(int64(limit)) + " AS BIGINT)")
	return b.String(), nil
}

// key is what rows are ordered by. A time that is not there comes before all
// others, on every engine.
func (w *where) key(field string) (string, error) {
	f, ok := w.fields[field]
	switch {
	case !ok || f.column == "":
		return "", fmt.Errorf("there is no order by %q", field)
	case f.mayBeNull:
		return "COALESCE(" + f.column + ", " + w.engine.Never() + ")", nil
	}
	return f.column, nil
}

// behind is the condition that a row comes after a place in the order. It is
// written so that an index finds the place: as rows that are compared, where
// all keys go in one direction.
func (w *where) behind(order filter.Sort, after filter.Cursor) (string, error) {
	if len(after) != len(order) {
		return "", fmt.Errorf("a cursor of %d values in an order of %d", len(after), len(order))
	}
	keys, places := make([]string, len(order)), make([]string, len(order))
	oneWay := true
	for i, k := range order {
		var err error
		if keys[i], err = w.key(k.Field); err != nil {
			return "", err
		}
		oneWay = oneWay && k.Desc == order[0].Desc
		switch v := after[i].(type) {
		case time.Time:
			if v.IsZero() {
				places[i] = w.engine.Never()
				continue
			}
			places[i] = w.arg(column.At(v))
		default:
			places[i] = w.arg(v)
		}
	}
	if oneWay {
		return "(" + strings.Join(keys, ", ") + ")" + beyond(order[0]) + "(" + strings.Join(places, ", ") + ")", nil
	}
	// Beyond in the first key; or equal in it and beyond in the second; and so
	// on. What stands before it is implied, and is there for the index.
	var ways []string
	equal := ""
	for i, k := range order {
		ways = append(ways, equal+keys[i]+beyond(k)+places[i])
		equal += keys[i] + " = " + places[i] + " AND "
	}
	first := keys[0] + strings.TrimRight(beyond(order[0]), " ") + "= " + places[0]
	return first + " AND (" + strings.Join(ways, " OR ") + ")", nil
}

func beyond(k filter.Key) string {
	if k.Desc {
		return " < "
	}
	return " > "
}

type planKey struct{}

// WithPlan returns a context in which lists also put down how the database
// finds their rows, in its own words. It is for tests, and for whoever looks
// for the reason of a slow list.
func WithPlan(ctx context.Context, plan *string) context.Context {
	return context.WithValue(ctx, planKey{}, plan)
}

// plan asks the database how it would answer a query.
func (l longer) plan(ctx context.Context, plan *string, query string, args []any) error {
	rows, err := l.DB.QueryContext(ctx, l.engine.Explain()+" "+query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	var text strings.Builder
	for rows.Next() {
		// The engines differ in what comes before, and both end with the text.
		into := make([]any, len(columns))
		for i := range into {
			into[i] = new(sql.RawBytes)
		}
		var line string
		into[len(into)-1] = &line
		if err := rows.Scan(into...); err != nil {
			return err
		}
		text.WriteString(line + "\n")
	}
	*plan = text.String()
	return rows.Err()
}
