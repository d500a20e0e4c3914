package storetest

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stella-ops.org/stella/internal/access"
)

// testAuditRetention: what is left when old lines were removed verifies, from
// the floor; and only what is at the floor or below can be removed.
func testAuditRetention(t *testing.T, b *bench) {
	b.legacy(t, 1, 3)
	first := b.auditLog(t, b.Store)
	b.fill(t, []*access.Log{first}, 64, 1194) // lines 4 to 1197
	b.note(first, 1195, 1210)                 // line i+3 is from i seconds later
	late := func() time.Time { return b.now.Add(24*time.Hour + 1201*time.Second) }
	log := b.auditLogAt(t, b.Store, late, 24*time.Hour)
	for range 2 { // the second finds nothing
		must(t, log.Sweep(b.ctx))
		v := b.holds(t, log, 1204, 1214)
		if v.Floor.Seq != 1203 || !v.FloorAt.Equal(late()) || v.UnprotectedTo != 0 {
			t.Fatalf("the floor: %+v", v)
		}
	}
	if e := b.line(t, 1214); e.Action != "audit.removed" || e.Object != "1-1203" || e.Actor != "system" {
		t.Errorf("the removal is told as %+v", e)
	}
	all, err := b.AuditLines(b.ctx, tenant, 0, 1<<40, 1000)
	must(t, err)
	if len(all) != 11 || all[0].Object != numbered("a", 1201) {
		t.Errorf("%d lines are left, from %+v", len(all), all[0])
	}
	for mark, want := range map[int64]string{1203: access.ContainedYes, 700: access.ContainedRemoved, 1204: access.ContainedYes} {
		m := access.Mark{Seq: mark, Hash: all[0].Previous}
		if mark == 1204 {
			m.Hash = all[0].Hash
		}
		if v := verified(t, b.ctx, log, m); v.Contained != want || v.Problem != nil {
			t.Errorf("line %d: %+v (%+v)", mark, v, v.Problem)
		}
	}
	for _, statement := range []string{
		`DELETE FROM audit WHERE seq = 1204`, `UPDATE audit SET outcome = 'ok'`, `UPDATE audit_chains SET floor_seq = 1202`,
	} {
		if err := b.db.Exec(b.ctx, statement); err == nil {
			t.Errorf("the database took %q", statement)
		}
	}
	// Who puts a line in at the beginning, or takes one away there, is found.
	b.legacy(t, 700, 700)
	b.broken(t, b.auditLog(t, b.Store), 700, "although retention removed all up to line 1203")
	must(t, b.db.Exec(b.ctx, `DELETE FROM audit WHERE seq = 700`)) // it is below the floor
	b.holds(t, log, 1204, 1214)
	b.unlock(t)
	b.forge(t, "floor", access.Mark{Seq: 1207, Hash: b.line(t, 1207).Hash})
	must(t, b.db.Exec(b.ctx, `DELETE FROM audit WHERE seq <= 1207`))
	b.broken(t, b.auditLog(t, b.Store), 1214, "no seal of these servers")
}

// testAuditRetentionHides: who changed a line cannot have retention remove the
// trace of that.
func testAuditRetentionHides(t *testing.T, b *bench) {
	b.note(b.auditLog(t, b.Store), 1, 10)
	b.unlock(t)
	must(t, b.db.Exec(b.ctx, `UPDATE audit SET object = 'x' WHERE seq = 4`))
	log := b.auditLogAt(t, b.Store, func() time.Time { return b.now.Add(24*time.Hour + 8*time.Second) }, 24*time.Hour)
	must(t, log.Sweep(b.ctx))
	b.broken(t, b.auditLog(t, b.Store), 11, "line 4 does not have the hash that it says")
	e := b.line(t, 11)
	if e.Action != "audit.broken" || e.Outcome != "failed" || !strings.Contains(e.Detail, "retention has removed it") {
		t.Errorf("line 11 is %+v", e)
	}
	// That trace ends with its own retention, and is not told of again.
	later := b.auditLogAt(t, b.Store, func() time.Time { return b.now.Add(72*time.Hour + 8*time.Second) }, 24*time.Hour)
	must(t, later.Sweep(b.ctx))
	b.holds(t, later, 13, 13)
}

// testAuditMeanwhile: a log that is written to and shortened while it is read
// is never taken for a broken one.
func testAuditMeanwhile(t *testing.T, b *bench) {
	var passed atomic.Int64 // seconds
	clock := func() time.Time { return b.now.Add(24*time.Hour + time.Duration(passed.Load())*time.Second) }
	writer, sweeper := b.auditLogAt(t, b.Store, clock, 0), b.auditLogAt(t, b.open(t), clock, 24*time.Hour)
	var writing, sweeping sync.WaitGroup
	done := make(chan struct{})
	for i := range 4 {
		writing.Go(func() {
			for n := range 60 {
				b.note(writer, 4*n+i, 4*n+i)
			}
		})
	}
	sweeping.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				passed.Add(10)
				if err := sweeper.Sweep(b.ctx); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	go func() {
		writing.Wait()
		close(done)
	}()
	reader := b.auditLog(t, b.Store)
	for n := 0; ; n++ {
		if v := verified(t, b.ctx, reader, access.Mark{}); v.Problem != nil {
			t.Errorf("verification %d: %+v (%+v)", n, v, v.Problem)
			<-done
			break
		}
		select {
		case <-done:
		default:
			continue
		}
		break
	}
	sweeping.Wait()
	if v := verified(t, b.ctx, reader, access.Mark{}); v.Problem != nil || v.Floor.Seq == 0 || v.Lines == 0 {
		t.Errorf("at last: %+v (%+v)", v, v.Problem)
	}
}
