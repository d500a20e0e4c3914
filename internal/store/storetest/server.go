package storetest

import (
	"context"
	"testing"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store"
)

func testKeys(t *testing.T, b *bench) {
	if got, err := b.Key(b.ctx, "ca"); err != nil || got != nil {
		t.Fatalf("an empty store has the key %v (error %v)", got, err)
	}
	stores := []*store.Store{b.Store, b.open(t)}
	winners := make([][]byte, 20)
	together(t, len(winners), func(i int) (err error) {
		winners[i], err = stores[i%2].PutKeyIfAbsent(b.ctx, "ca", []byte(numbered("key\x00\xff", i)))
		return err
	})
	got, err := b.Key(b.ctx, "ca")
	must(t, err)
	for _, w := range winners {
		same(t, "winner", w, got)
	}
	other, err := b.PutKeyIfAbsent(b.ctx, "other", []byte("x"))
	must(t, err)
	same(t, "another key", other, []byte("x"))
}

func testPing(t *testing.T, b *bench) {
	for range 3 {
		must(t, b.Ping(b.ctx))
	}
	if b.Engine() == "" {
		t.Error("the engine has no name")
	}
	// To read is not enough.
	must(t, b.db.Exec(b.ctx, `ALTER TABLE readiness RENAME TO elsewhere`))
	if err := b.Ping(b.ctx); err == nil {
		t.Error("a store that cannot be written is said to be ready")
	}
}

func testReopen(t *testing.T, b *bench) {
	a := b.agent("web")
	b.enrol(t, a)
	tgt := b.target(t, "web", a.ID)
	k := b.claimed(t, b.insert(t, tgt.ID), a.ID)
	s, err := b.db.Open(b.ctx)
	must(t, err)
	b.auditLog(t, s).Audit(b.ctx, access.Event{TenantID: tenant, At: b.now})
	_, err = s.PutKeyIfAbsent(b.ctx, "ca", []byte("key"))
	must(t, err)
	must(t, s.Close())
	must(t, b.Close())

	b.Store = b.open(t)
	got, err := b.Agent(b.ctx, tenant, a.ID)
	must(t, err)
	same(t, "agent", got, a)
	same(t, "task", b.state(t, k.ID), k)
	key, err := b.Key(b.ctx, "ca")
	must(t, err)
	same(t, "key", key, []byte("key"))
	events, err := b.AuditEvents(b.ctx, tenant, access.Filter{})
	must(t, err)
	if len(events) != 1 {
		t.Errorf("%d audit events, want 1", len(events))
	}
}

// testOpenTogether: servers that start at the same moment on an empty
// database all come up.
func testOpenTogether(t *testing.T, b *bench) {
	empty := b.fresh()
	together(t, 4, func(int) error {
		s, err := empty.Open(b.ctx)
		if err != nil {
			return err
		}
		if err := s.Ping(b.ctx); err != nil {
			return err
		}
		return s.Close()
	})
}

func testClosed(t *testing.T, b *bench) {
	s, err := b.db.Open(b.ctx)
	must(t, err)
	must(t, s.Close())
	_, err = s.Agents(b.ctx, tenant, fleet.Filter{})
	wantFault(t, err, fault.Unavailable, "store_unavailable")
	err = s.ChangeAudit(b.ctx, tenant, func(*access.Chain) ([]*access.Event, error) { return nil, nil })
	wantFault(t, err, fault.Unavailable, "store_unavailable")
	wantFault(t, s.Ping(b.ctx), fault.Unavailable, "store_unavailable")
}

// testCancelled: a caller who gave up gets his own error back, and nothing
// was done.
func testCancelled(t *testing.T, b *bench) {
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	wantError(t, b.Enrol(ctx, b.enrolment(b.agent("web"))), context.Canceled)
	_, err := b.Agents(ctx, tenant, fleet.Filter{})
	wantError(t, err, context.Canceled)
	wantError(t, b.Ping(ctx), context.Canceled)
	_, err = b.Agent(b.ctx, tenant, "web")
	wantFault(t, err, fault.NotFound, "agent_not_found")
}
