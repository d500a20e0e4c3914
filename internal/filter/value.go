package filter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// never is how a filter calls a time that is not there.
const never = "never"

// value reads a value of the field's kind. Its errors say what was found and
// what was expected.
func (f *Field) value(in string, op Op, now time.Time) (Value, error) {
	switch f.Kind {
	case Word, Set:
		if len(f.Words) == 0 {
			return Value{Text: in}, nil
		}
		low := strings.ToLower(in)
		if !slices.Contains(f.Words, low) {
			return Value{}, fmt.Errorf("%q is no %s: %suse one of %s", clip(in), f.Name, hint(in, f.Words), strings.Join(f.Words, ", "))
		}
		return Value{Text: low}, nil
	case Time:
		if strings.EqualFold(in, never) {
			if op != Equal && op != NotEqual {
				return Value{}, fmt.Errorf("found never, which is not before or after anything: ask for %s=never or %s!=never", f.Name, f.Name)
			}
			return Value{Text: never}, nil
		}
		t, err := parseTime(in, now)
		return Value{Text: in, Time: t}, err
	case Number:
		n, err := strconv.ParseInt(in, 10, 64)
		if err != nil {
			return Value{}, fmt.Errorf("%q is no whole number", clip(in))
		}
		return Value{Text: in, Number: n}, nil
	case Bool:
		switch low := strings.ToLower(in); low {
		case "true", "false":
			return Value{Text: low, Bool: low == "true"}, nil
		}
		return Value{}, fmt.Errorf("%q is neither true nor false", clip(in))
	case Text, Ref, Labels:
	}
	return Value{Text: in}, nil
}

// units are those of relative times, in seconds.
var units = map[byte]int64{'s': 1, 'm': 60, 'h': 60 * 60, 'd': 24 * 60 * 60, 'w': 7 * 24 * 60 * 60}

// farthest is how far from now a relative time may be, in seconds.
const farthest = 100 * 365 * 24 * 60 * 60

// parseTime reads a time: RFC 3339, a date, or relative to now as in -7d. It
// is kept to the microsecond, as stores keep times.
func parseTime(in string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, strings.ToUpper(in)); err == nil {
			// Stores count from 1970, and nothing here is older.
			if t.Unix() < 0 {
				return time.Time{}, fmt.Errorf("%q is before 1970", clip(in))
			}
			return t.UTC().Truncate(time.Microsecond), nil
		}
	}
	if strings.EqualFold(in, "now") {
		return now.UTC().Truncate(time.Microsecond), nil
	}
	seconds, ok := relative(in)
	if !ok {
		return time.Time{}, fmt.Errorf("%q is no time: give one as in 2026-03-01T12:00:00Z, 2026-03-01, or from now as in -90s, -15m, -1h, -7d or +2w", clip(in))
	}
	if seconds > farthest || seconds < -farthest {
		return time.Time{}, fmt.Errorf("%q is more than 100 years from now", clip(in))
	}
	return now.Add(time.Duration(seconds) * time.Second).UTC().Truncate(time.Microsecond), nil
}

// relative reads a sign and numbers with their units, as in -1d12h.
func relative(in string) (seconds int64, ok bool) {
	if in == "" || in[0] != '-' && in[0] != '+' {
		return 0, false
	}
	rest := strings.ToLower(in[1:])
	for rest != "" {
		n := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		// Few enough digits that no sum runs over.
		if n < 1 || n > 10 || units[rest[n]] == 0 {
			return 0, false
		}
		count, err := strconv.ParseInt(rest[:n], 10, 64)
		if err != nil {
			return 0, false
		}
		if seconds += count * units[rest[n]]; seconds > farthest {
			seconds = farthest + 1
		}
		rest = rest[n+1:]
	}
	if in[0] == '-' {
		seconds = -seconds
	}
	return seconds, len(in) > 1
}
