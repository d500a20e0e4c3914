package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"stella-ops.org/stella/internal/fault"
)

// LogStore keeps audit logs.
type LogStore interface {
	// ChangeAudit changes a tenant's chain in one transaction: it holds the
	// chain against all others, gives it to change, and keeps what that has made
	// of it: the lines that it returns are added, those up to a floor that has
	// risen are removed, and the chain is kept. A chain that is not there yet
	// has no seal. change may be called again when the transaction is repeated;
	// its error ends it.
	ChangeAudit(ctx context.Context, tenant string, change func(c *Chain) ([]*Event, error)) error
	// AuditChain returns a chain as it is; one without a seal when there is none.
	AuditChain(ctx context.Context, tenant string) (*Chain, error)
	// AuditLines returns the first lines behind one number and up to another,
	// in their order.
	AuditLines(ctx context.Context, tenant string, after, until int64, limit int) ([]*Event, error)
	// AuditChains returns the tenants that have a chain.
	AuditChains(ctx context.Context) ([]string, error)
	// AuditEvents returns a page of a tenant's log, the newest first unless the
	// filter says another order.
	AuditEvents(ctx context.Context, tenant string, f Filter) ([]*Event, error)
}

const (
	// What one batch takes at the most: others want to write too.
	batchLines = 256
	batchBytes = 1 << 20
	// maxWaiting bounds the lines that wait while the store is slow.
	maxWaiting = 10_000
	// writeTimeout is how long a batch may take.
	writeTimeout = 10 * time.Second
	// How long the first and the last pause is before a batch is tried again;
	// each is four times the one before.
	firstPause = 100 * time.Millisecond
	lastPause  = 1600 * time.Millisecond
)

var (
	errFull = errors.New("too many lines wait to be written")
	// errWritten: the commit was done, and its answer did not come.
	errWritten = errors.New("the lines are written already")
)

// LogOptions are what an installation may set.
type LogOptions struct {
	// Retention is how long lines are kept; 0 for ever.
	Retention time.Duration
}

// Log is the audit log of all tenants: one chain of lines for each. It is safe
// for concurrent use, and any number of servers may write to the same chains.
//
// To add to a chain takes a turn at it, so lines are written in batches: those
// that come while one is written make the next. Alone, a line is written at
// once.
type Log struct {
	store LogStore
	key   *Key
	opts  LogOptions
	now   func() time.Time
	log   *slog.Logger

	verifying chan struct{} // holds one while a verification runs

	mu      sync.Mutex
	waiting []*entry
	writing bool            // somebody writes, and will look again
	heads   map[string]Mark // what this server wrote last, by tenant
}

// entry is a line that waits; done is closed when it is written, or given up.
type entry struct {
	Event
	done chan struct{}
}

var _ Auditor = (*Log)(nil)

// NewLog returns the audit log over a store.
func NewLog(store LogStore, key *Key, opts LogOptions, now func() time.Time, log *slog.Logger) *Log {
	return &Log{store: store, key: key, opts: opts, now: now, log: log, verifying: make(chan struct{}, 1), heads: map[string]Mark{}}
}

// Audit adds a line and returns when it is durable. It fails nothing: a line
// that the store does not take is in the server's own log. The end of ctx ends
// the waiting; the line is written all the same.
func (l *Log) Audit(ctx context.Context, e Event) {
	if e.At.IsZero() {
		e.At = l.now()
	}
	if e.TenantID == "" {
		e.TenantID = DefaultTenant
	}
	e.settle()
	w := &entry{Event: e, done: make(chan struct{})}
	l.mu.Lock()
	if len(l.waiting) >= maxWaiting {
		l.mu.Unlock()
		l.lost(ctx, &e, errFull)
		return
	}
	l.waiting = append(l.waiting, w)
	if !l.writing {
		l.writing = true
		go l.write() //nolint:contextcheck,gosec // a batch has the lines of many callers, none of whom may stop it
	}
	l.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
	}
}

// AuditEvents returns a page of a tenant's log, the newest first unless the
// filter says another order.
func (l *Log) AuditEvents(ctx context.Context, tenant string, f Filter) ([]*Event, error) {
	return l.store.AuditEvents(ctx, tenant, f)
}

// lost keeps a line that could not be written where it can be found.
func (l *Log) lost(ctx context.Context, e *Event, err error) {
	l.log.ErrorContext(ctx, "the audit log was not written", "error", err, "tenant", e.TenantID, "at", e.At,
		"actor", e.Actor, "action", e.Action, "object", e.Object, "remote", e.Remote, "outcome", e.Outcome, "detail", e.Detail)
}

// write writes batches until nothing waits.
func (l *Log) write() {
	for {
		batch := l.take()
		if batch == nil {
			return
		}
		byTenant := map[string][]*Event{}
		for _, w := range batch {
			byTenant[w.TenantID] = append(byTenant[w.TenantID], &w.Event)
		}
		for _, tenant := range slices.Sorted(maps.Keys(byTenant)) {
			ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
			if err := l.append(ctx, tenant, byTenant[tenant]); err != nil {
				for _, e := range byTenant[tenant] {
					l.lost(ctx, e, err)
				}
			}
			cancel()
		}
		for _, w := range batch {
			close(w.done)
		}
	}
}

// append adds lines to a chain. A database that is away for a moment, as when
// another one takes over, is asked again: the first time soon, the last time
// after some seconds.
func (l *Log) append(ctx context.Context, tenant string, lines []*Event) error {
	var tried Mark // where the lines would end, if the last try was successful after all
	for pause := firstPause; ; pause *= 4 {
		err := l.change(ctx, tenant, func(c *Chain) ([]*Event, error) {
			if tried.Seq > 0 && c.Head.Seq >= tried.Seq {
				switch has, err := l.contains(ctx, c, tried); {
				case err != nil:
					return nil, err
				case has == ContainedYes:
					return nil, errWritten
				}
			}
			return lines, nil
		})
		if err == nil || errors.Is(err, errWritten) {
			return nil
		}
		if fault.KindOf(err) != fault.Unavailable || pause > lastPause {
			return err
		}
		tried = lines[len(lines)-1].mark()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// take returns the next batch; nil when nothing waits, and the next caller has
// to start another writer.
func (l *Log) take() []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, size := 0, 0
	for n < len(l.waiting) && n < batchLines {
		e := &l.waiting[n].Event
		size += len(e.Actor) + len(e.Action) + len(e.Object) + len(e.Remote) + len(e.Detail)
		if n > 0 && size > batchBytes {
			break
		}
		n++
	}
	batch := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	if len(l.waiting) == 0 {
		l.waiting = nil // gives the memory of a crowd back
	}
	if n == 0 {
		l.writing = false
		return nil
	}
	return batch
}

// change changes a chain and seals it. When somebody else than a server has
// changed it before, the chain gets a line about that first, which stays in it:
// a new seal must not make good what was done to the log.
func (l *Log) change(ctx context.Context, tenant string, fn func(c *Chain) ([]*Event, error)) error {
	var head Mark
	var found string
	err := l.store.ChangeAudit(ctx, tenant, func(c *Chain) ([]*Event, error) {
		found = l.inspect(c)
		lines, err := fn(c)
		if err != nil {
			return nil, err
		}
		if found != "" {
			lines = append([]*Event{l.broken(found)}, lines...)
		}
		c.add(lines)
		c.Seal = l.key.seal(c)
		head = c.Head
		return lines, nil
	})
	if err != nil {
		return err
	}
	if found != "" {
		l.log.ErrorContext(ctx, "the audit log was changed by somebody else than a server; run `stella audit verify`", "tenant", tenant, "found", found)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if head.Seq > l.heads[tenant].Seq || found != "" {
		l.heads[tenant] = head
	}
	return nil
}

// broken is the line that says that the log was found changed.
func (l *Log) broken(found string) *Event {
	e := &Event{At: l.now(), Actor: actorSystem, Action: actionBroken, Outcome: "failed", Detail: found}
	e.settle()
	return e
}

// inspect says what is wrong with the ends of a chain that is about to be
// changed, and makes it one that can be gone on with. It costs no reading of
// lines, so what it does not see is for Verify to find.
func (l *Log) inspect(c *Chain) (found string) {
	own := l.seen(c.TenantID)
	switch {
	case c.fresh():
		c.Origin = l.key.origins[c.TenantID]
		c.Head = Mark{c.Origin, zeroHash()}
		if c.Last > c.Origin {
			found = fmt.Sprintf("the record of the chain's ends was gone, although there were lines up to %d", c.Last)
		}
	case !l.key.fits(c):
		found = fmt.Sprintf("the record of the chain's ends, the last line %d among them, had no seal of these servers", c.Head.Seq)
	case c.Last > c.Head.Seq:
		found = fmt.Sprintf("there were lines up to %d behind the end of the chain, line %d", c.Last, c.Head.Seq)
	}
	if found == "" && own.Seq > 0 && (own.Seq > c.Head.Seq || own.Seq == c.Head.Seq && !bytes.Equal(own.Hash, c.Head.Hash)) {
		found = fmt.Sprintf("the log ended with line %d, although this server had written line %d with the hash %x: an older state was put back", c.Head.Seq, own.Seq, own.Hash)
	}
	if c.Last > c.Head.Seq {
		c.Head.Seq = c.Last // their numbers are taken
	}
	return found
}

// seen is the last line that this server wrote; the zero Mark before it wrote
// any.
func (l *Log) seen(tenant string) Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heads[tenant]
}
