package store

import (
	"fmt"
	"strings"

	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/store/internal/column"
)

// expr makes a condition of an expression. Each is true or false and never
// NULL, so that not means on the database what it means in Go.
func (w *where) expr(e filter.Expr) (string, error) {
	switch e := e.(type) {
	case filter.And:
		return w.joined(e, " AND ")
	case filter.Or:
		return w.joined(e, " OR ")
	case filter.Not:
		inner, err := w.expr(e.Expr)
		return "NOT (" + inner + ")", err
	case filter.Term:
		return w.term(e)
	}
	return "", fmt.Errorf("an expression of type %T", e)
}

func (w *where) joined(list []filter.Expr, word string) (string, error) {
	parts := make([]string, len(list))
	for i, e := range list {
		cond, err := w.expr(e)
		if err != nil {
			return "", err
		}
		parts[i] = "(" + cond + ")"
	}
	return strings.Join(parts, word), nil
}

func (w *where) term(t filter.Term) (string, error) {
	f := w.schema.Named(t.Field)
	if f == nil || len(t.Values) == 0 {
		return "", fmt.Errorf("%q is nothing that %s can be asked by", t, w.schema.Of)
	}
	from, ok := w.fields[f.Name]
	if !ok {
		return "", fmt.Errorf("the database has no %s of %s", f.Name, w.schema.Of)
	}
	switch t.Op {
	case filter.NotEqual:
		t.Op = filter.Equal
	case filter.NotIn:
		t.Op = filter.In
	case filter.Equal, filter.In, filter.Less, filter.LessEqual, filter.Greater, filter.GreaterEqual, filter.Like:
		return w.compare(f, from, t)
	}
	cond, err := w.compare(f, from, t)
	return "NOT (" + cond + ")", err
}

// compare makes the condition of a term that is not negative.
func (w *where) compare(f *filter.Field, from source, t filter.Term) (string, error) {
	anyOf := func(cond func(value string) string) string {
		parts := make([]string, len(t.Values))
		for i, v := range t.Values {
			parts[i] = cond(v.Text)
		}
		return strings.Join(parts, " OR ")
	}
	if from.is != nil {
		return anyOf(func(value string) string { return from.is(w, from.column, value) }), nil
	}
	first := t.Values[0]
	switch f.Kind {
	case filter.Labels:
		return anyOf(func(value string) string { return w.label(from.column, t.Key, t.Op, value) }), nil
	case filter.Time:
		return w.time(from, t.Op, first), nil
	case filter.Bool:
		return from.column + " = " + w.arg(first.Bool), nil
	case filter.Number:
		if t.Op != filter.In {
			return from.column + " " + string(t.Op) + " " + w.arg(first.Number), nil
		}
	case filter.Text, filter.Word, filter.Ref, filter.Set:
		if t.Op == filter.Like {
			return w.like(from.column, first.Text), nil
		}
	}
	places := make([]string, len(t.Values))
	for i, v := range t.Values {
		if f.Kind == filter.Number {
			places[i] = w.arg(v.Number)
		} else {
			places[i] = w.arg(v.Text)
		}
	}
	if len(places) == 1 {
		return from.column + " = " + places[0], nil
	}
	return from.column + " IN (" + strings.Join(places, ", ") + ")", nil
}

// time compares with a time that may not be there; then it is neither before
// nor after anything.
func (w *where) time(from source, op filter.Op, v filter.Value) string {
	if v.Time.IsZero() {
		return from.column + " IS NULL"
	}
	cond := from.column + " " + string(op) + " " + w.arg(column.At(v.Time))
	if from.mayBeNull {
		return from.column + " IS NOT NULL AND " + cond
	}
	return cond
}

// label compares with a label; one that is not there is empty.
func (w *where) label(labels, key string, op filter.Op, value string) string {
	if op != filter.Like && value != "" {
		// An engine that has an index for it is asked so that it is used.
		if cond, ok := w.engine.HasLabel(labels, func() string {
			return w.arg(column.Labels{V: map[string]string{key: value}})
		}); ok {
			return cond
		}
	}
	text := "COALESCE(" + w.engine.Label(labels, w.arg(key)) + ", '')"
	if op == filter.Like {
		return w.like(text, value)
	}
	return text + " = " + w.arg(value)
}

// like matches a pattern. The engines agree on the case of A to Z only.
func (w *where) like(text, pattern string) string {
	pattern = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`, `?`, `_`).Replace(filter.Fold(pattern))
	return w.engine.Fold(text) + " LIKE " + w.arg(pattern) + ` ESCAPE '\'`
}
