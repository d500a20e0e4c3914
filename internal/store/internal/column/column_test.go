package column

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTime(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("far", 3600))
	want := time.Date(2026, 3, 1, 11, 0, 0, 123456000, time.UTC)
	if got := At(at).Time; got != want {
		t.Errorf("At gives %v, want %v", got, want)
	}
	for _, src := range []any{at, want, want.UnixMicro()} {
		var got Time
		if err := got.Scan(src); err != nil || got.Time != want {
			t.Errorf("from %v: %v (error %v), want %v", src, got, err, want)
		}
	}
	if v, err := (Time{}).Value(); err != nil || v != nil {
		t.Errorf("the zero time is kept as %v (error %v), want NULL", v, err)
	}
	got := At(at)
	if err := got.Scan(nil); err != nil || !got.IsZero() {
		t.Errorf("NULL reads as %v (error %v), want the zero time", got, err)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]interface{ Scan(any) error }{
		`{"a":"b"}`: new(Labels), `{}`: new(Labels), `[]`: new(Strings), `["x"]`: new(Strings), `{"load1":0.5}`: new(Usage),
	} {
		for _, src := range []any{want, []byte(want)} {
			if err := v.Scan(src); err != nil {
				t.Fatal(err)
			}
			var got any
			var err error
			switch v := v.(type) {
			case *Labels:
				got, err = v.Value()
			case *Strings:
				got, err = v.Value()
			case *Usage:
				got, err = v.Value()
			}
			if err != nil || got != want {
				t.Errorf("%s reads and writes as %v (error %v)", want, got, err)
			}
		}
	}
	if v, err := (Usage{}).Value(); err != nil || v != nil {
		t.Errorf("a nil pointer is kept as %v (error %v), want NULL", v, err)
	}
	if v, err := (Labels{}).Value(); err != nil || v != "{}" {
		t.Errorf("a nil map is kept as %v (error %v), want {}", v, err)
	}
}

// TestWithoutNUL: whatever a program prints, its JSON stays JSON and differs
// in NULs only.
func TestWithoutNUL(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(rapid.SampledFrom([]string{"\x00", `\`, "u0000", `\u0000`, "\"", "a", "\n", "é"})).Draw(t, "parts"), "")
		raw, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := json.Unmarshal(withoutNUL(raw), &got); err != nil {
			t.Fatal(err)
		}
		if want := strings.ReplaceAll(text, "\x00", "\ufffd"); got != want {
			t.Fatalf("%q became %q, want %q", text, got, want)
		}
	})
}
