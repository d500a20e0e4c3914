package filter_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
)

func TestSort(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                     "-id",
		"name":                 "name,id",
		"-seen":                "-seen,-id",
		"-SEEN, env":           "-seen,environment,id",
		"name,-id":             "name,-id",
		"id,name":              "id",
		"mood,state,-size,env": "mood,state,-size,environment,id",
	} {
		got, err := schema.Sort(in)
		if err != nil || got.String() != want {
			t.Errorf("%q is %s (error %v), want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"nam":                      `things have no field "nam": did you mean name? They can be sorted by id, name`,
		"label.tier":               `no field "label.tier"`,
		"open":                     "things cannot be sorted by open, but by id, name",
		"name,":                    `found "name,", expected fields`,
		"-":                        `found "-"`,
		"name,-name":               "name is there twice",
		"name,env,state,mood,size": "more than the 4",
	} {
		_, err := schema.Sort(in)
		f := fault.As(err)
		if f == nil || f.Kind != fault.Invalid || f.Fields[0].Location != "query.sort" || !strings.Contains(f.Message, want) {
			t.Errorf("%q: %v, want %q in it", in, err, want)
		}
	}
}

func TestCursor(t *testing.T) {
	t.Parallel()
	row := thing{"id": "7", "name": "a b\u00e4\"", "seen": now, "size": int64(1<<62 + 1), "mood": []string{"good", "tired"}}
	for in, want := range map[string]filter.Cursor{
		"":          {"7"},
		"name":      {"a b\u00e4\"", "7"},
		"-seen":     {now.Truncate(time.Microsecond), "7"},
		"size,mood": {int64(1<<62 + 1), "good", "7"},
	} {
		q, err := schema.Query(filter.Request{Sort: in}, now)
		if err != nil || q.After != nil {
			t.Fatalf("%q: %+v, %v", in, q, err)
		}
		text := schema.Next(q, row)
		if strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			t.Errorf("%s cannot stand in a URL", text)
		}
		if next, err := schema.Query(filter.Request{Sort: in, Cursor: text}, now); err != nil || !cmp.Equal(next.After, want) {
			t.Errorf("%q: %v (error %v), want %v", in, next.After, err, want)
		}
		_, err = schema.Query(filter.Request{Sort: "-size", Cursor: text}, now)
		if f := fault.As(err); f == nil || f.Fields[0].Location != "query.cursor" || !strings.Contains(f.Message, "another order than -size,-id") {
			t.Errorf("the cursor of %q in another order: %v", in, err)
		}
	}
	row["seen"] = time.Time{}
	q, err := schema.Query(filter.Request{Sort: "seen"}, now)
	if err != nil {
		t.Fatal(err)
	}
	if next, err := schema.Query(filter.Request{Sort: "seen", Cursor: schema.Next(q, row)}, now); err != nil || !cmp.Equal(next.After, filter.Cursor{time.Time{}, "7"}) {
		t.Errorf("never: %v (error %v)", next.After, err)
	}
}

// What a client makes up is refused, whatever it is.
func TestForgedCursors(t *testing.T) {
	t.Parallel()
	made := func(json string) string { return base64.RawURLEncoding.EncodeToString([]byte(json)) }
	for _, c := range []struct{ sort, cursor string }{
		{"", "x"},
		{"", "019b-0000"},
		{"", "!"},
		{"", made("{}")},
		{"", made("[]")},
		{"", made(`{"o":"-id"}`)},
		{"", made(`{"o":"-id","v":[]}`)},
		{"", made(`{"o":"-id","v":["a","b"]}`)},
		{"", made(`{"o":"-id","v":[5]}`)},
		{"", made(`{"o":"-id","v":[null]}`)},
		{"", made(`{"o":"-id","v":["a"],"x":1}`)},
		{"", made(`{"o":"-id","v":["a"]}{}`)},
		{"", made(`{"o":"-id","v":["` + strings.Repeat("a", 9000) + `"]}`)},
		{"size", made(`{"o":"size,id","v":[1.5,"a"]}`)},
		{"size", made(`{"o":"size,id","v":[1e99,"a"]}`)},
		{"size", made(`{"o":"size,id","v":["1","a"]}`)},
		{"seen", made(`{"o":"seen,id","v":[-1,"a"]}`)},
		{"seen", made(`{"o":"seen,id","v":[9223372036854775807,"a"]}`)},
		{"seen", made(`{"o":"seen,id","v":["2026-01-01","a"]}`)},
	} {
		_, err := schema.Query(filter.Request{Sort: c.sort, Cursor: c.cursor}, now)
		if f := fault.As(err); f == nil || f.Kind != fault.Invalid || f.Fields[0].Location != "query.cursor" {
			t.Errorf("%.60s: %v", c.cursor, err)
		}
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	got := schema.Describe()
	for _, want := range []string{"name (a text)", "state (queued, running, failed)", "label.KEY (a label)", "seen (a time)", "owner (an id or a name)"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s lacks %s", got, want)
		}
	}
}

// FuzzCursor: what is no cursor of the list is refused, and what is one is the
// place that it says, and gives itself again.
func FuzzCursor(f *testing.F) {
	row := thing{"id": "7", "name": "ä", "seen": now, "size": int64(1<<62 + 1), "mood": []string{"good"}, "state": "queued", "environment": ""}
	for _, order := range []string{"", "name", "-seen", "size,mood", "state,env,-id"} {
		q, err := schema.Query(filter.Request{Sort: order}, now)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(order, schema.Next(q, row))
	}
	for _, text := range []string{"", "{}", "null", `{"o":"-id","v":[]}`, `{"o":"-id","v":[null]}`, `{"o":"-id","v":["7"]}{}`, `{"o":"-id","v":["7"],"x":1}`, `{"o":"size,-id","v":[1e400,"7"]}`, `{"o":"-seen,-id","v":[-1,"7"]}`} {
		f.Add("", base64.RawURLEncoding.EncodeToString([]byte(text)))
	}
	f.Add("", "=not=base64=")
	f.Fuzz(func(t *testing.T, order, cursor string) {
		q, err := schema.Query(filter.Request{Sort: order, Cursor: cursor}, now)
		if err != nil {
			if x := fault.As(err); x == nil || x.Kind != fault.Invalid || len(x.Fields) != 1 {
				t.Fatalf("%q, %q: %v is no fault of a field", order, cursor, err)
			}
			return
		}
		if q.After == nil {
			return
		}
		place := thing{}
		for i, k := range q.Order {
			place[k.Field] = q.After[i]
			if text, ok := q.After[i].(string); ok && k.Field == "mood" {
				place[k.Field] = []string{text}
			}
		}
		again, err := schema.Query(filter.Request{Sort: order, Cursor: schema.Next(q, place)}, now)
		if err != nil {
			t.Fatalf("%q leads to %v, whose own cursor is refused: %v", cursor, q.After, err)
		}
		if diff := cmp.Diff(q.After, again.After); diff != "" {
			t.Fatalf("%q became another place (-want +got):\n%s", cursor, diff)
		}
	})
}
