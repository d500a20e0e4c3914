package storetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/store"
)

// auditLog is the audit log as a server has it; all of a test have one key.
func (b *bench) auditLog(t testing.TB, s *store.Store) *access.Log {
	return b.auditLogAt(t, s, func() time.Time { return b.now }, 0)
}

// auditLogAt is a log with a clock and a retention.
func (b *bench) auditLogAt(t testing.TB, s *store.Store, now func() time.Time, retention time.Duration) *access.Log {
	t.Helper()
	box, err := seal.NewBox(make([]byte, seal.KeySize))
	must(t, err)
	key, err := access.LoadKey(b.ctx, s, box)
	must(t, err)
	return access.NewLog(s, key, access.LogOptions{Retention: retention}, now, slog.New(slog.DiscardHandler))
}

// note adds lines, one after the other.
func (b *bench) note(l *access.Log, from, to int) {
	for i := from; i <= to; i++ {
		l.Audit(b.ctx, access.Event{
			TenantID: tenant, At: b.now.Add(time.Duration(i) * time.Second), Actor: "token:1 (me)", Action: "agent.revoke",
			Object: numbered("a", i), Remote: "10.0.0.1", Outcome: "ok", Detail: "because",
		})
	}
}

// verified verifies a tenant's log, in as many parts as it takes.
func verified(t testing.TB, ctx context.Context, l *access.Log, contains access.Mark) *access.Verification {
	t.Helper()
	var after access.Mark
	first, lines := int64(0), int64(0)
	for {
		v, err := l.Verify(ctx, tenant, access.VerifyRequest{After: after, Contains: contains})
		must(t, err)
		lines += v.Lines
		if first == 0 {
			first = v.From
		}
		if v.Next.Seq == 0 || v.Problem != nil {
			v.From, v.Lines = first, lines
			return v
		}
		if v.Next.Seq <= after.Seq {
			t.Fatalf("the verification does not get on behind line %d", after.Seq)
		}
		after = v.Next
	}
}

// holds wants a log that is as it was written, from one line to another.
func (b *bench) holds(t testing.TB, l *access.Log, from, to int64) *access.Verification {
	t.Helper()
	v := verified(t, b.ctx, l, access.Mark{})
	if v.Problem != nil || v.From != from || v.To != to || v.Lines != to-from+1 || v.Head.Seq != to {
		t.Fatalf("the log does not hold from %d to %d: %+v (%+v)", from, to, v, v.Problem)
	}
	return v
}

// line returns one line of the log.
func (b *bench) line(t testing.TB, seq int64) *access.Event {
	t.Helper()
	found, err := b.AuditLines(b.ctx, tenant, seq-1, seq, 1)
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("there is no line %d", seq)
	}
	return found[0]
}

func testAudit(t *testing.T, b *bench) {
	log := b.auditLog(t, b.Store)
	if v := verified(t, b.ctx, log, access.Mark{}); v.Problem != nil || v.Lines != 0 || v.Head.Seq != 0 || v.UnprotectedTo != 0 {
		t.Fatalf("an empty log: %+v (%+v)", v, v.Problem)
	}
	b.note(log, 1, 10)
	// Whatever bytes somebody sends, the line is the same when it is read.
	log.Audit(b.ctx, access.Event{At: b.now.Add(1234 * time.Nanosecond), Actor: "anonymous", Object: "a\x00b\xff\u2028<\U0001F600", Outcome: "denied"})
	log.Audit(b.ctx, access.Event{TenantID: "other", At: b.now, Actor: "anonymous", Outcome: "denied"})

	var got []*access.Event // the newest first
	f := access.Filter{Limit: 3}
	for {
		page, err := b.AuditEvents(b.ctx, tenant, f)
		must(t, err)
		got = append(got, page...)
		if len(page) < f.Limit {
			break
		}
		f.Query = behind(t, access.AuditSchema, f.Query, page[len(page)-1])
	}
	if len(got) != 11 {
		t.Fatalf("%d lines, want 11", len(got))
	}
	for i, e := range got {
		if e.Seq != int64(11-i) {
			t.Fatalf("line %d stands where %d should", e.Seq, 11-i)
		}
	}
	odd := got[0]
	if odd.Object != "a\ufffdb\ufffd\u2028<\U0001F600" || !odd.At.Equal(b.now.Add(time.Microsecond)) || odd.TenantID != tenant {
		t.Errorf("the odd line is %+v", odd)
	}
	want := &access.Event{
		Seq: 7, TenantID: tenant, At: b.now.Add(7 * time.Second), Actor: "token:1 (me)", Action: "agent.revoke",
		Object: numbered("a", 7), Remote: "10.0.0.1", Outcome: "ok", Detail: "because", Previous: got[5].Hash,
	}
	want.Hash = want.Sum()
	same(t, "line 7", got[4], want)
	b.holds(t, log, 1, 11)
	v, err := log.Verify(b.ctx, "other", access.VerifyRequest{})
	must(t, err)
	if v.Problem != nil || v.From != 1 || v.To != 1 {
		t.Errorf("the other tenant's log: %+v", v)
	}

	// Append-only holds for whoever has the database's password, too.
	for _, statement := range []string{
		`UPDATE audit SET outcome = 'ok'`, `DELETE FROM audit`, `DELETE FROM audit WHERE seq = 1`,
		`UPDATE audit_chains SET head_seq = 5`, `UPDATE audit_chains SET floor_seq = floor_seq - 1`, `DELETE FROM audit_chains`,
		`UPDATE audit_chains SET origin = 3`,
	} {
		if err := b.db.Exec(b.ctx, statement); err == nil {
			t.Errorf("the database took %q", statement)
		}
	}
	for _, statement := range map[string][]string{
		"sqlite": {
			`INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE seq = 1`,
			`INSERT OR REPLACE INTO audit_chains SELECT * FROM audit_chains`,
		},
		"postgres": {
			`TRUNCATE audit`, `TRUNCATE audit_chains`,
			`INSERT INTO audit SELECT * FROM audit WHERE seq = 1 ON CONFLICT ON CONSTRAINT audit_id DO UPDATE SET outcome = 'ok'`,
		},
	}[b.Engine()] {
		if err := b.db.Exec(b.ctx, statement); err == nil {
			t.Errorf("the database took %q", statement)
		}
	}
	b.holds(t, log, 1, 11)
}

// testAuditBefore: lines from before the log was a chain are not protected, and
// not broken either.
func testAuditBefore(t *testing.T, b *bench) {
	b.legacy(t, 3, 7)
	log := b.auditLog(t, b.Store)
	v := verified(t, b.ctx, log, access.Mark{})
	if v.Problem != nil || v.Lines != 0 || v.UnprotectedFrom != 3 || v.UnprotectedTo != 7 {
		t.Fatalf("a log from before: %+v (%+v)", v, v.Problem)
	}
	b.note(log, 1, 4)
	v = b.holds(t, log, 8, 11)
	if v.UnprotectedFrom != 3 || v.UnprotectedTo != 7 {
		t.Errorf("unprotected are %d to %d", v.UnprotectedFrom, v.UnprotectedTo)
	}
	last, err := b.LastUnchained(b.ctx)
	must(t, err)
	same(t, "the last lines from before", last, map[string]int64{tenant: 7})
	// A line of the chain cannot be passed off as one from before.
	b.unlock(t)
	must(t, b.db.Exec(b.ctx, `UPDATE audit SET hash = NULL, previous = NULL`))
	must(t, b.db.Exec(b.ctx, `UPDATE audit_chains SET origin = 11`))
	b.broken(t, b.auditLog(t, b.Store), 11, "is not the one with which the servers ended")
	must(t, b.db.Exec(b.ctx, `DELETE FROM audit_chains`))
	b.broken(t, b.auditLog(t, b.Store), 8, "the record of the chain's ends is gone")
	// And what is written next does not make it good.
	again := b.auditLog(t, b.Store)
	b.note(again, 5, 5)
	b.broken(t, b.auditLog(t, b.Store), 8, "has no hash")
	same(t, "the new line", b.line(t, 13).Object, numbered("a", 5))
	if e := b.line(t, 12); e.Action != "audit.broken" || !strings.Contains(e.Detail, "there were lines up to 11") {
		t.Errorf("line 12 is %+v", e)
	}
}

// legacy adds lines as they were before the log was a chain.
func (b *bench) legacy(t testing.TB, from, to int) {
	t.Helper()
	at := map[string]string{"sqlite": "1772366400000000", "postgres": "TIMESTAMPTZ '2026-03-01 12:00:00Z'"}[b.Engine()]
	for i := from; i <= to; i++ {
		must(t, b.db.Exec(b.ctx, fmt.Sprintf(
			`INSERT INTO audit (seq, tenant_id, at, actor, action, object, remote, outcome, detail) VALUES (%d, 'default', %s, 'system', 'x', '', '', 'ok', '')`, i, at)))
	}
}

// testAuditTogether: two servers that write at the same time write one chain.
func testAuditTogether(t *testing.T, b *bench) {
	logs := []*access.Log{b.auditLog(t, b.Store), b.auditLog(t, b.open(t))}
	const many = 600
	parallel(t, many, func(i int) error {
		logs[i%2].Audit(b.ctx, access.Event{TenantID: tenant, At: b.now, Actor: "system", Action: "x", Object: numbered("o", i), Outcome: "ok"})
		return nil
	})
	seen := map[string]int{}
	for seq := int64(0); seq < many; seq += 100 {
		page, err := b.AuditLines(b.ctx, tenant, seq, many, 100)
		must(t, err)
		for _, e := range page {
			seen[e.Object]++
		}
	}
	if len(seen) != many {
		t.Errorf("%d lines of %d are in the log", len(seen), many)
	}
	v := b.holds(t, logs[0], 1, many)
	w := b.holds(t, b.auditLog(t, b.open(t)), 1, many)
	same(t, "the head, as two servers see it", v.Head, w.Head)
}

// testAuditWhole: a batch that fails in its midst leaves nothing, and the chain
// goes on as if it had not been.
func testAuditWhole(t *testing.T, b *bench) {
	log := b.auditLog(t, b.Store)
	b.note(log, 1, 3)
	before, err := b.AuditChain(b.ctx, tenant)
	must(t, err)
	line := func(c *access.Chain, seq int64) *access.Event {
		return &access.Event{TenantID: tenant, Seq: seq, At: b.now, Previous: c.Head.Hash, Hash: c.Head.Hash}
	}
	refused := errors.New("refused")
	for what, change := range map[string]func(c *access.Chain) ([]*access.Event, error){
		"a line whose number is taken": func(c *access.Chain) ([]*access.Event, error) {
			c.Head.Seq = 5
			return []*access.Event{line(c, 4), line(c, 5), line(c, 3)}, nil
		},
		"an error": func(c *access.Chain) ([]*access.Event, error) {
			c.Head.Seq = 5
			return []*access.Event{line(c, 4)}, refused
		},
		"a head that the database refuses": func(c *access.Chain) ([]*access.Event, error) {
			c.Head.Seq = 1
			return []*access.Event{line(c, 4)}, nil
		},
		"a floor above the head": func(c *access.Chain) ([]*access.Event, error) {
			c.Floor.Seq = 9
			return []*access.Event{line(c, 4)}, nil
		},
	} {
		if err := b.ChangeAudit(b.ctx, tenant, change); err == nil {
			t.Errorf("%s was taken", what)
		}
		after, err := b.AuditChain(b.ctx, tenant)
		must(t, err)
		same(t, "the chain after "+what, after, before)
	}
	must(t, b.ChangeAudit(b.ctx, tenant, func(c *access.Chain) ([]*access.Event, error) { return nil, nil }))
	b.note(log, 4, 4)
	b.holds(t, log, 1, 4)
}

// testAuditParts: a log that is too long for one request is verified in parts,
// and a wrong line is found in each of them.
func testAuditParts(t *testing.T, b *bench) {
	const many = 2500
	log := b.auditLog(t, b.Store)
	parallel(t, many, func(i int) error {
		log.Audit(b.ctx, access.Event{TenantID: tenant, At: b.now, Actor: "system", Action: "x", Object: numbered("o", i), Outcome: "ok"})
		return nil
	})
	var ticks atomic.Int64
	slow := b.auditLogAt(t, b.Store, func() time.Time { return b.now.Add(time.Duration(ticks.Add(1)) * time.Minute) }, 0)
	v, err := slow.Verify(b.ctx, tenant, access.VerifyRequest{})
	must(t, err)
	if v.Problem != nil || v.From != 1 || v.To != 1000 || v.Next.Seq != 1000 || v.Head.Seq != many {
		t.Fatalf("the first part: %+v (%+v)", v, v.Problem)
	}
	b.holds(t, slow, 1, many)
	// A part begins behind the very line that was checked, and no other.
	wrong := v.Next
	wrong.Hash = b.line(t, 7).Hash
	v, err = slow.Verify(b.ctx, tenant, access.VerifyRequest{After: wrong})
	must(t, err)
	if v.Problem == nil || v.Problem.Seq != 1001 {
		t.Errorf("behind another line 1000: %+v", v)
	}
	// The end is known, and nothing is behind it.
	v, err = slow.Verify(b.ctx, tenant, access.VerifyRequest{After: v.Head})
	must(t, err)
	if v.Problem != nil || v.Lines != 0 || v.Next.Seq != 0 {
		t.Errorf("behind the head: %+v (%+v)", v, v.Problem)
	}
	v, err = slow.Verify(b.ctx, tenant, access.VerifyRequest{After: access.Mark{Seq: many + 5, Hash: v.Head.Hash}})
	must(t, err)
	if v.Problem == nil || v.Problem.Seq != many+1 || !strings.Contains(v.Problem.What, "the end was cut off") {
		t.Errorf("behind a line that is not there any more: %+v (%+v)", v, v.Problem)
	}
	b.unlock(t)
	must(t, b.db.Exec(b.ctx, `UPDATE audit SET outcome = 'denied' WHERE seq = 2222`))
	b.broken(t, slow, 2222, "was changed after it was written")
}
