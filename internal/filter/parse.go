package filter

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"stella-ops.org/stella/internal/fault"
)

// What a filter may be, so that none costs the server much.
const (
	// MaxLength is in characters.
	MaxLength = 2000
	// MaxTerms counts every value that a field is compared with.
	MaxTerms = 50
	// MaxDepth counts parentheses and nots within each other.
	MaxDepth = 20
)

// Parse reads a filter; an empty one is nil. Times that are told from now are
// told from the given one. What is wrong with it is a fault that says where,
// what was found there, and what was expected.
func (s *Schema) Parse(filter string, now time.Time) (Expr, error) {
	if strings.TrimSpace(filter) == "" {
		return nil, nil
	}
	if n := utf8.RuneCountInString(filter); n > MaxLength {
		return nil, invalid("a filter of %d characters is longer than the %d that fit", n, MaxLength)
	}
	if !utf8.ValidString(filter) {
		return nil, invalid("the filter is not UTF-8")
	}
	in := []rune(filter)
	if i := slices.IndexFunc(in, func(r rune) bool { return unicode.IsControl(r) && !unicode.IsSpace(r) }); i >= 0 {
		return nil, mistake(i+1, "found a control character")
	}
	tokens, err := lex(in)
	if err != nil {
		return nil, err
	}
	p := &parser{schema: s, now: now, tokens: tokens}
	e, err := p.or()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != end {
		return nil, mistake(t.at, "found %s, expected and, or, or the end", t)
	}
	return e, nil
}

// invalid makes a fault about the filter as a whole.
func invalid(format string, args ...any) error {
	return fault.InvalidField("query.filter", format, args...)
}

// mistake makes a fault about a place in the filter.
func mistake(at int, format string, args ...any) error {
	return invalid("at character %d: %s", at, fmt.Sprintf(format, args...))
}

// parser goes through the tokens by recursive descent: or binds more loosely
// than and, and that more loosely than not.
type parser struct {
	schema *Schema
	now    time.Time
	tokens []token
	next   int
	depth  int
	terms  int
}

func (p *parser) peek() token { return p.tokens[p.next] }

// take returns the next token and goes behind it; nothing is behind the end.
func (p *parser) take() token {
	t := p.tokens[p.next]
	if t.kind != end {
		p.next++
	}
	return t
}

func (p *parser) or() (Expr, error) { return p.chain("or", p.and, either) }

func (p *parser) and() (Expr, error) { return p.chain("and", p.not, All) }

// chain reads expressions with a keyword between them.
func (p *parser) chain(keyword string, part func() (Expr, error), join func(...Expr) Expr) (Expr, error) {
	var list []Expr
	for {
		e, err := part()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
		if !p.peek().is(keyword) {
			return join(list...), nil
		}
		p.take()
	}
}

func (p *parser) not() (Expr, error) {
	t := p.peek()
	open := t.kind == mark && t.text == "("
	if !open && !t.is("not") {
		return p.term()
	}
	if p.depth++; p.depth > MaxDepth {
		return nil, mistake(t.at, "more than %d parentheses and nots are within each other", MaxDepth)
	}
	defer func() { p.depth-- }()
	p.take()
	if !open {
		e, err := p.not()
		if err != nil {
			return nil, err
		}
		return Not{e}, nil
	}
	e, err := p.or()
	if err != nil {
		return nil, err
	}
	if t := p.take(); t.kind != mark || t.text != ")" {
		return nil, mistake(t.at, `found %s, expected and, or, or ")"`, t)
	}
	return e, nil
}

// labelKey is what a label's key looks like; see fleet.ValidateLabels. Keys
// become part of paths in databases, so nothing else may come through.
var labelKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$`)

func (p *parser) term() (Expr, error) {
	t := p.take()
	if t.kind != word || keywords[strings.ToLower(t.text)] {
		return nil, mistake(t.at, `found %s, expected a field, not, or "("`, t)
	}
	f, key := p.schema.Field(t.text)
	if f == nil {
		known := p.schema.Filterable()
		return nil, mistake(t.at, "%s have no field %s: %sThe fields are %s", p.schema.Of, t, hint(t.text, known), strings.Join(known, ", "))
	}
	if f.Kind == Labels && !labelKey.MatchString(key) {
		return nil, mistake(t.at, "%q is no key of a label: give letters, digits and . _ / -, as in %s.tier=web", clip(key), f.Name)
	}
	op, err := p.operator(f)
	if err != nil {
		return nil, err
	}
	values, err := p.values(f, op)
	if err != nil {
		return nil, err
	}
	return Term{Field: f.Name, Key: key, Op: op, Values: values}, nil
}

func (p *parser) operator(f *Field) (Op, error) {
	t := p.take()
	var op Op
	switch {
	case t.kind == operator:
		op = Op(t.text)
	case t.is("in"):
		op = In
	case t.is("not") && p.peek().is("in"):
		p.take()
		op = NotIn
	}
	takes := make([]string, len(operators[f.Kind]))
	for i, o := range operators[f.Kind] {
		takes[i] = string(o)
	}
	switch {
	case op == "":
		return "", mistake(t.at, "found %s, expected a comparison: %s", t, strings.Join(takes, " "))
	case !slices.Contains(operators[f.Kind], op):
		return "", mistake(t.at, "found %s, but %s is %s and takes %s", t, f.Name, described[f.Kind], strings.Join(takes, " "))
	}
	return op, nil
}

func (p *parser) values(f *Field, op Op) ([]Value, error) {
	if op != In && op != NotIn {
		v, err := p.value(f, op)
		return []Value{v}, err
	}
	if t := p.take(); t.kind != mark || t.text != "(" {
		return nil, mistake(t.at, `found %s, expected "(" and a list of values, as in %s %s (a, b)`, t, f.Name, op)
	}
	var list []Value
	for {
		v, err := p.value(f, op)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		t := p.take()
		switch {
		case t.kind == mark && t.text == ")":
			return list, nil
		case t.kind != mark || t.text != ",":
			return nil, mistake(t.at, `found %s, expected "," or ")"`, t)
		}
	}
}

func (p *parser) value(f *Field, op Op) (Value, error) {
	t := p.take()
	switch {
	case t.kind == word && keywords[strings.ToLower(t.text)]:
		return Value{}, mistake(t.at, "found the word %s, expected a value: put it in quotes if it is meant as one", t)
	case t.kind != word && t.kind != text:
		return Value{}, mistake(t.at, "found %s, expected a value", t)
	}
	if p.terms++; p.terms > MaxTerms {
		return Value{}, mistake(t.at, "there are more than %d values to compare with", MaxTerms)
	}
	v, err := f.value(t.text, op, p.now)
	if err != nil {
		return Value{}, mistake(t.at, "%s", err)
	}
	return v, nil
}
