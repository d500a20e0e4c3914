// Package column has the Go types of the columns whose form differs between
// the engines: times and JSON. A value reads back as it was written, whichever
// engine kept it.
package column

import (
	"bytes"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fleet"
)

// Time is a time to the microsecond in UTC; the zero time is NULL.
type Time struct{ time.Time }

// At returns t as the engines keep it.
func At(t time.Time) Time {
	if t.IsZero() {
		return Time{}
	}
	// Truncate would count from year 1 and keep the monotonic reading away
	// just as well, but rounding through the integer is what SQLite stores.
	return Time{time.UnixMicro(t.UnixMicro()).UTC()}
}

// Value implements driver.Valuer.
func (t Time) Value() (driver.Value, error) {
	if t.IsZero() {
		return nil, nil
	}
	return At(t.Time).Time, nil
}

// Scan implements sql.Scanner. An integer is microseconds since 1970: SQLite
// gives one where an expression hides that a column holds times.
func (t *Time) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*t = Time{}
	case time.Time:
		*t = At(v)
	case int64:
		*t = At(time.UnixMicro(v))
	default:
		return fmt.Errorf("a time cannot be read from %T", src)
	}
	return nil
}

// JSON is a value kept as JSON text. A nil map or slice is kept as an empty
// one, and reads back as such; a nil pointer is NULL.
type JSON[T any] struct{ V T }

// The JSON columns.
type (
	Labels   = JSON[map[string]string]
	Strings  = JSON[[]string]
	Bound    = JSON[fleet.Bound]
	Usage    = JSON[*api.ResourceUsage]
	Selector = JSON[*api.AgentSelector]
	Config   = JSON[api.TargetConfig]
	Result   = JSON[*api.TaskResult]
	Entries  = JSON[[]api.LogEntry]
)

// Value implements driver.Valuer.
func (j JSON[T]) Value() (driver.Value, error) {
	switch v := any(j.V).(type) {
	case map[string]string:
		if v == nil {
			return "{}", nil
		}
	case []string:
		if v == nil {
			return "[]", nil
		}
	}
	raw, err := json.Marshal(j.V)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", j.V, err)
	}
	return Raw(raw).Value()
}

// Scan implements sql.Scanner.
func (j *JSON[T]) Scan(src any) error {
	var raw Raw
	if err := raw.Scan(src); err != nil {
		return err
	}
	var v T
	if raw != nil {
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("decode %T: %w", v, err)
		}
	}
	j.V = v
	return nil
}

// Raw is JSON as it is; nothing, or null, is NULL.
type Raw json.RawMessage

// Value implements driver.Valuer.
func (r Raw) Value() (driver.Value, error) {
	if len(r) == 0 || string(r) == "null" {
		return nil, nil
	}
	return string(withoutNUL(r)), nil
}

// Scan implements sql.Scanner.
func (r *Raw) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*r = nil
	case string:
		*r = Raw(v)
	case []byte:
		*r = bytes.Clone(v)
	default:
		return fmt.Errorf("JSON cannot be read from %T", src)
	}
	return nil
}

// withoutNUL puts the replacement character where a JSON text holds an escaped
// NUL, which PostgreSQL's JSONB refuses and programs' output may hold.
func withoutNUL(raw []byte) []byte {
	const nul = `\u0000`
	if !bytes.Contains(raw, []byte(nul)) {
		return raw
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		switch {
		case raw[i] != '\\':
			out = append(out, raw[i])
		case bytes.HasPrefix(raw[i:], []byte(nul)):
			out = append(out, `\ufffd`...)
			i += len(nul) - 1
		default: // another escape: its second byte may be a backslash
			out = append(out, raw[i])
			if i++; i < len(raw) {
				out = append(out, raw[i])
			}
		}
	}
	return out
}
