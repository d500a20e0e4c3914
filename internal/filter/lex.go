package filter

import (
	"strings"
	"unicode"
)

// kindOf a token.
type tokenKind int

const (
	end      tokenKind = iota
	word               // a name, a keyword or a value without quotes
	text               // a value in quotes
	operator           // =, !=, <, <=, >, >= and ~
	mark               // ( ) and ,
)

// token is a piece of a filter.
type token struct {
	kind tokenKind
	text string // of a value in quotes: what it stands for
	at   int    // the number of its first character, from 1
}

// String is how an error shows the token.
func (t token) String() string {
	if t.kind == end {
		return "the end"
	}
	return `"` + clip(t.text) + `"`
}

// is reports whether a token is a keyword.
func (t token) is(keyword string) bool {
	return t.kind == word && strings.EqualFold(t.text, keyword)
}

// lex cuts a filter into its tokens; the last one is the end.
func lex(in []rune) ([]token, error) {
	var tokens []token
	for i := 0; i < len(in); {
		start := i
		add := func(kind tokenKind, text string) { tokens = append(tokens, token{kind, text, start + 1}) }
		switch r := in[i]; {
		case unicode.IsSpace(r):
			i++
		case strings.ContainsRune("(),", r):
			i++
			add(mark, string(r))
		case strings.ContainsRune("=!<>~", r):
			i++
			if i < len(in) && in[i] == '=' && strings.ContainsRune("!<>", r) {
				i++
			}
			if string(in[start:i]) == "!" {
				return nil, mistake(start+1, `found "!", expected != or the word not`)
			}
			add(operator, string(in[start:i]))
		case r == '\'' || r == '"':
			value, next, err := unquote(in, i)
			if err != nil {
				return nil, err
			}
			i = next
			add(text, value)
		case bare(r):
			for i < len(in) && bare(in[i]) {
				i++
			}
			add(word, string(in[start:i]))
		default:
			return nil, mistake(start+1, "found %q, which may only stand in a value in quotes", r)
		}
	}
	return append(tokens, token{kind: end, at: len(in) + 1}), nil
}

// unquote reads a value in quotes. A backslash stands before a character that
// would mean something: the quote, or a backslash.
func unquote(in []rune, start int) (value string, next int, err error) {
	var b strings.Builder
	for i := start + 1; i < len(in); i++ {
		switch r := in[i]; {
		case r == in[start]:
			return b.String(), i + 1, nil
		case r == '\\' && i+1 < len(in):
			i++
			b.WriteRune(in[i])
		default:
			b.WriteRune(r)
		}
	}
	return "", 0, mistake(start+1, "found a quote that is not closed, expected another %c behind the value", in[start])
}

// clip keeps an error readable whatever was sent.
func clip(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}
