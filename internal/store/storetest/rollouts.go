package storetest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/rollout"
)

func (b *bench) rollout(id string) *rollout.Rollout {
	return &rollout.Rollout{
		ID: id, TenantID: tenant, State: api.RolloutRunning, Plan: rollout.Plan{MaxParallel: 2, MaxFailures: 1, OnFailure: api.OnFailureStop},
		ReleaseID: "r1", ReleaseName: "Release 1", Payload: []byte(`{"image":"app"}`), Sealed: []byte{0, 1, 255},
		Targets: []rollout.Target{{ID: "t1", Name: "web", State: api.RolloutTargetPending}, {ID: "t2", Name: "ä\x00", State: api.RolloutTargetPending}},
		Version: 1, CreatedBy: "me", CreatedAt: b.now, UpdatedAt: b.now,
	}
}

func testRollouts(t *testing.T, b *bench) {
	r := b.rollout("o1")
	r.IdempotencyKey = "key"
	first, err := b.InsertRollout(b.ctx, r)
	if err != nil || first != nil {
		t.Fatal(first, err)
	}
	got, err := b.Rollout(b.ctx, tenant, "o1")
	must(t, err)
	if diff := cmp.Diff(r, got); diff != "" {
		t.Errorf("what was put comes back otherwise: %s", diff)
	}
	again := b.rollout("o2")
	again.IdempotencyKey = "key"
	if first, err = b.InsertRollout(b.ctx, again); err != nil || first == nil || first.ID != "o1" {
		t.Errorf("the same key: %+v, %v", first, err)
	}
	if got, err = b.RolloutByKey(b.ctx, tenant, "key"); err != nil || got == nil || got.ID != "o1" {
		t.Errorf("by key: %+v, %v", got, err)
	}
	for _, key := range []string{"", "other"} {
		if got, err = b.RolloutByKey(b.ctx, tenant, key); err != nil || got != nil {
			t.Errorf("by key %q: %+v, %v", key, got, err)
		}
	}
	for _, id := range []string{"o2", "o3"} { // without a key, any number
		if first, err = b.InsertRollout(b.ctx, b.rollout(id)); err != nil || first != nil {
			t.Fatal(first, err)
		}
	}
	for _, err := range []error{
		func() error { _, err := b.Rollout(b.ctx, "other", "o1"); return err }(),
		func() error { _, err := b.Rollout(b.ctx, tenant, "nothing"); return err }(),
	} {
		if fault.KindOf(err) != fault.NotFound || fault.CodeOf(err) != "rollout_not_found" {
			t.Errorf("%v", err)
		}
	}
	refs, err := b.MovingRollouts(b.ctx)
	must(t, err)
	if diff := cmp.Diff([]rollout.Ref{{TenantID: tenant, ID: "o1"}, {TenantID: tenant, ID: "o2"}, {TenantID: tenant, ID: "o3"}}, refs); diff != "" {
		t.Error(diff)
	}
	// Who has read an older state does not write over a newer one.
	mine, err := b.Rollout(b.ctx, tenant, "o1")
	must(t, err)
	theirs, err := b.open(t).Rollout(b.ctx, tenant, "o1")
	must(t, err)
	mine.State, mine.Reason, mine.Plan.Forgiven = api.RolloutSucceeded, "all is well", 2
	mine.Targets[0].State, mine.Targets[0].Task = api.RolloutTargetSucceeded, "k1"
	mine.UpdatedAt, mine.FinishedAt = b.now.Add(time.Minute), b.now.Add(time.Minute)
	if done, err := b.UpdateRollout(b.ctx, mine); err != nil || !done {
		t.Fatal(done, err)
	}
	theirs.State = api.RolloutFailed
	if done, err := b.UpdateRollout(b.ctx, theirs); err != nil || done {
		t.Errorf("written over: %v, %v", done, err)
	}
	mine.Version++
	got, err = b.Rollout(b.ctx, tenant, "o1")
	must(t, err)
	if diff := cmp.Diff(mine, got); diff != "" {
		t.Error(diff)
	}
	if refs, err = b.MovingRollouts(b.ctx); err != nil || len(refs) != 2 {
		t.Errorf("what is over still moves: %v, %v", refs, err)
	}
	// Of many who write at once, one does.
	var wg sync.WaitGroup
	var wrote atomic.Int32
	other := b.open(t)
	for i := range 8 {
		wg.Go(func() {
			r := b.rollout("o2")
			r.Reason = numbered("writer ", i)
			done, err := pick(i, b.Store, other).UpdateRollout(b.ctx, r)
			if err != nil {
				t.Error(err)
			}
			if done {
				wrote.Add(1)
			}
		})
	}
	wg.Wait()
	if wrote.Load() != 1 {
		t.Errorf("%d have written", wrote.Load())
	}
}

func testRolloutList(t *testing.T, b *bench) {
	for i := range 15 {
		r := b.rollout(numbered("o", i))
		r.State = pick(i, api.RolloutRunning, api.RolloutFailed, api.RolloutSucceeded, api.RolloutPaused)
		r.ReleaseID, r.Reason, r.CreatedBy = pick(i, "1.0", "1.1", "%"), pick(i/2, "", "no"), pick(i/3, "me", "You")
		r.CreatedAt, r.UpdatedAt = b.now.Add(-time.Duration(i/4)*time.Hour), b.now.Add(-time.Duration(i/2)*time.Minute)
		_, err := b.InsertRollout(b.ctx, r)
		must(t, err)
	}
	all, err := b.Rollouts(b.ctx, tenant, rollout.Filter{})
	must(t, err)
	if len(all[0].Payload)+len(all[0].Sealed) > 0 || len(all[0].Targets) != 2 {
		t.Errorf("%+v", all[0])
	}
	agree(t, rollout.Schema, b.now, all, func(q filter.Query, limit int) ([]*rollout.Rollout, error) {
		return b.Rollouts(b.ctx, tenant, rollout.Filter{Query: q, Limit: limit})
	})
}
