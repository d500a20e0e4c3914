package agent

import (
	"strings"
	"unicode"

	"stella-ops.org/stella/internal/seal"
)

// secretName reports whether a variable's value is to be masked in logs. Not
// every value is: masking "production" or "8080" wherever they stand would
// make a log unreadable, and people would pass their secrets elsewhere.
func secretName(name string) bool {
	n := strings.ToUpper(name)
	for _, word := range []string{"SECRET", "PASSWORD", "PASSWD", "PASS", "TOKEN", "KEY", "CREDENTIAL", "AUTH", "PRIVATE", "DSN", "CONNECTION", "COOKIE", "SALT", "_URL", "_URI"} {
		if strings.Contains(n, word) {
			return true
		}
	}
	return false
}

// looksSecret reports whether a value itself looks like a secret, whatever its
// name: a URL with a password in it, or a long run of letters and digits.
func looksSecret(v string) bool {
	if _, rest, ok := strings.Cut(v, "://"); ok && strings.Contains(rest, "@") {
		return true
	}
	return len(v) >= 16 && !strings.ContainsAny(v, " /") &&
		strings.ContainsAny(v, "0123456789") && strings.ContainsFunc(v, unicode.IsLetter)
}

// maskValue masks the strings in a result's outputs.
func maskValue(m *seal.Masker, v any) any {
	switch v := v.(type) {
	case string:
		return m.Mask(v)
	case []string:
		out := make([]string, len(v))
		for i := range v {
			out[i] = m.Mask(v[i])
		}
		return out
	case map[string]string:
		out := make(map[string]string, len(v))
		for k := range v {
			out[k] = m.Mask(v[k])
		}
		return out
	case []any:
		for i := range v {
			v[i] = maskValue(m, v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = maskValue(m, v[k])
		}
	}
	return v
}
