package storetest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/internal/filter"
)

// agree holds a list against the same thing done in memory, for any filter, any
// order and any length of page. rows are all that there are.
func agree[R filter.Row](t *testing.T, s *filter.Schema, now time.Time, rows []R, list func(q filter.Query, limit int) ([]R, error)) {
	t.Helper()
	if len(rows) == 0 {
		t.Fatal("there are no rows")
	}
	id := func(r R) any { return r.Field(s.ID, now) }
	rapid.Check(t, func(t *rapid.T) {
		text := anyFilter(s, now, rows, 3).Draw(t, "filter")
		order := anySort(s).Draw(t, "sort")
		limit := rapid.IntRange(1, len(rows)+1).Draw(t, "limit")
		q, err := s.Query(filter.Request{Filter: text, Sort: order}, now)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		var want, got []any
		for _, r := range sorted(rows, q.Order, now) {
			if filter.Match(q.Where, r, now) {
				want = append(want, id(r))
			}
		}
		for pages := 0; ; pages++ {
			if pages > len(rows)+1 {
				t.Fatalf("filter %s, sort %q: the pages do not end", text, order)
			}
			page, err := list(q, limit)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			for _, r := range page {
				got = append(got, id(r))
			}
			if len(page) < limit {
				break
			}
			next, err := s.Query(filter.Request{Filter: text, Sort: order, Cursor: s.Next(q, page[len(page)-1])}, now)
			if err != nil {
				t.Fatalf("the cursor: %v", err)
			}
			q = next
		}
		if !slices.Equal(got, want) {
			t.Fatalf("filter %s, sort %q, pages of %d:\ngot  %v\nwant %v", text, order, limit, got, want)
		}
	})
	// And every field in each way, so that none is left to chance.
	for _, f := range s.Fields {
		name, values := f.Name, slices.Clone(odd)
		if f.Kind == filter.Labels {
			name += ".zone"
		}
		switch {
		case len(f.Words) > 0:
			values = f.Words
		case f.Kind == filter.Time:
			values = []string{"-1h", "now", "never"}
		case f.Kind == filter.Number:
			values = []string{"1", "5"}
		case f.Kind == filter.Bool:
			values = []string{"true", "false"}
		}
		for _, v := range values {
			for _, op := range []filter.Op{"=", "!=", "<", "<=", ">", ">=", "~", "in", "not in"} {
				term := filter.Term{Field: name, Op: op, Values: []filter.Value{{Text: v}}}
				q, err := s.Query(filter.Request{Filter: term.String()}, now)
				if err != nil {
					continue // the kind does not take it
				}
				found, err := list(q, 1000)
				must(t, err)
				want := 0
				for _, r := range rows {
					if filter.Match(q.Where, r, now) {
						want++
					}
				}
				if len(found) != want {
					t.Errorf("%s finds %d, want %d", term, len(found), want)
				}
			}
		}
	}
}

// sorted orders rows in memory.
func sorted[R filter.Row](rows []R, order filter.Sort, now time.Time) []R {
	return slices.SortedFunc(slices.Values(rows), func(a, b R) int {
		for _, k := range order {
			c := 0
			switch x := a.Field(k.Field, now).(type) {
			case string:
				y, _ := b.Field(k.Field, now).(string)
				c = strings.Compare(x, y)
			case []string:
				y, _ := b.Field(k.Field, now).([]string)
				c = strings.Compare(x[0], y[0])
			case int64:
				y, _ := b.Field(k.Field, now).(int64)
				c = cmp.Compare(x, y)
			case time.Time:
				y, _ := b.Field(k.Field, now).(time.Time)
				c = x.Compare(y) // the zero time is before all others
			}
			if k.Desc {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return 0
	})
}

func anySort(s *filter.Schema) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		keys := rapid.SliceOfNDistinct(rapid.SampledFrom(s.Sortable()), 0, 3, rapid.ID).Draw(t, "keys")
		for i := range keys {
			if rapid.Bool().Draw(t, "down") {
				keys[i] = "-" + keys[i]
			}
		}
		return strings.Join(keys, ",")
	})
}

// anyFilter makes filters of what is in the rows, so that they match some.
func anyFilter[R filter.Row](s *filter.Schema, now time.Time, rows []R, depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		join := "term"
		if depth > 0 {
			join = rapid.SampledFrom([]string{"term", " and ", " or ", "not ", "none"}).Draw(t, "join")
		}
		part := func() string { return "(" + anyFilter(s, now, rows, depth-1).Draw(t, "part") + ")" }
		switch join {
		case "term":
			return anyTerm(t, s, now, rapid.SampledFrom(rows).Draw(t, "row"), rapid.SampledFrom(rows).Draw(t, "other"))
		case "not ":
			return join + part()
		case "none":
			if depth == 3 {
				return ""
			}
			return part()
		}
		return part() + join + part()
	})
}

// odd are values that mean something to databases.
var odd = []string{"", "%", "_", "*", "?", `\`, `\%`, "'", `"`, "a*b", "Ä*", "ä", "$1", "$.k", "docker.deploy", "docker", "host.health-check"}

func anyTerm(t *rapid.T, s *filter.Schema, now time.Time, rows ...filter.Row) string {
	f := rapid.SampledFrom(s.Fields).Draw(t, "field")
	term := filter.Term{Field: f.Name, Op: filter.Equal}
	if f.Kind == filter.Labels {
		term.Key = rapid.SampledFrom([]string{"zone", "name", "none", "a.b/c", "7"}).Draw(t, "key")
	}
	text := filter.Op("=")
	switch f.Kind {
	case filter.Time:
		term.Op = rapid.SampledFrom([]filter.Op{"=", "!=", "<", "<=", ">", ">="}).Draw(t, "op")
	case filter.Number:
		term.Op = rapid.SampledFrom([]filter.Op{"=", "!=", "<", "<=", ">", ">=", "in", "not in"}).Draw(t, "op")
	case filter.Bool:
		term.Op = rapid.SampledFrom([]filter.Op{"=", "!="}).Draw(t, "op")
	case filter.Text, filter.Labels:
		text = "~"
		fallthrough
	case filter.Word, filter.Ref, filter.Set:
		term.Op = rapid.SampledFrom([]filter.Op{"=", "!=", "in", "not in", text}).Draw(t, "op")
	}
	if term.Op != filter.In && term.Op != filter.NotIn {
		rows = rows[:1]
	}
	for _, r := range rows {
		term.Values = append(term.Values, filter.Value{Text: anyValue(t, &f, &term, r.Field(f.Name, now))})
	}
	return term.String()
}

func anyValue(t *rapid.T, f *filter.Field, term *filter.Term, have any) string {
	if len(f.Words) > 0 {
		return rapid.SampledFrom(f.Words).Draw(t, "word")
	}
	switch have := have.(type) {
	case time.Time:
		if have.IsZero() && term.Op != filter.Equal && term.Op != filter.NotEqual {
			return "-1h"
		}
		if have.IsZero() {
			return "never"
		}
		return have.Format(time.RFC3339Nano)
	case int64:
		return fmt.Sprint(have)
	case bool:
		return fmt.Sprint(have)
	case string:
		if r := []rune(have); term.Op == filter.Like && len(r) > 2 {
			return rapid.SampledFrom([]string{filter.Fold(have), string(r[:1]) + "*", "*" + string(r[1:2]) + "*", "?" + string(r[1:])}).Draw(t, "pattern")
		}
		if rapid.IntRange(0, 4).Draw(t, "odd") > 0 {
			return have
		}
	case map[string]string:
		if rapid.IntRange(0, 4).Draw(t, "odd") > 0 {
			return have[term.Key]
		}
	}
	return rapid.SampledFrom(odd).Draw(t, "odd value")
}
