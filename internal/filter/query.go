package filter

import (
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/internal/fault"
)

// Request is a listing's part of a request, as it came; what is empty was not
// given.
type Request struct {
	Filter string
	Sort   string
	Cursor string
}

// Query is a request that was read: which rows, in what order, from where on.
// The zero value is all rows in the usual order.
type Query struct {
	Where Expr
	// Order ends with a field that is unique; none is the schema's usual one.
	Order Sort
	// After is the last row that was seen; nil begins at the beginning.
	After Cursor
	// Now is the time that fields are told by.
	Now time.Time
}

// Query reads a request. What is wrong with it is a fault.
func (s *Schema) Query(r Request, now time.Time) (Query, error) {
	q := Query{Now: now}
	var err error
	if q.Where, err = s.Parse(r.Filter, now); err != nil {
		return Query{}, err
	}
	if q.Order, err = s.Sort(r.Sort); err != nil {
		return Query{}, err
	}
	if q.After, err = s.cursor(r.Cursor, q.Order); err != nil {
		return Query{}, err
	}
	return q, nil
}

// Key is a field that rows are ordered by.
type Key struct {
	Field string
	Desc  bool
}

// Sort is an order: by the first key, where that is equal by the next.
type Sort []Key

// maxKeys bounds by how many fields a list is ordered.
const maxKeys = 4

// String returns the order as it is written.
func (s Sort) String() string {
	parts := make([]string, len(s))
	for i, k := range s {
		if k.Desc {
			parts[i] = "-"
		}
		parts[i] += k.Field
	}
	return strings.Join(parts, ",")
}

// Sort reads an order, as in -createdAt,name; an empty one is the usual one.
// If no field in it is unique, the id comes last, in the direction of the key before it, so that the order
// is total and an index can be read in one direction.
func (s *Schema) Sort(in string) (Sort, error) {
	wrong := func(format string, args ...any) error { return fault.InvalidField("query.sort", format, args...) }
	if strings.TrimSpace(in) == "" {
		in = s.Order
	}
	var order Sort
	for part := range strings.SplitSeq(in, ",") {
		part = strings.TrimSpace(part)
		name, desc := strings.CutPrefix(part, "-")
		f, key := s.Field(name)
		switch known := s.Sortable(); {
		case name == "":
			return nil, wrong("found %q, expected fields with commas between them, as in -%s,%s", clip(in), known[len(known)-1], known[0])
		case f == nil || key != "":
			return nil, wrong("%s have no field %q: %sThey can be sorted by %s", s.Of, clip(name), hint(name, known), strings.Join(known, ", "))
		case !f.Sortable:
			return nil, wrong("%s cannot be sorted by %s, but by %s", s.Of, f.Name, strings.Join(known, ", "))
		case slices.ContainsFunc(order, func(k Key) bool { return k.Field == f.Name }):
			return nil, wrong("%s is there twice", f.Name)
		case len(order) == maxKeys:
			return nil, wrong("there are more than the %d fields that can be sorted by", maxKeys)
		}
		order = append(order, Key{f.Name, desc})
		if f.Name == s.ID || f.Unique {
			return order, nil // nothing behind it can matter
		}
	}
	return append(order, Key{s.ID, order[len(order)-1].Desc}), nil
}

// Usual is the order when none is asked for.
func (s *Schema) Usual() Sort {
	order, err := s.Sort("")
	if err != nil {
		panic("filter: the usual order of " + s.Of + ": " + err.Error()) // the schema itself is wrong
	}
	return order
}
