package access

import (
	"bytes"
	"cmp"
	"slices"
)

// VerifyLines checks lines that were taken out of a log, in any order, without
// the server: that each is as it was written, and that none is missing between
// the first and the last. Where the log began and ended is not in an export, so
// whether it was cut at its ends is told by marks that somebody wrote down. The
// Problem says what is wrong, and From, To and Head which lines there are.
func VerifyLines(lines []*Event, contains Mark) *Verification {
	v := &Verification{}
	lines = slices.SortedStableFunc(slices.Values(lines), func(a, b *Event) int { return cmp.Compare(a.Seq, b.Seq) })
	for len(lines) > 0 && len(lines[0].Hash) == 0 && len(lines[0].Previous) == 0 {
		v.UnprotectedFrom, v.UnprotectedTo = cmp.Or(v.UnprotectedFrom, lines[0].Seq), lines[0].Seq
		lines = lines[1:]
	}
	if len(lines) > 0 {
		// The line before the first is not there, and its hash is taken on trust.
		w := &walk{at: Mark{lines[0].Seq - 1, lines[0].Previous}}
		for _, e := range lines {
			if e.TenantID != lines[0].TenantID {
				v.Problem = problem(e.Seq, "line %d is of the tenant %q, and the first line of %q: check each tenant's lines by themselves", e.Seq, e.TenantID, lines[0].TenantID)
			} else {
				v.Problem = w.next(e)
			}
			if v.Problem != nil {
				break
			}
		}
		if w.lines > 0 {
			v.From, v.To, v.Lines = lines[0].Seq, lines[0].Seq+w.lines-1, w.lines
		}
		v.Head = lines[len(lines)-1].mark()
	}
	if contains.Seq == 0 {
		return v
	}
	v.Contained = containedIn(lines, contains)
	if v.Contained == ContainedNo && v.Problem == nil {
		v.Problem = notContained(contains)
	}
	return v
}

func containedIn(lines []*Event, m Mark) string {
	for i, e := range lines {
		if e.Seq == m.Seq && bytes.Equal(e.Hash, m.Hash) || i == 0 && e.Seq-1 == m.Seq && bytes.Equal(e.Previous, m.Hash) {
			return ContainedYes
		}
	}
	if len(lines) > 0 && m.Seq < lines[0].Seq-1 {
		return ContainedRemoved // the export begins behind it
	}
	return ContainedNo
}
