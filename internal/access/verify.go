package access

import (
	"bytes"
	"context"
	"fmt"
	"time"
)

const (
	// pageLines is how many lines are in memory at once when many are read.
	pageLines = 1000
	// verifyFor is how long one verification walks before it gives back how far
	// it came: whoever asks goes on from there.
	verifyFor = 20 * time.Second
)

// VerifyRequest says what to verify.
type VerifyRequest struct {
	// After is a line up to which the log was verified before: the walk begins
	// behind it. The zero Mark begins at the beginning.
	After Mark
	// Contains is a line that somebody wrote down earlier, to be looked for; the
	// zero Mark for none.
	Contains Mark
}

// Whether the log contains the line that was asked for.
const (
	ContainedYes     = "yes"
	ContainedNo      = "no"
	ContainedRemoved = "removed" // by retention: nobody can tell any more
)

// Verification is what a verification has found.
type Verification struct {
	// From and To are the first and the last line that were checked, and Lines
	// how many; 0 when there was none.
	From, To, Lines int64
	// Head is the end of the chain when the verification began; the zero Mark
	// while nothing was written.
	Head Mark
	// Next is where to go on when the walk did not get to the head in time.
	Next Mark
	// Floor is the last line that retention has removed, and when.
	Floor   Mark
	FloorAt time.Time
	// UnprotectedFrom and UnprotectedTo are lines from before the log was a
	// chain; 0 without any. Nothing can be said of them.
	UnprotectedFrom, UnprotectedTo int64
	// Contained answers VerifyRequest.Contains.
	Contained string
	// Problem is the first thing that is wrong; nil when the chain holds.
	Problem *Problem
}

// Verify walks through a tenant's log and reports whether it is as it was
// written: every line, where it begins and where it ends. Lines that are added
// or removed by retention meanwhile do no harm. It reads the log in pages; one
// verification runs at a time, and others wait for it.
//
// A log that does not hold is no error.
func (l *Log) Verify(ctx context.Context, tenant string, req VerifyRequest) (*Verification, error) {
	select {
	case l.verifying <- struct{}{}:
		defer func() { <-l.verifying }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	until := l.now().Add(verifyFor)
	own := l.seen(tenant) // before the chain is read: it is no younger than that
	for {
		c, err := l.store.AuditChain(ctx, tenant)
		if err != nil {
			return nil, err
		}
		v, err := l.verify(ctx, c, req.After, until)
		if err != nil {
			return nil, err
		}
		if v.Problem != nil {
			// Retention may have removed what was to be read next.
			again, err := l.store.AuditChain(ctx, tenant)
			if err != nil {
				return nil, err
			}
			if again.Floor.Seq > c.Floor.Seq && l.key.fits(again) {
				continue
			}
		}
		return v, l.compare(ctx, c, v, req.Contains, own)
	}
}

// verify checks a chain as it was at one moment, but for marks.
func (l *Log) verify(ctx context.Context, c *Chain, after Mark, until time.Time) (*Verification, error) {
	v := &Verification{Head: c.Head, Floor: c.Floor, FloorAt: c.FloorAt}
	fresh := c.fresh()
	if fresh {
		*v = Verification{}
		c.Origin = l.key.origins[c.TenantID]
		c.Head = Mark{c.Origin, zeroHash()}
	}
	if c.First > 0 && c.First <= c.Origin {
		v.UnprotectedFrom, v.UnprotectedTo = c.First, c.Origin
	}
	w := &walk{at: c.start()}
	if after.Seq > w.at.Seq {
		w.at = after
	}
	begin := w.at.Seq
	for v.Problem == nil && w.at.Seq < c.Head.Seq {
		if w.lines > 0 && l.now().After(until) {
			v.Next = w.at
			break
		}
		page, err := l.store.AuditLines(ctx, c.TenantID, w.at.Seq, c.Head.Seq, pageLines)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			if v.Problem = w.next(e); v.Problem != nil {
				break
			}
		}
		if len(page) == 0 {
			v.Problem = problem(w.at.Seq+1, "line %d is missing, and so is all behind it: the log goes on to line %d", w.at.Seq+1, c.Head.Seq)
		}
	}
	if w.lines > 0 {
		v.From, v.To, v.Lines = begin+1, begin+w.lines, w.lines
	}
	if v.Problem == nil && v.Next.Seq == 0 {
		v.Problem = l.checkEnds(c, w.at, fresh)
	}
	return v, nil
}

// checkEnds compares the chain's ends with the lines, of which the last is at.
func (l *Log) checkEnds(c *Chain, at Mark, fresh bool) *Problem {
	switch {
	case at.Seq > c.Head.Seq:
		return problem(c.Head.Seq+1, "the log ends with line %d, and line %d was in it a moment ago: the end was cut off", c.Head.Seq, at.Seq)
	case !bytes.Equal(at.Hash, c.Head.Hash):
		return problem(c.Head.Seq, "line %d is not the one with which the servers ended the log: the end was replaced", c.Head.Seq)
	case c.Last > c.Head.Seq && fresh:
		return problem(c.Origin+1, "line %d and those behind it belong to no chain, because the record of the chain's ends is gone: nothing vouches for them", c.Origin+1)
	case c.Last > c.Head.Seq:
		return problem(c.Head.Seq+1, "line %d stands behind the end of the chain: no server put it there", c.Head.Seq+1)
	case c.First > 0 && c.First <= c.Floor.Seq:
		return problem(c.First, "line %d is there, although retention removed all up to line %d: it was put in", c.First, c.Floor.Seq)
	case !fresh && !l.key.fits(c):
		return problem(c.Head.Seq, "the record of where the chain begins and ends has no seal of these servers, so nothing shows that the log ends with line %d, and that what is in it was not all written anew", c.Head.Seq)
	}
	return nil
}

// compare looks for the mark that somebody wrote down, and for the line that
// this server wrote last: an old state of the whole log that somebody put back
// fits in itself, and only who remembers can tell.
func (l *Log) compare(ctx context.Context, c *Chain, v *Verification, written, own Mark) error {
	if own.Seq > 0 {
		has, err := l.contains(ctx, c, own)
		if err != nil {
			return err
		}
		if has == ContainedNo && v.Problem == nil {
			v.Problem = problem(own.Seq, "this server wrote line %d with the hash %x, and it is not in the log any more: an older state of the log was put back", own.Seq, own.Hash)
		}
	}
	if written.Seq == 0 {
		return nil
	}
	var err error
	if v.Contained, err = l.contains(ctx, c, written); err != nil {
		return err
	}
	if v.Contained == ContainedNo && v.Problem == nil {
		v.Problem = notContained(written)
	}
	return nil
}

func notContained(m Mark) *Problem {
	return problem(m.Seq, "the log does not contain line %d with the hash %x: it was cut off or written anew since that was written down, or it is the log of another tenant or installation", m.Seq, m.Hash)
}

func (l *Log) contains(ctx context.Context, c *Chain, m Mark) (string, error) {
	if m.Seq == c.Floor.Seq && bytes.Equal(m.Hash, c.Floor.Hash) {
		return ContainedYes, nil
	}
	if m.Seq < c.Floor.Seq {
		return ContainedRemoved, nil
	}
	found, err := l.store.AuditLines(ctx, c.TenantID, m.Seq-1, m.Seq, 1)
	if err != nil {
		return "", fmt.Errorf("look for line %d: %w", m.Seq, err)
	}
	if len(found) == 1 && bytes.Equal(found[0].Hash, m.Hash) {
		return ContainedYes, nil
	}
	return ContainedNo, nil
}
