package access

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// sweepEvery is how often a server removes old lines, and half of it how far
// apart servers are by chance.
const sweepEvery = 16 * time.Hour

// errOvertaken: another server removes lines of the same chain.
var errOvertaken = errors.New("another server was faster")

// Run removes lines that are older than the retention, about once a day, until
// ctx ends. Any number of servers may do so at the same time.
func (l *Log) Run(ctx context.Context) error {
	if l.opts.Retention <= 0 {
		<-ctx.Done()
		return nil
	}
	next := time.NewTimer(rand.N(10 * time.Minute)) //nolint:gosec // spreading load needs no secret
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			if err := l.Sweep(ctx); err != nil && ctx.Err() == nil {
				l.log.ErrorContext(ctx, "old lines of the audit log were not removed; the next try is within a day", "error", err)
			}
			next.Reset(sweepEvery + rand.N(sweepEvery/2)) //nolint:gosec // as above
		}
	}
}

// Sweep removes the lines of all tenants that are older than the retention, the
// oldest first, up to the first that is not. What is left still verifies, from
// the floor that the chain has then. That lines were removed is a line itself.
// A line that was to be removed and is not as it was written is told of in
// another one first: to wait for the retention must not hide what was done.
func (l *Log) Sweep(ctx context.Context) error {
	if l.opts.Retention <= 0 {
		return nil
	}
	before := l.now().Add(-l.opts.Retention)
	tenants, err := l.store.AuditChains(ctx)
	if err != nil {
		return err
	}
	tenants = slices.AppendSeq(tenants, maps.Keys(l.key.origins))
	slices.Sort(tenants)
	for _, tenant := range slices.Compact(tenants) {
		if err := l.shorten(ctx, tenant, before); err != nil {
			return fmt.Errorf("tenant %q: %w", tenant, err)
		}
	}
	return nil
}

// shorten removes a tenant's lines from before a time, a page at a time.
func (l *Log) shorten(ctx context.Context, tenant string, before time.Time) error {
	var first, last int64
	var failed error
	for {
		from, to, err := l.removePage(ctx, tenant, before)
		if err != nil && !errors.Is(err, errOvertaken) {
			failed = err
		}
		if err != nil || to == 0 {
			break
		}
		if first == 0 {
			first = from
		}
		last = to
	}
	if last == 0 {
		return failed
	}
	l.log.InfoContext(ctx, "old lines of the audit log removed", "tenant", tenant, "from", first, "to", last, "older_than", before)
	l.Audit(ctx, Event{
		TenantID: tenant, Actor: actorSystem, Action: actionRemoved, Object: fmt.Sprintf("%d-%d", first, last), Outcome: "ok",
		Detail: "lines from before " + before.UTC().Format(time.RFC3339) + ", by --audit-retention",
	})
	return failed
}

// removePage removes the first lines if they are old, and returns which; 0
// when there are none.
func (l *Log) removePage(ctx context.Context, tenant string, before time.Time) (from, to int64, err error) {
	c, err := l.store.AuditChain(ctx, tenant)
	if err != nil {
		return 0, 0, err
	}
	if c.fresh() {
		c.Origin = l.key.origins[tenant]
		c.Head.Seq = c.Origin
	}
	lines, err := l.store.AuditLines(ctx, tenant, c.Floor.Seq, c.Head.Seq, pageLines)
	if err != nil {
		return 0, 0, err
	}
	w := &walk{at: c.start()}
	var floor Mark
	var wrong *Problem
	for _, e := range lines {
		if !e.At.Before(before) {
			break
		}
		floor = e.mark()
		if e.Seq <= c.Origin {
			floor.Hash = zeroHash() // it has none
			continue
		}
		if p := w.next(e); p != nil && wrong == nil && !e.tellsBreak() {
			wrong = p
		}
	}
	if floor.Seq == 0 {
		return 0, 0, nil
	}
	err = l.change(ctx, tenant, func(now *Chain) ([]*Event, error) {
		if now.Floor.Seq != c.Floor.Seq {
			return nil, errOvertaken
		}
		now.Floor, now.FloorAt = floor, time.UnixMicro(l.now().UnixMicro()).UTC()
		if wrong == nil {
			return nil, nil
		}
		return []*Event{l.broken(fmt.Sprintf("%s; retention has removed it since", wrong.What))}, nil
	})
	return lines[0].Seq, floor.Seq, err
}
