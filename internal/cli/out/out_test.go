package out

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAgo(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "now", 900 * time.Millisecond: "now", time.Second: "1s ago", 59 * time.Second: "59s ago", time.Minute: "1m ago",
		90 * time.Minute: "1h ago", 49 * time.Hour: "2d ago", -time.Minute: "in 1m",
	} {
		if have := Ago(now.Add(-d), now); have != want {
			t.Errorf("%s: %q, want %q", d, have, want)
		}
	}
	if have := Ago(time.Time{}, now); have != "never" {
		t.Errorf("no time: %q", have)
	}
}

func TestSpans(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		45 * time.Second: "45 s", time.Minute: "1 minute", 15 * time.Minute: "15 minutes", 90 * time.Second: "1 min 30 s",
		time.Hour: "1 hour", 2 * time.Hour: "2 hours", 90 * time.Minute: "1 h 30 min", 72 * time.Hour: "3 days",
	} {
		if have := Span(d); have != want {
			t.Errorf("%s: %q, want %q", d, have, want)
		}
	}
	for d, want := range map[time.Duration]string{1234 * time.Millisecond: "1.2s", 61 * time.Second: "1m01s"} {
		if have := Seconds(d); have != want {
			t.Errorf("%s: %q, want %q", d, have, want)
		}
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 29: "1.5 GiB", 1 << 60: "1024.0 PiB"} {
		if have := Bytes(n); have != want {
			t.Errorf("%d: %q, want %q", n, have, want)
		}
	}
}

func TestTableAlignsWhatIsColouredAndWide(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	s := &IO{Out: &b, OutStyle: Style{On: true}}
	table := NewTable("A", "B", "C")
	table.Row(s.OutStyle.Good("ok"), "日本", "x")
	table.Row("longer", "", "two\nlines")
	table.Row("last", "", "")
	s.Table(table, "")
	faint := s.OutStyle.Faint
	want := faint("A") + "       " + faint("B") + "     " + faint("C") + "\n\x1b[32mok\x1b[m      日本  x\nlonger        two\\nlines\nlast\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

// Whatever others have called things, a terminal is not moved by it: what is
// left of escapes are colours, where there are any.
func TestNothingPlaysWithTheTerminal(t *testing.T) {
	t.Parallel()
	hostile := "a\x1b]0;title\a\x1b[2J\x1b[1;1H\u009b31m\r\b\x00\x7f\u202eb\u2066\u2028\x1b[31mred\n\x1bc"
	for _, on := range []bool{true, false} {
		var data, beside bytes.Buffer
		s := &IO{Out: &data, Err: &beside, OutStyle: Style{on}, ErrStyle: Style{on}}
		table := NewTable("A", "B")
		table.Row(hostile, s.OutStyle.Bad("bad"))
		s.Table(table, "")
		s.NoteTable(table)
		s.Pairs([2]string{"Name", hostile})
		s.Notef("it says %s", hostile)
		shown := data.String() + beside.String() + strings.Join(table.Lines(s.OutStyle), "\n")
		if on != strings.Contains(shown, "\x1b[31m") {
			t.Errorf("colours %t: %q", on, shown)
		}
		for _, r := range colours.ReplaceAllString(shown, "") {
			if r != '\n' && Plain(string(r)) != string(r) {
				t.Errorf("colours %t: %q is shown in %q", on, r, shown)
			}
		}
	}
}

func TestFormats(t *testing.T) {
	t.Parallel()
	data := struct {
		Name  string         `json:"name"`
		Items []string       `json:"items"`
		Empty []string       `json:"empty"`
		None  map[string]any `json:"none"`
		Text  string         `json:"text"`
		Yes   string         `json:"yes"`
	}{"a<b>&", []string{"1", "true"}, []string{}, map[string]any{}, "two\nlines", "null"}
	for format, want := range map[Format]string{
		FormatJSON: `{
  "name": "a<b>&",
  "items": [
    "1",
    "true"
  ],
  "empty": [],
  "none": {},
  "text": "two\nlines",
  "yes": "null"
}
`,
		FormatYAML: `name: a<b>&
items:
- '1'
- 'true'
empty: []
none: {}
text: |-
  two
  lines
yes: 'null'
`,
		FormatTable: "table\n",
	} {
		var b bytes.Buffer
		s := &IO{Out: &b}
		if err := s.Write(format, data, func() { s.Println("table") }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, b.String()); diff != "" {
			t.Errorf("%s: %s", format, diff)
		}
	}
}

func TestFormatIsAFlag(t *testing.T) {
	t.Parallel()
	f := FormatTable
	if err := f.Set("xml"); err == nil || f != FormatTable {
		t.Errorf("%v, %s", err, f)
	}
	if err := f.Set("yaml"); err != nil || f.String() != "yaml" {
		t.Errorf("%v, %s", err, f)
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	if have, want := Plain("a\x1b[2Jb\tc\u009bd\ne"), "a\uFFFD[2Jb\tc\uFFFDd\uFFFDe"; have != want {
		t.Errorf("%q, want %q", have, want)
	}
}

// Answers come one line each: what reads the next finds it.
func TestAsking(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	s := &IO{In: strings.NewReader("YES\nno\nsecret \nlast"), Err: &b}
	for _, want := range []bool{true, false} {
		if have, err := s.Ask("Really %s?", "so"); err != nil || have != want {
			t.Errorf("%v, %v", have, err)
		}
	}
	if have, err := s.ReadSecret("Token: "); err != nil || have != "secret" {
		t.Errorf("%q, %v", have, err)
	}
	if have, err := s.ReadLine(); err != nil || have != "last" {
		t.Errorf("%q, %v", have, err)
	}
	if _, err := s.Ask("More?"); err != io.EOF { //nolint:errorlint // ReadString returns it as it is
		t.Errorf("at the end: %v", err)
	}
	if want := "Really so? [y/N] "; !strings.HasPrefix(b.String(), want) {
		t.Errorf("asked: %q", b.String())
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	var plain, tty bytes.Buffer
	for _, s := range []*IO{{Err: &plain}, {Err: &tty, ErrTTY: true}} {
		p := s.Progress()
		p.Status("working", time.Now())
		p.Linef("done %d", 1)
		p.Stop()
		p.Stop()
	}
	if diff := cmp.Diff("done 1\n", plain.String()); diff != "" {
		t.Errorf("without a terminal: %s", diff)
	}
	if have := tty.String(); !strings.Contains(have, " working\r\x1b[Kdone 1\n") || !strings.HasSuffix(have, "\r\x1b[K") {
		t.Errorf("on a terminal: %q", have)
	}
}
