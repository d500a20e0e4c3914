package filter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

// schema has a field of each kind.
var schema = &filter.Schema{
	Of: "things", ID: "id", Order: "-id",
	Fields: []filter.Field{
		{Name: "id", Sortable: true},
		{Name: "name", Sortable: true},
		{Name: "environment", Aliases: []string{"env"}, Sortable: true},
		{Name: "state", Kind: filter.Word, Words: []string{"queued", "running", "failed"}, Sortable: true},
		{Name: "mood", Kind: filter.Set, Words: []string{"good", "bad"}, Sortable: true},
		{Name: "can", Kind: filter.Set},
		{Name: "owner", Kind: filter.Ref},
		{Name: "label", Kind: filter.Labels},
		{Name: "seen", Kind: filter.Time, Sortable: true},
		{Name: "size", Kind: filter.Number, Sortable: true},
		{Name: "open", Kind: filter.Bool},
	},
}

// thing is a row.
type thing map[string]any

// Field implements filter.Row.
func (t thing) Field(name string, _ time.Time) any { return t[name] }

func parse(t *testing.T, text string) filter.Expr {
	t.Helper()
	e, err := schema.Parse(text, now)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return e
}

func TestParse(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"state=failed and env=prod and label.tier=web": "state=failed and environment=prod and label.tier=web",
		"name=a or name=b and name=c":                  "name=a or name=b and name=c",
		"(name=a or name=b) and name=c":                "(name=a or name=b) and name=c",
		"((name=a))":                                   "name=a",
		"name=a and (name=b and name=c)":               "name=a and name=b and name=c",
		"NOT (name=a OR NOT name=b)":                   "not (name=a or not name=b)",
		"not not name=a":                               "not not name=a",
		"name in(a,'b c' , \"d\")":                     `name in (a, "b c", d)`,
		"name NOT  IN (a)":                             "name not in (a)",
		"name~*web?":                                   "name ~ *web?",
		"NAME = 'and'":                                 `name="and"`,
		`name = 'it\'s \\ "x"'`:                        `name="it's \\ \"x\""`,
		`name=""`:                                      `name=""`,
		"state=FAILED":                                 "state=failed",
		"seen > -1d12h and seen<=2026-01-02":           "seen>-1d12h and seen<=2026-01-02",
		"seen=Never":                                   "seen=never",
		"size>=-5":                                     "size>=-5",
		"open!=TRUE":                                   "open!=true",
		"label.a/b.c_d-e != x":                         "label.a/b.c_d-e!=x",
		"owner=linux/amd64:1@x":                        "owner=linux/amd64:1@x",
		"name=ä\nand\tname=b":                          "name=ä and name=b",
		"can=docker.deploy":                            "can=docker.deploy",
	} {
		e := parse(t, in)
		if got := e.String(); got != want {
			t.Errorf("%s reads as %s, want %s", in, got, want)
		}
		if diff := cmp.Diff(e, parse(t, e.String())); diff != "" {
			t.Errorf("%s is not what it prints (-want +got):\n%s", in, diff)
		}
	}
	for _, in := range []string{"", "  \n"} {
		if e := parse(t, in); e != nil {
			t.Errorf("%q reads as %v", in, e)
		}
	}
}

// Errors tell where, what was found, and what to do instead.
func TestParseErrors(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"nam=a":                       `at character 1: things have no field "nam": did you mean name? The fields are id, name, environment, state`,
		"name=a and environmen=b":     `at character 12: things have no field "environmen": did you mean environment?`,
		"xyzzy=1":                     `no field "xyzzy": The fields are`,
		"label=a":                     `no field "label": `,
		"label.=a":                    `no field "label."`,
		"label.$x=a":                  `"$x" is no key of a label`,
		"name":                        `at character 5: found the end, expected a comparison: = != in not in ~`,
		"name a":                      `at character 6: found "a", expected a comparison`,
		"name=":                       `at character 6: found the end, expected a value`,
		"name=a name=b":               `at character 8: found "name", expected and, or, or the end`,
		"name=a and":                  `at character 11: found the end, expected a field`,
		"name=a or or name=b":         `at character 11: found "or", expected a field`,
		"name=and":                    `at character 6: found the word "and", expected a value: put it in quotes`,
		"(name=a":                     `at character 8: found the end, expected and, or, or ")"`,
		"name=a)":                     `at character 7: found ")"`,
		"name==a":                     `at character 6: found "=", expected a value`,
		"name!a":                      `at character 5: found "!", expected !=`,
		"name<a":                      `at character 5: found "<", but name is a text and takes = != in not in ~`,
		"state~f*":                    `found "~", but state is a word`,
		"seen in (now)":               `found "in", but seen is a time`,
		"name='a":                     `at character 6: found a quote that is not closed, expected another '`,
		"name=a\\b":                   `at character 7: found '\\', which may only stand in a value in quotes`,
		"name in a":                   `at character 9: found "a", expected "(" and a list`,
		"name in ()":                  `at character 10: found ")", expected a value`,
		"name in (a b)":               `at character 12: found "b", expected "," or ")"`,
		"state=runnin":                `at character 7: "runnin" is no state: did you mean running? use one of queued, running, failed`,
		"mood=odd":                    `"odd" is no mood`,
		"seen<never":                  `found never, which is not before or after anything`,
		"seen>yesterday":              `at character 6: "yesterday" is no time: give one as in 2026-03-01T12:00:00Z`,
		"seen>-5y":                    `is no time`,
		"seen>-":                      `is no time`,
		"seen>-9999999999w":           `more than 100 years`,
		"seen>1969-12-31T23:59:59Z":   `before 1970`,
		"size=big":                    `"big" is no whole number`,
		"size=1.5":                    `is no whole number`,
		"size=9223372036854775808":    `is no whole number`,
		"open=yes":                    `neither true nor false`,
		"name=\x00":                   `control character`,
		"name=\xff":                   `not UTF-8`,
		strings.Repeat("a", 2001):     `longer than the 2000`,
		strings.Repeat("(", 21):       `at character 21: more than 20`,
		strings.Repeat("not ", 21):    `more than 20`,
		strings.Repeat("ä", 40) + "=": `ää`,
		"name in (" + strings.Repeat("a,", 50) + "a)": `more than 50 values`,
	} {
		_, err := schema.Parse(in, now)
		f := fault.As(err)
		if f == nil || f.Kind != fault.Invalid || len(f.Fields) != 1 || f.Fields[0].Location != "query.filter" || !strings.Contains(f.Fields[0].Message, want) {
			t.Errorf("%.60q: %v, want %q in it", in, err, want)
		}
		if err != nil && len(err.Error()) > 600 {
			t.Errorf("%.60q: the error has %d bytes", in, len(err.Error()))
		}
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	row := thing{
		"id": "1", "name": "Web-01", "environment": "prod", "state": "failed", "mood": []string{"good", "tired"},
		"can": []string{"a", "b"}, "owner": "id-7", "label": map[string]string{"tier": "web"},
		"seen": now.Add(-time.Hour), "size": int64(7), "open": true, "gone": time.Time{},
	}
	for in, want := range map[string]bool{
		"":                                     true,
		"name=Web-01":                          true,
		"name=web-01":                          false,
		"name ~ web-*":                         true,
		"name ~ w?b-0?":                        true,
		"name ~ web":                           false,
		"not name ~ *1":                        false,
		"name in (a, Web-01)":                  true,
		"name not in (a, b)":                   true,
		"name != Web-01":                       false,
		"state=failed and size=8":              false,
		"state=failed and size=7":              true,
		"state=queued or size>6":               true,
		"size>=7 and size<=7":                  true,
		"size<7 or size>7 or size!=7":          false,
		"size in (1, 7)":                       true,
		"mood=good":                            true,
		"mood!=good":                           false,
		"can=b and can=a":                      true,
		"can=c":                                false,
		"can not in (c, b)":                    false,
		"owner=id-7":                           true,
		"label.tier=web":                       true,
		"label.tier ~ W*":                      true,
		"label.zone=''":                        true,
		"label.zone!=a":                        true,
		"label.tier=''":                        false,
		"seen<-30m and seen>-2h":               true,
		"seen>-30m":                            false,
		"seen!=never":                          true,
		"seen<2026-03-01 or seen=never":        false,
		"open=true":                            true,
		"open!=true":                           false,
		"not (open=true and size=7)":           false,
		"name=x or (open=true and not size=8)": true,
	} {
		if got := filter.Match(parse(t, in), row, now); got != want {
			t.Errorf("%s: %v, want %v", in, got, want)
		}
	}
	// What is not there is neither before nor after anything.
	row["seen"] = time.Time{}
	for in, want := range map[string]bool{
		"seen=never": true, "seen!=never": false, "seen<now": false, "seen>now": false, "seen!=now": true, "not seen<now": true,
	} {
		if got := filter.Match(parse(t, in), row, now); got != want {
			t.Errorf("never: %s: %v, want %v", in, got, want)
		}
	}
}

func TestGlob(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true},
		{"*", "", true},
		{"**", "abc", true},
		{"?", "", false},
		{"?", "ä", true},
		{"??", "ä", false},
		{"a*b*c", "a1b2b3c", true},
		{"a*b*c", "a1b2b3", false},
		{"*.example.com", "web.EXAMPLE.com", true},
		{"Ä", "ä", false},
		{"a%", "ab", false},
		{"a_", "ab", false},
		{"*ab", "aab", true},
	} {
		if got := filter.Glob(c.pattern, c.text); got != c.want {
			t.Errorf("%q against %q: %v", c.pattern, c.text, got)
		}
	}
	// No pattern may take longer than it is worth.
	if filter.Glob(strings.Repeat("*a", 500)+"b", strings.Repeat("a", 2000)) {
		t.Error("it matches")
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	if e := filter.All(nil, filter.Is("name", ""), filter.HasLabels("label", nil)); e != nil {
		t.Errorf("nothing is %v", e)
	}
	e := filter.All(filter.Is("name", "a"), parse(t, "size=1 or size=2"), parse(t, "open=true and id=x"), filter.HasLabels("label", map[string]string{"k": "v"}))
	if want := "name=a and (size=1 or size=2) and open=true and id=x and label.k=v"; e.String() != want {
		t.Errorf("%s, want %s", e, want)
	}
	e, err := filter.Refer(parse(t, "owner=joe and not owner in (ann, ghost) or name=joe"), "owner", func(name string) (string, error) {
		if name == "ghost" {
			return "", fault.New(fault.NotFound, "gone", "gone")
		}
		return "id-" + name, nil
	})
	if want := "owner=id-joe and not owner in (id-ann, ghost) or name=joe"; err != nil || e.String() != want {
		t.Errorf("%s (error %v), want %s", e, err, want)
	}
	if _, err := filter.Refer(e, "owner", func(string) (string, error) { return "", fault.New(fault.Unavailable, "down", "down") }); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a store that is down gives %v", err)
	}
}

// FuzzParse: nothing makes the parser panic, and what it reads is what it
// prints.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "name=a", "state=failed and not (env=prod or label.tier ~ 'w*')", `name in ("a", 'b\'c', d)`, "seen>-1d and seen!=never",
		"size<=-9 or open=true", "not not can not in (x)", "((((", "name='", "a=b=c", "label..=", "\x00", "\xff", "name=and", "mood=GOOD",
		"seen<2026-01-02t03:04:05.123456789+01:00", "owner!=\"\"", "name=İ", "size=+1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		e, err := schema.Parse(in, now)
		if err != nil {
			if x := fault.As(err); x == nil || len(x.Fields) != 1 {
				t.Fatalf("%q: %v is no fault of a field", in, err)
			}
			return
		}
		if e == nil {
			return
		}
		printed := e.String()
		if len(printed) > filter.MaxLength {
			return // spaces and whole names may make it longer than may come in
		}
		again, err := schema.Parse(printed, now)
		if err != nil {
			t.Fatalf("%q prints as %q: %v", in, printed, err)
		}
		if diff := cmp.Diff(e, again); diff != "" {
			t.Fatalf("%q prints as %q (-want +got):\n%s", in, printed, diff)
		}
		if again.String() != printed {
			t.Fatalf("%q prints as %q and then as %q", in, printed, again)
		}
	})
}
