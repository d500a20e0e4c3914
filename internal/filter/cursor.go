package filter

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"stella-ops.org/stella/internal/fault"
)

// Cursor is a place in a list: what the keys of its order hold in the row
// before it. It stands for the place and not for the row, so that it stays
// where it is when that row goes or others come. A string is text, an int64 a
// number, a time.Time a time (zero for never), a bool itself.
type Cursor []any

// maxCursor is longer than any cursor that is given out.
const maxCursor = 8192

// sealed is a cursor as it travels. The order goes with it: in another one the
// place would mean nothing.
type sealed struct {
	Order  string `json:"o"`
	Values []any  `json:"v"`
}

// Next returns the cursor behind a row, as a client gets it.
func (s *Schema) Next(q Query, r Row) string {
	order := q.Order
	if order == nil {
		order = s.Usual()
	}
	c := sealed{Order: order.String()}
	for _, k := range order {
		c.Values = append(c.Values, portable(r.Field(k.Field, q.Now)))
	}
	raw, err := json.Marshal(c)
	if err != nil {
		panic("filter: encode a cursor: " + err.Error()) // there are only texts, numbers and bools
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// portable makes of what a row holds what the cursor keeps: a set is ordered
// by its first, and a time by its microseconds.
func portable(v any) any {
	switch v := v.(type) {
	case []string:
		return v[0]
	case time.Time:
		if v.IsZero() {
			return nil
		}
		return v.UnixMicro()
	}
	return v
}

// cursor reads what Next gave; an empty one is nil.
func (s *Schema) cursor(in string, order Sort) (Cursor, error) {
	if in == "" {
		return nil, nil
	}
	garbage := fault.InvalidField("query.cursor", "this is no cursor: give what the page before had as next, or leave it out to begin anew")
	if len(in) > maxCursor {
		return nil, garbage
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(in)
	if err != nil {
		return nil, garbage
	}
	var c sealed
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil || d.More() {
		return nil, garbage
	}
	if have := order.String(); c.Order != have {
		return nil, fault.InvalidField("query.cursor", "the cursor is of a list in another order than %s: sort as the page before was, or leave the cursor out to begin anew", have)
	}
	if len(c.Values) != len(order) {
		return nil, garbage
	}
	after := make(Cursor, len(order))
	for i, k := range order {
		f, _ := s.Field(k.Field)
		v, ok := f.place(c.Values[i])
		if !ok {
			return nil, garbage
		}
		after[i] = v
	}
	return after, nil
}

// place reads one value of a cursor; somebody may have made it up.
func (f *Field) place(v any) (any, bool) {
	switch f.Kind {
	case Time:
		if v == nil {
			return time.Time{}, true
		}
		n, ok := number(v)
		return time.UnixMicro(n).UTC(), ok && n >= 0 && n < maxMicros
	case Number:
		return number(v)
	case Bool:
		b, ok := v.(bool)
		return b, ok
	case Text, Word, Ref, Set, Labels:
	}
	s, ok := v.(string)
	return s, ok
}

// maxMicros is the end of the year 9999: databases end somewhere behind it.
const maxMicros = 253402300800_000_000

func number(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := n.Int64()
	return i, err == nil
}
