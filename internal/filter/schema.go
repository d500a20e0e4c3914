package filter

import (
	"fmt"
	"slices"
	"strings"
)

// Kind is what a field holds, and so how it can be compared.
type Kind int

// The kinds of field.
const (
	// Text is compared byte by byte.
	Text Kind = iota
	// Word is one of a fixed vocabulary, in any case.
	Word
	// Ref is the id of something that also has a name. Who lists puts the id
	// where a filter has the name, by [Rewrite].
	Ref
	// Set holds several texts; it is equal to each of them. With a vocabulary
	// it is of words.
	Set
	// Labels holds texts by key, as in label.tier; a missing one is empty.
	Labels
	// Time may be never, which is before or after nothing, and comes first.
	Time
	// Number is a whole number.
	Number
	// Bool is true or false.
	Bool
)

// operators are those that a kind of field takes.
var operators = map[Kind][]Op{
	Text:   {Equal, NotEqual, In, NotIn, Like},
	Word:   {Equal, NotEqual, In, NotIn},
	Ref:    {Equal, NotEqual, In, NotIn},
	Set:    {Equal, NotEqual, In, NotIn},
	Labels: {Equal, NotEqual, In, NotIn, Like},
	Time:   {Equal, NotEqual, Less, LessEqual, Greater, GreaterEqual},
	Number: {Equal, NotEqual, Less, LessEqual, Greater, GreaterEqual, In, NotIn},
	Bool:   {Equal, NotEqual},
}

// described is how errors and documents call a kind.
var described = map[Kind]string{
	Text: "a text", Word: "a word", Ref: "an id or a name", Set: "a set", Labels: "a label",
	Time: "a time", Number: "a whole number", Bool: "true or false",
}

// Field is one field of a listing.
type Field struct {
	Name    string
	Aliases []string
	Kind    Kind
	// Words are the vocabulary of a Word, and may be that of a Set.
	Words []string
	// Sortable fields can order the listing.
	Sortable bool
	// Unique: no two rows share it, so that it alone makes an order total.
	Unique bool
}

// Schema is what a listing can be asked by. It does not change.
type Schema struct {
	// Of is what is listed, as in agents.
	Of     string
	Fields []Field
	// ID is a field that no two rows share. An order without such a field
	// gets it at the end, so that no two rows are in the same place.
	ID string
	// Order is the order when none is asked for.
	Order string
}

// Field returns the field of that name or alias, whose case does not matter;
// nil when there is none. The key is that of a label.
func (s *Schema) Field(name string) (f *Field, key string) {
	for i := range s.Fields {
		f := &s.Fields[i]
		if f.Kind == Labels {
			if at := len(f.Name) + 1; len(name) > at && strings.EqualFold(name[:at], f.Name+".") {
				return f, name[at:]
			}
			continue
		}
		same := func(n string) bool { return strings.EqualFold(n, name) }
		if same(f.Name) || slices.ContainsFunc(f.Aliases, same) {
			return f, ""
		}
	}
	return nil, ""
}

// Named returns the field of exactly that name; nil when there is none.
func (s *Schema) Named(name string) *Field {
	for i := range s.Fields {
		if s.Fields[i].Name == name {
			return &s.Fields[i]
		}
	}
	return nil
}

// Filterable lists the fields by name, for texts.
func (s *Schema) Filterable() []string {
	var names []string
	for _, f := range s.Fields {
		if f.Kind == Labels {
			f.Name += ".KEY"
		}
		names = append(names, f.Name)
	}
	return names
}

// Sortable lists the fields that can order the listing, for texts.
func (s *Schema) Sortable() []string {
	var names []string
	for _, f := range s.Fields {
		if f.Sortable {
			names = append(names, f.Name)
		}
	}
	return names
}

// Describe says in one sentence for each field what it holds; documents that
// are made by programs show it.
func (s *Schema) Describe() string {
	var parts []string
	for i, name := range s.Filterable() {
		f := &s.Fields[i]
		what := described[f.Kind]
		if len(f.Words) > 0 {
			what = strings.Join(f.Words, ", ")
		}
		parts = append(parts, fmt.Sprintf("%s (%s)", name, what))
	}
	return strings.Join(parts, "; ")
}

// nearest returns the known word that a mistyped one most likely stands for;
// empty when none is near.
func nearest(word string, known []string) string {
	best, least := "", 3
	if len(word) < 5 {
		least = 2 // two slips in four letters are another word
	}
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
		if best == "" && len(word) > 2 && len(word) < len(k) && strings.EqualFold(k[:len(word)], word) {
			best = k
		}
	}
	return best
}

// distance counts the characters to put in, leave out, change or swap to make
// one word of another.
func distance(a, b string) int {
	const far = 100
	if len(a) > 64 || len(b) > 64 {
		return far
	}
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// hint is the sentence for a mistyped word; empty when nothing is near.
func hint(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %s? ", near)
	}
	return ""
}
