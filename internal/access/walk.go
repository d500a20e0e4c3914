package access

import (
	"bytes"
	"fmt"
)

// Problem is the first line of an audit log that is not as it was written, and
// what is wrong with it.
type Problem struct {
	Seq  int64
	What string
}

func problem(seq int64, format string, args ...any) *Problem {
	return &Problem{seq, fmt.Sprintf(format, args...)}
}

// walk checks lines one after the other, in the order of their numbers. It
// keeps one mark, however long the log is.
type walk struct {
	at    Mark  // the last line that was seen, or where the walk began
	lines int64 // that fit
}

// next checks a line that should follow, and goes on behind it in any case.
func (w *walk) next(e *Event) *Problem {
	p := w.check(e)
	if p == nil {
		w.lines++
	}
	w.at = e.mark()
	return p
}

func (w *walk) check(e *Event) *Problem {
	switch {
	case e.Seq > w.at.Seq+1 && e.Seq-w.at.Seq == 2:
		return problem(w.at.Seq+1, "line %d is missing", w.at.Seq+1)
	case e.Seq > w.at.Seq+1:
		return problem(w.at.Seq+1, "lines %d to %d are missing", w.at.Seq+1, e.Seq-1)
	case e.Seq <= w.at.Seq:
		return problem(e.Seq, "line %d comes a second time", e.Seq)
	case len(e.Hash) == 0:
		return problem(e.Seq, "line %d has no hash, although it belongs to the chain: it was put in, or its hash was taken away", e.Seq)
	case !bytes.Equal(e.Hash, e.Sum()):
		return problem(e.Seq, "line %d does not have the hash that it says: it was changed after it was written, or is not where it was", e.Seq)
	case e.tellsBreak():
		return problem(e.Seq, "before it wrote line %d, a server found: %s", e.Seq, e.Detail)
	case !bytes.Equal(e.Previous, w.at.Hash):
		return problem(e.Seq, "line %d was written behind another line %d than the one that is there: lines before it were replaced", e.Seq, w.at.Seq)
	}
	return nil
}
