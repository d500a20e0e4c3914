package filter

import (
	"slices"
	"strings"
	"time"
)

// Row is something that a filter can be matched against in memory.
type Row interface {
	// Field returns what a field holds, by the field's own name: a string (of
	// a Text, Word or Ref), a []string or a Holder (of a Set), a
	// map[string]string (of Labels), a time.Time (zero for never), an int64
	// or a bool. now is for what depends on it, as whether something has
	// expired.
	Field(name string, now time.Time) any
}

// Holder is a set that has more to say about what it holds than a list: as
// when a short name covers many.
type Holder interface {
	Holds(text string) bool
}

// Match reports whether a row passes.
func Match(e Expr, r Row, now time.Time) bool {
	switch e := e.(type) {
	case And:
		return !slices.ContainsFunc(e, func(e Expr) bool { return !Match(e, r, now) })
	case Or:
		return slices.ContainsFunc(e, func(e Expr) bool { return Match(e, r, now) })
	case Not:
		return !Match(e.Expr, r, now)
	case Term:
		return e.match(r.Field(e.Field, now))
	}
	return true
}

func (t Term) match(have any) bool {
	switch t.Op {
	case NotEqual, NotIn:
		return !t.any(have)
	case Equal, In, Like, Less, LessEqual, Greater, GreaterEqual:
	}
	return t.any(have)
}

// any reports whether the comparison, or its opposite if that is negative,
// holds for one of the values.
func (t Term) any(have any) bool {
	if labels, ok := have.(map[string]string); ok {
		have = labels[t.Key]
	}
	return slices.ContainsFunc(t.Values, func(v Value) bool {
		switch have := have.(type) {
		case string:
			if t.Op == Like {
				return Glob(v.Text, have)
			}
			return have == v.Text
		case []string:
			return slices.Contains(have, v.Text)
		case Holder:
			return have.Holds(v.Text)
		case bool:
			return have == v.Bool
		case int64:
			return t.ordered(have, v.Number)
		case time.Time:
			if have.IsZero() || v.Time.IsZero() {
				return t.ordered(0, 0) && have.IsZero() && v.Time.IsZero()
			}
			return t.ordered(int64(have.Compare(v.Time)), 0)
		}
		return false
	})
}

func (t Term) ordered(have, want int64) bool {
	switch t.Op {
	case Less:
		return have < want
	case LessEqual:
		return have <= want
	case Greater:
		return have > want
	case GreaterEqual:
		return have >= want
	case Equal, NotEqual, In, NotIn, Like:
	}
	return have == want
}

// Glob matches a text against a pattern as [Like] does.
func Glob(pattern, s string) bool {
	p, t := []rune(Fold(pattern)), []rune(Fold(s))
	// Where to go on when it fits no more: behind the last star, with one
	// more character given to it. One star back is enough, so that no pattern
	// takes longer than its length times the text's.
	star, from := -1, 0
	i, j := 0, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, from = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// Fold makes A to Z small and leaves all else as it is, as every database can.
func Fold(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
