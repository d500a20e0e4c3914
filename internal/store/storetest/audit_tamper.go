package storetest

import (
	"fmt"
	"strings"
	"testing"

	"stella-ops.org/stella/internal/access"
)

// unlock takes away what keeps whoever has the database's password from
// changing the log: an owner of the tables can do that.
func (b *bench) unlock(t testing.TB) {
	t.Helper()
	for _, statement := range map[string][]string{
		"sqlite": {
			`DROP TRIGGER audit_no_update`, `DROP TRIGGER audit_no_delete`, `DROP TRIGGER audit_no_replace`,
			`DROP TRIGGER audit_chains_rise`, `DROP TRIGGER audit_chains_no_delete`, `DROP TRIGGER audit_chains_no_replace`,
		},
		"postgres": {`ALTER TABLE audit DISABLE TRIGGER USER`, `ALTER TABLE audit_chains DISABLE TRIGGER USER`},
	}[b.Engine()] {
		must(t, b.db.Exec(b.ctx, statement))
	}
}

// blob writes bytes as the engine's SQL does.
func (b *bench) blob(data []byte) string {
	if b.Engine() == "sqlite" {
		return fmt.Sprintf("x'%x'", data)
	}
	return fmt.Sprintf(`'\x%x'::bytea`, data)
}

// broken wants a log of which a line is the first that is wrong.
func (b *bench) broken(t testing.TB, l *access.Log, seq int64, says string) {
	t.Helper()
	v := verified(t, b.ctx, l, access.Mark{})
	if v.Problem == nil || v.Problem.Seq != seq || !strings.Contains(v.Problem.What, says) {
		t.Errorf("%+v (%+v), want a problem of line %d: %s", v, v.Problem, seq, says)
	}
}

// rewrite makes lines from one number on say something else, each with the hash
// that is right for that, as somebody can who knows how hashes are made.
func (b *bench) rewrite(t testing.TB, from, to int64) access.Mark {
	t.Helper()
	previous := b.line(t, from).Previous
	for seq := from; seq <= to; seq++ {
		e := b.line(t, seq)
		e.Detail, e.Previous = "never mind", previous
		e.Hash = e.Sum()
		previous = e.Hash
		must(t, b.db.Exec(b.ctx, fmt.Sprintf(`UPDATE audit SET detail = '%s', previous = %s, hash = %s WHERE seq = %d`,
			e.Detail, b.blob(e.Previous), b.blob(e.Hash), seq)))
	}
	return access.Mark{Seq: to, Hash: previous}
}

// forge makes the record of the chain's ends say what fits, but for the seal.
func (b *bench) forge(t testing.TB, column string, m access.Mark) {
	t.Helper()
	must(t, b.db.Exec(b.ctx, fmt.Sprintf(`UPDATE audit_chains SET %[1]s_seq = %[2]d, %[1]s_hash = %[3]s`, column, m.Seq, b.blob(m.Hash))))
}

// testAuditTampering does to the database what somebody may do who can write to
// it alone. Each is found and named, by the server that wrote the log and by
// one that has just started; and still so after the next line was written.
func testAuditTampering(t *testing.T, b *bench) {
	later := map[string]string{
		"sqlite": `UPDATE audit SET at = at + 1 WHERE seq = 4`, "postgres": `UPDATE audit SET at = at + INTERVAL '1 microsecond' WHERE seq = 4`,
	}[b.Engine()]
	exec := func(statements ...string) func(*testing.T, *bench) {
		return func(t *testing.T, b *bench) {
			for _, s := range statements {
				must(t, b.db.Exec(b.ctx, s))
			}
		}
	}
	const none = "no seal of these servers"
	for _, c := range []struct {
		what string
		do   func(t *testing.T, b *bench)
		seq  int64
		says string
	}{
		{"another object", exec(`UPDATE audit SET object = 'x' WHERE seq = 4`), 4, "was changed after it was written"},
		{"a later time", exec(later), 4, "was changed after it was written"},
		{"another outcome in the first line", exec(`UPDATE audit SET outcome = 'denied' WHERE seq = 1`), 1, "was changed after"},
		{"another outcome in the last line", exec(`UPDATE audit SET outcome = 'denied' WHERE seq = 10`), 10, "was changed after"},
		{"two lines swapped", exec(`UPDATE audit SET seq = 99 WHERE seq = 4`, `UPDATE audit SET seq = 4 WHERE seq = 5`, `UPDATE audit SET seq = 5 WHERE seq = 99`), 4, "is not where it was"},
		{"a line gone", exec(`DELETE FROM audit WHERE seq = 5`), 5, "line 5 is missing"},
		{"lines gone", exec(`DELETE FROM audit WHERE seq IN (5, 6, 7)`), 5, "lines 5 to 7 are missing"},
		{"a line moved away", exec(`UPDATE audit SET tenant_id = 'other' WHERE seq = 3`), 3, "line 3 is missing"},
		{"a hash gone", exec(`UPDATE audit SET hash = NULL, previous = NULL WHERE seq = 6`), 6, "has no hash"},
		{"the beginning cut off", exec(`DELETE FROM audit WHERE seq <= 3`), 1, "lines 1 to 3 are missing"},
		{"the end cut off", exec(`DELETE FROM audit WHERE seq >= 9`), 9, "line 9 is missing, and so is all behind it"},
		{"all gone", exec(`DELETE FROM audit`), 1, "line 1 is missing, and so is all behind it"},
		{"a line replaced, with its right hash", func(t *testing.T, b *bench) { b.rewrite(t, 4, 4) }, 5, "written behind another line 4"},
		{"all written anew, but the end", func(t *testing.T, b *bench) { b.rewrite(t, 1, 10) }, 10, "is not the one with which the servers ended"},
		{"all written anew", func(t *testing.T, b *bench) { b.forge(t, "head", b.rewrite(t, 1, 10)) }, 10, none},
		{"the end cut off, and its record", func(t *testing.T, b *bench) {
			b.forge(t, "head", access.Mark{Seq: 8, Hash: b.line(t, 8).Hash})
			must(t, b.db.Exec(b.ctx, `DELETE FROM audit WHERE seq > 8`))
		}, 8, none},
		{"the beginning cut off, and its record", func(t *testing.T, b *bench) {
			b.forge(t, "floor", access.Mark{Seq: 3, Hash: b.line(t, 3).Hash})
			must(t, b.db.Exec(b.ctx, `DELETE FROM audit WHERE seq <= 3`))
		}, 10, none},
		{"a seal gone", exec(`UPDATE audit_chains SET seal = ` + b.blob(nil)), 10, none},
		{"the record of the ends gone", exec(`DELETE FROM audit_chains`), 1, "record of the chain's ends is gone"},
		{"a line put behind the end", func(t *testing.T, b *bench) {
			must(t, b.db.Exec(b.ctx, `INSERT INTO audit SELECT 11, tenant_id, at, actor, action, object, remote, outcome, detail, hash, hash FROM audit WHERE seq = 10`))
		}, 11, "stands behind the end"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, b.fresh())
			if b.Engine() == "postgres" && strings.HasPrefix(c.what, "a line put") {
				c.do = exec(`INSERT INTO audit (seq, tenant_id, at, actor, action, object, remote, outcome, detail, previous, hash)
					SELECT 11, tenant_id, at, actor, action, object, remote, outcome, detail, hash, hash FROM audit WHERE seq = 10`)
			}
			wrote := b.auditLog(t, b.Store)
			b.note(wrote, 1, 10)
			b.holds(t, wrote, 1, 10)
			b.unlock(t)
			c.do(t, b)
			b.broken(t, wrote, c.seq, c.says)
			b.broken(t, b.auditLog(t, b.Store), c.seq, c.says)

			// Neither server's next line makes it good.
			next := b.auditLog(t, b.Store)
			b.note(next, 11, 11)
			if v := verified(t, b.ctx, b.auditLog(t, b.Store), access.Mark{}); v.Problem == nil {
				t.Errorf("after one more line the log holds: %+v", v)
			}
			b.note(wrote, 12, 12)
			if v := verified(t, b.ctx, b.auditLog(t, b.Store), access.Mark{}); v.Problem == nil {
				t.Errorf("after two more lines the log holds: %+v", v)
			}
			last, err := b.AuditEvents(b.ctx, tenant, access.Filter{Limit: 1})
			must(t, err)
			same(t, "the last line", last[0].Object, numbered("a", 12))
		})
	}
}

// testAuditPutBack: an old state of the whole log fits in itself. The server
// that wrote more knows, and so does who wrote down the head.
func testAuditPutBack(t *testing.T, b *bench) {
	wrote := b.auditLog(t, b.Store)
	b.note(wrote, 1, 8)
	must(t, b.db.Exec(b.ctx, `CREATE TABLE saved AS SELECT * FROM audit_chains`))
	b.note(wrote, 9, 10)
	written := b.holds(t, wrote, 1, 10).Head
	for what, want := range map[string]access.Mark{access.ContainedYes: written, access.ContainedNo: {Seq: 9, Hash: written.Hash}} {
		if v := verified(t, b.ctx, wrote, want); v.Contained != what || (v.Problem == nil) != (what == access.ContainedYes) {
			t.Errorf("%s: %+v (%+v)", want, v, v.Problem)
		}
	}
	b.unlock(t)
	for _, statement := range []string{
		`DELETE FROM audit WHERE seq > 8`, `DELETE FROM audit_chains`, `INSERT INTO audit_chains SELECT * FROM saved`,
	} {
		must(t, b.db.Exec(b.ctx, statement))
	}
	b.broken(t, wrote, 10, "an older state of the log was put back")
	other := b.auditLog(t, b.Store)
	b.holds(t, other, 1, 8) // it cannot know
	v := verified(t, b.ctx, other, written)
	if v.Contained != access.ContainedNo || v.Problem == nil || v.Problem.Seq != 10 || !strings.Contains(v.Problem.What, "does not contain line 10") {
		t.Errorf("with the head that was written down: %+v (%+v)", v, v.Problem)
	}
	b.note(wrote, 11, 11)
	b.broken(t, b.auditLog(t, b.Store), 9, "an older state was put back")
}
