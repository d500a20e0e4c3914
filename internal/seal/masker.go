package seal

import (
	"cmp"
	"slices"
	"strings"
)

// Masker takes secrets out of text. The zero value masks nothing. It is safe
// for concurrent use once made.
type Masker struct{ secrets []string }

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
	slices.Sort(all)
	return &Masker{slices.Compact(all)}
}

// With returns a masker for further secrets beside those of m.
func (m *Masker) With(secrets ...string) *Masker {
	return NewMasker(slices.Concat(m.secrets, secrets)...)
}

// Mask returns text without the secrets. Where several overlap, one mask stands
// for all that they cover: to replace one after the other would leave the end
// of the second to be read.
func (m *Masker) Mask(text string) string {
	type span struct{ from, to int }
	var spans []span
	for _, s := range m.secrets {
		for from := 0; ; {
			i := strings.Index(text[from:], s)
			if i < 0 {
				break
			}
			spans = append(spans, span{from + i, from + i + len(s)})
			from += i + 1
		}
	}
	if len(spans) == 0 {
		return text
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out strings.Builder
	end := 0 // of what is masked so far
	for i, s := range spans {
		if i == 0 || s.from >= end {
			out.WriteString(text[end:s.from])
			out.WriteString(Mask)
		}
		end = max(end, s.to)
	}
	out.WriteString(text[end:])
	return out.String()
}
