// Package filter is the small language in which listings are narrowed, ordered
// and paged, the same for all of them:
//
//	status=live and env=production and (label.tier=web or name ~ "web-*")
//
// A noun declares a [Schema]: which fields its listing has, and of what kind.
// The schema reads a filter into an [Expr], an order into a [Sort] and a page's
// beginning into a [Cursor]. An expression can be matched in memory against a
// [Row], and a store compiles it to its own language: it is data, not text.
//
// The package knows no SQL, no HTTP and none of the nouns. docs/filter.md is
// the language for who uses it.
package filter

import (
	"strings"
	"time"
	"unicode"

	"stella-ops.org/stella/internal/fault"
)

// Expr is an expression: a [Term], or several joined by [And], [Or] and [Not].
// nil holds for every row. Its String is text that parses to the same.
type Expr interface {
	String() string
	expr()
}

// And holds when all do.
type And []Expr

// Or holds when one does.
type Or []Expr

// Not holds when the other does not.
type Not struct{ Expr Expr }

// Term compares a field with values.
type Term struct {
	Field  string // the field's own name, not an alias
	Key    string // of a label
	Op     Op
	Values []Value // one; several with In and NotIn
}

// Op is a comparison.
type Op string

// The comparisons.
const (
	Equal        Op = "="
	NotEqual     Op = "!="
	Less         Op = "<"
	LessEqual    Op = "<="
	Greater      Op = ">"
	GreaterEqual Op = ">="
	In           Op = "in"
	NotIn        Op = "not in"
	// Like matches a pattern: * is any text, ? is any one character, and the
	// case of A to Z does not matter.
	Like Op = "~"
)

// Value is what a field is compared with.
type Value struct {
	// Text is the value as it was written. A word of a vocabulary is in lower
	// case.
	Text string
	// Time is the value of a [Time] field; zero stands for never.
	Time time.Time
	// Number is the value of a [Number] field.
	Number int64
	// Bool is the value of a [Bool] field.
	Bool bool
}

func (And) expr()  {}
func (Or) expr()   {}
func (Not) expr()  {}
func (Term) expr() {}

// All joins expressions by and; nil ones are left out, and none at all is nil.
func All(list ...Expr) Expr {
	var all And
	for _, e := range list {
		switch e := e.(type) {
		case nil:
		case And:
			all = append(all, e...)
		default:
			all = append(all, e)
		}
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return all
}

// either joins expressions by or.
func either(list ...Expr) Expr {
	var all Or
	for _, e := range list {
		if more, ok := e.(Or); ok {
			all = append(all, more...)
			continue
		}
		all = append(all, e)
	}
	if len(all) == 1 {
		return all[0]
	}
	return all
}

// Is makes a term for a field that holds text, a word, a reference or a set.
// An empty value makes nil: it is how a parameter that was not given looks.
func Is(field, value string) Expr {
	if value == "" {
		return nil
	}
	return Term{Field: field, Op: Equal, Values: []Value{{Text: value}}}
}

// HasLabels makes a term for each label; a label that a row lacks is empty.
func HasLabels(field string, labels map[string]string) Expr {
	var all []Expr
	for key, value := range labels {
		all = append(all, Term{Field: field, Key: key, Op: Equal, Values: []Value{{Text: value}}})
	}
	return All(all...)
}

// Rewrite returns the expression with each of its terms changed by fn.
func Rewrite(e Expr, fn func(Term) (Term, error)) (Expr, error) {
	each := func(list []Expr) ([]Expr, error) {
		out := make([]Expr, len(list))
		for i, e := range list {
			var err error
			if out[i], err = Rewrite(e, fn); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	switch e := e.(type) {
	case And:
		out, err := each(e)
		return And(out), err
	case Or:
		out, err := each(e)
		return Or(out), err
	case Not:
		inner, err := Rewrite(e.Expr, fn)
		return Not{inner}, err
	case Term:
		return fn(e)
	}
	return e, nil
}

// Refer returns the expression with ids where a [Ref] field is compared with
// names. find returns the id of a name. What it does not find stays as it is:
// it may be the id of something that is gone.
func Refer(e Expr, field string, find func(idOrName string) (id string, err error)) (Expr, error) {
	return Rewrite(e, func(t Term) (Term, error) {
		if t.Field != field {
			return t, nil
		}
		ids := make([]Value, len(t.Values))
		for i, v := range t.Values {
			id, err := find(v.Text)
			if err != nil && fault.KindOf(err) != fault.NotFound {
				return t, err
			}
			if err == nil {
				v.Text = id
			}
			ids[i] = v
		}
		t.Values = ids
		return t, nil
	})
}

// String returns the expression as text.
func (a And) String() string { return join(a, " and ") }

// String returns the expression as text.
func (o Or) String() string { return join(o, " or ") }

// join puts parentheses around what binds more loosely than the word between.
func join(list []Expr, word string) string {
	parts := make([]string, len(list))
	for i, e := range list {
		parts[i] = e.String()
		if _, loose := e.(Or); loose && word == " and " {
			parts[i] = "(" + parts[i] + ")"
		}
	}
	return strings.Join(parts, word)
}

// String returns the expression as text.
func (n Not) String() string {
	switch n.Expr.(type) {
	case And, Or:
		return "not (" + n.Expr.String() + ")"
	}
	return "not " + n.Expr.String()
}

// String returns the term as text.
func (t Term) String() string {
	name := t.Field
	if t.Key != "" {
		name += "." + t.Key
	}
	values := make([]string, len(t.Values))
	for i, v := range t.Values {
		values[i] = quoted(v.Text)
	}
	list := strings.Join(values, ", ")
	switch t.Op {
	case In, NotIn:
		return name + " " + string(t.Op) + " (" + list + ")"
	case Like:
		return name + " ~ " + list
	case Equal, NotEqual, Less, LessEqual, Greater, GreaterEqual:
	}
	return name + string(t.Op) + list
}

// keywords mean something by themselves, and are values in quotes only.
var keywords = map[string]bool{"and": true, "or": true, "not": true, "in": true}

// quoted returns a value as it is written.
func quoted(text string) string {
	if text != "" && !keywords[strings.ToLower(text)] && !strings.ContainsFunc(text, func(r rune) bool { return !bare(r) }) {
		return text
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// bare reports whether a character may stand in a word without quotes.
func bare(r rune) bool {
	return !unicode.IsSpace(r) && !unicode.IsControl(r) && !strings.ContainsRune(`()=!<>~,'"\`, r)
}
