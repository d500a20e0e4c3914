package access_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/sqlite"
)

func box(t *testing.T, first byte) *seal.Box {
	t.Helper()
	key := make([]byte, seal.KeySize)
	key[0] = first
	b, err := seal.NewBox(key)
	must(t, err)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// gate is a store whose changes of the log wait until they are let through.
type gate struct {
	*store.Store
	entered chan int // how many lines a change adds
	let     chan struct{}
}

// ChangeAudit implements access.LogStore.
func (g *gate) ChangeAudit(ctx context.Context, tenant string, change func(c *access.Chain) ([]*access.Event, error)) error {
	return g.Store.ChangeAudit(ctx, tenant, func(c *access.Chain) ([]*access.Event, error) {
		lines, err := change(c)
		g.entered <- len(lines)
		<-g.let
		return lines, err
	})
}

func newLog(t *testing.T, s access.LogStore, keys access.KeyStore, now func() time.Time, retention time.Duration) (*access.Log, *bytes.Buffer) {
	t.Helper()
	key, err := access.LoadKey(t.Context(), keys, box(t, 1))
	must(t, err)
	out := &bytes.Buffer{} // read when nothing is written any more
	return access.NewLog(s, key, access.LogOptions{Retention: retention}, now, slog.New(slog.NewTextHandler(out, nil))), out
}

func line(i int) access.Event {
	return access.Event{Actor: "token:1 (me)", Action: "agent.revoke", Object: fmt.Sprint("a", i), Outcome: "ok"}
}

// While one line is written, those that come make one batch, which is bounded.
// Who gave up does not keep his line from being written.
func TestLinesGatherWhileOneIsWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st := openStore(t)
		g := &gate{st, make(chan int), make(chan struct{})}
		log, out := newLog(t, g, st, time.Now, 0)
		var wg sync.WaitGroup
		audit := func(ctx context.Context, i int) { wg.Go(func() { log.Audit(ctx, line(i)) }) }
		audit(t.Context(), 0)
		if n := <-g.entered; n != 1 {
			t.Errorf("alone, %d lines are written", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan struct{})
		go func() {
			log.Audit(ctx, line(1))
			close(left)
		}()
		for i := range 299 {
			audit(t.Context(), i+2)
		}
		synctest.Wait()
		cancel()
		<-left // and nothing was let through yet
		for _, want := range []int{256, 44} {
			g.let <- struct{}{}
			if n := <-g.entered; n != want {
				t.Errorf("a batch of %d lines, want %d", n, want)
			}
		}
		g.let <- struct{}{}
		wg.Wait()
		synctest.Wait()
		v, err := log.Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{})
		must(t, err)
		if v.Problem != nil || v.To != 301 || v.Lines != 301 || out.Len() != 0 {
			t.Errorf("%+v (%+v) %s", v, v.Problem, out)
		}
		must(t, st.Close())
	})
}

// A line that the store does not take is in the server's log, whole.
func TestLostLinesAreLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, lostLinesAreLogged)
}

func lostLinesAreLogged(t *testing.T) {
	st := openStore(t)
	log, out := newLog(t, st, st, time.Now, 0)
	log.Audit(t.Context(), line(1))
	must(t, st.Close())
	e := line(2)
	e.Remote, e.Detail = "192.0.2.1:5", "because"
	log.Audit(t.Context(), e)
	for _, want := range []string{"level=ERROR", "the audit log was not written", "agent.revoke", "object=a2", "token:1 (me)", "192.0.2.1:5", "detail=because", "outcome=ok", "tenant=default"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	if strings.Contains(out.String(), "object=a1") {
		t.Errorf("a line that was written is in %s", out)
	}
	if _, err := log.Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{}); err == nil {
		t.Error("a log that cannot be read is verified")
	}
}

// moody is a store that fails some changes: before they are done, or behind
// their commit, when only the answer is lost.
type moody struct {
	*store.Store
	fail func(n int) (before, behind bool)
	n    int
}

// ChangeAudit implements access.LogStore.
func (m *moody) ChangeAudit(ctx context.Context, tenant string, change func(c *access.Chain) ([]*access.Event, error)) error {
	m.n++
	before, behind := m.fail(m.n)
	away := fault.New(fault.Unavailable, "store_unavailable", "away")
	if before {
		return away
	}
	if err := m.Store.ChangeAudit(ctx, tenant, change); err != nil {
		return err
	}
	if behind {
		return away
	}
	return nil
}

// A database that is away for a moment costs no line, and no line is written
// twice.
func TestLinesOutliveAnOutage(t *testing.T) {
	t.Parallel()
	for what, fail := range map[string]func(n int) (before, behind bool){
		"away before":                    func(n int) (bool, bool) { return n%3 != 0, false },
		"the answer lost":                func(n int) (bool, bool) { return false, n%2 == 1 },
		"the answer lost, and then away": func(n int) (bool, bool) { return n%3 == 2, n%3 == 1 },
	} {
		synctest.Test(t, func(t *testing.T) {
			st := openStore(t)
			log, out := newLog(t, &moody{Store: st, fail: fail}, st, time.Now, 0)
			for i := range 5 {
				log.Audit(t.Context(), line(i))
			}
			lines, err := st.AuditLines(t.Context(), access.DefaultTenant, 0, 100, 100)
			must(t, err)
			for i, e := range lines {
				if e.Object != line(i).Object {
					t.Errorf("%s: line %d is about %s", what, e.Seq, e.Object)
				}
			}
			v, err := log.Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{})
			must(t, err)
			if v.Problem != nil || v.To != 5 || out.Len() != 0 {
				t.Errorf("%s: %+v (%+v) %s", what, v, v.Problem, out)
			}
			must(t, st.Close())
		})
	}
}

// More lines than can wait are in the server's log, and hold nobody up.
func TestTooManyLinesWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st := openStore(t)
		g := &gate{st, make(chan int, 100), make(chan struct{})}
		log, out := newLog(t, g, st, time.Now, 0)
		var wg sync.WaitGroup
		for i := range 10_010 {
			wg.Go(func() { log.Audit(t.Context(), line(i)) })
			if i == 0 {
				<-g.entered
			}
		}
		synctest.Wait()
		if n := strings.Count(out.String(), "too many lines wait"); n != 9 {
			t.Errorf("%d lines were given up, want 9", n)
		}
		close(g.let)
		wg.Wait()
		synctest.Wait()
		v, err := log.Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{})
		must(t, err)
		if v.Problem != nil || v.To != 10_001 {
			t.Errorf("%+v (%+v)", v, v.Problem)
		}
		must(t, st.Close())
	})
}

// Servers that start together have one key, which no other master key opens.
func TestKeys(t *testing.T) {
	t.Parallel()
	st := openStore(t)
	logs := make([]*access.Log, 8)
	var wg sync.WaitGroup
	for i := range logs {
		wg.Go(func() { logs[i], _ = newLog(t, st, st, time.Now, 0) })
	}
	wg.Wait()
	for i, l := range logs {
		l.Audit(t.Context(), line(i))
	}
	for _, l := range logs {
		v, err := l.Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{})
		must(t, err)
		if v.Problem != nil || v.To != 8 {
			t.Errorf("%+v (%+v)", v, v.Problem)
		}
	}
	if _, err := access.LoadKey(t.Context(), st, box(t, 2)); err == nil || !strings.Contains(err.Error(), "another master key") {
		t.Errorf("another master key: %v", err)
	}
}

// resealed is a key store after the master key was changed.
type resealed struct {
	access.KeyStore
	sealed []byte
}

// Key implements access.KeyStore.
func (r resealed) Key(context.Context, string) ([]byte, error) { return r.sealed, nil }

// Another master key leaves the seals good, once the key is sealed anew.
func TestKeyOutlivesTheMasterKey(t *testing.T) {
	t.Parallel()
	st := openStore(t)
	log, _ := newLog(t, st, st, time.Now, 0)
	log.Audit(t.Context(), line(1))
	const name = "audit/chain"
	sealed, err := st.Key(t.Context(), name)
	must(t, err)
	plain, err := box(t, 1).Open(name, sealed)
	must(t, err)
	anew, err := box(t, 2).Seal(name, plain)
	must(t, err)
	key, err := access.LoadKey(t.Context(), resealed{st, anew}, box(t, 2))
	must(t, err)
	v, err := access.NewLog(st, key, access.LogOptions{}, time.Now, slog.New(slog.DiscardHandler)).Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{})
	must(t, err)
	if v.Problem != nil || v.To != 1 {
		t.Errorf("%+v (%+v)", v, v.Problem)
	}
	for what, bundle := range map[string]string{"no JSON": "x", "a short key": `{"key":"AAAA"}`, "no key": `{}`} {
		bad, err := box(t, 1).Seal(name, []byte(bundle))
		must(t, err)
		if _, err := access.LoadKey(t.Context(), resealed{st, bad}, box(t, 1)); err == nil {
			t.Errorf("%s is taken for a key", what)
		}
	}
}

// A server removes old lines about once a day, and none without a retention.
func TestRunRemovesOldLines(t *testing.T) {
	t.Parallel()
	for retention, want := range map[time.Duration]int64{0: 0, 48 * time.Hour: 5} {
		synctest.Test(t, func(t *testing.T) {
			st := openStore(t)
			log, _ := newLog(t, st, st, time.Now, retention)
			for i := range 5 {
				log.Audit(t.Context(), line(i))
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- log.Run(ctx) }()
			floor := func(after time.Duration) int64 {
				time.Sleep(after) //nolint:forbidigo // in a bubble
				synctest.Wait()
				v, err := log.Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{})
				must(t, err)
				if v.Problem != nil {
					t.Errorf("%+v", v.Problem)
				}
				return v.Floor.Seq
			}
			if n := floor(47 * time.Hour); n != 0 {
				t.Errorf("lines up to %d are gone early", n)
			}
			if n := floor(26 * time.Hour); n != want {
				t.Errorf("with a retention of %s, lines up to %d are gone after three days; want %d", retention, n, want)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			must(t, st.Close())
		})
	}
}

// One verification runs at a time; who gives up waiting is let go.
func TestVerificationsTakeTurns(t *testing.T) {
	t.Parallel()
	st := openStore(t)
	held := &held{Store: st, in: make(chan struct{}), out: make(chan struct{})}
	log, _ := newLog(t, held, st, time.Now, 0)
	first := make(chan error, 1)
	go func() {
		_, err := log.Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{})
		first <- err
	}()
	<-held.in
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := log.Verify(ctx, access.DefaultTenant, access.VerifyRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("the second one: %v", err)
	}
	close(held.out)
	must(t, <-first)
}

// held is a store that is slow to tell where the log ends.
type held struct {
	*store.Store
	in, out chan struct{}
}

// AuditChain implements access.LogStore.
func (h *held) AuditChain(ctx context.Context, tenant string) (*access.Chain, error) {
	h.in <- struct{}{}
	<-h.out
	return h.Store.AuditChain(ctx, tenant)
}

// overtaken is a store in which something happens once, right before lines are
// read or right behind that.
type overtaken struct {
	*store.Store
	before, behind func()
}

// AuditLines implements access.LogStore.
func (o *overtaken) AuditLines(ctx context.Context, tenant string, after, until int64, limit int) ([]*access.Event, error) {
	once := func(by *func()) {
		if f := *by; f != nil {
			*by = nil
			f()
		}
	}
	once(&o.before)
	defer once(&o.behind)
	return o.Store.AuditLines(ctx, tenant, after, until, limit)
}

// Lines that retention removes while somebody is about to read them are not
// missing; and a server that is about to remove what another one just did does
// nothing.
func TestRetentionOvertakes(t *testing.T) {
	t.Parallel()
	st := openStore(t)
	begin := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	at := func(days int) func() time.Time {
		return func() time.Time { return begin.AddDate(0, 0, days) }
	}
	for day := range 9 {
		log, _ := newLog(t, st, st, at(day), 0)
		log.Audit(t.Context(), line(day))
	}
	sweep := func(day int) func() {
		log, _ := newLog(t, st, st, at(day), 48*time.Hour)
		return func() { must(t, log.Sweep(t.Context())) }
	}
	over := &overtaken{Store: st, before: sweep(5)}
	log, _ := newLog(t, over, st, at(9), 0)
	v, err := log.Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{})
	must(t, err)
	if v.Problem != nil || v.Floor.Seq != 3 || v.From != 4 || v.To != 10 {
		t.Errorf("%+v (%+v)", v, v.Problem)
	}
	over.behind = sweep(8)
	late, _ := newLog(t, over, st, at(6), 48*time.Hour) // would remove less
	must(t, late.Sweep(t.Context()))
	v, err = log.Verify(t.Context(), access.DefaultTenant, access.VerifyRequest{})
	must(t, err)
	if v.Problem != nil || v.Floor.Seq != 6 || v.To != 11 {
		t.Errorf("%+v (%+v)", v, v.Problem)
	}
}
