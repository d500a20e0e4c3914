package seal

import (
	"slices"
	"strings"
)

// Masker takes secrets out of text. The zero value masks nothing. It is safe
// for concurrent use once made.
type Masker struct{ replacer *strings.Replacer }

// Mask stands where a secret stood.
const Mask = "***"

// minSecret keeps the masker from eating ordinary text: a shorter "secret" as
// in DEBUG=1 would take every 1 out of a log.
const minSecret = 4

// NewMasker returns a masker for the given secrets; short ones are not masked.
// The lines of a secret of several lines (a key in PEM) are masked one by one
// too, because logs come by lines.
func NewMasker(secrets ...string) *Masker {
	var all []string
	for _, s := range secrets {
		all = append(all, s)
		if strings.Contains(s, "\n") {
			for line := range strings.Lines(s) {
				all = append(all, strings.TrimRight(line, "\r\n"))
			}
		}
	}
	all = slices.DeleteFunc(all, func(s string) bool { return len(s) < minSecret })
	// The longest first: one secret may be the beginning of another.
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) })
	all = slices.Compact(all)
	pairs := make([]string, 0, 2*len(all))
	for _, s := range all {
		pairs = append(pairs, s, Mask)
	}
	if len(pairs) == 0 {
		return &Masker{}
	}
	return &Masker{strings.NewReplacer(pairs...)}
}

// Mask returns text without the secrets.
func (m *Masker) Mask(text string) string {
	if m.replacer == nil {
		return text
	}
	return m.replacer.Replace(text)
}
