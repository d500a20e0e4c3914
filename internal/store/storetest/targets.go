package storetest

import (
	"sync/atomic"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

func testTargets(t *testing.T, b *bench) {
	web, pool := b.target(t, "web", "id-a"), b.target(t, "pool", "")
	pool.Selector = &api.AgentSelector{Group: "g", Environment: "e", Labels: map[string]string{"k": "v"}}
	must(t, b.UpdateTarget(b.ctx, pool))

	for key, want := range map[string]*target.Target{"web": web, web.ID: web, "pool": pool} {
		got, err := b.Target(b.ctx, tenant, key)
		must(t, err)
		same(t, "target "+key, got, want)
	}
	_, err := b.Target(b.ctx, tenant, "nothing")
	wantFault(t, err, fault.NotFound, "target_not_found")

	clash := *web
	clash.ID = "other"
	wantFault(t, b.InsertTarget(b.ctx, &clash), fault.Conflict, "name_taken")
	clash = *pool
	clash.Name = "web"
	wantFault(t, b.UpdateTarget(b.ctx, &clash), fault.Conflict, "name_taken")
	clash.ID = "nothing"
	wantFault(t, b.UpdateTarget(b.ctx, &clash), fault.NotFound, "target_not_found")

	web.Name, web.AgentID, web.Selector, web.UpdatedAt = "web2", "", &api.AgentSelector{Group: "x"}, b.now.Add(time.Minute)
	web.Config, web.Labels, web.Environment = api.TargetConfig{StickerPath: "/x"}, nil, "staging"
	must(t, b.UpdateTarget(b.ctx, web))
	got, err := b.Target(b.ctx, tenant, web.ID)
	must(t, err)
	same(t, "updated target", got, web)

	shared, err := b.SharedTargets(b.ctx, tenant)
	must(t, err)
	same(t, "shared targets", shared, []*target.Target{pool, web})
}

func testTargetFilters(t *testing.T, b *bench) {
	var all []*target.Target
	for i, name := range []string{"a", "b", "c", "d", "e"} {
		tgt := b.target(t, name, "id-x")
		tgt.Labels = map[string]string{"even": []string{"yes", "no"}[i%2]}
		if name == "c" {
			tgt.Kind, tgt.Environment, tgt.AgentID = "host", "staging", "id-y"
		}
		must(t, b.UpdateTarget(b.ctx, tgt))
		all = append(all, tgt)
	}
	for _, c := range []struct {
		filter target.Filter
		want   []*target.Target
	}{
		{target.Filter{}, all},
		{target.Filter{Limit: 2}, all[:2]},
		{target.Filter{Limit: 2, Query: behind(t, target.Schema, filter.Query{}, all[1])}, all[2:4]},
		{target.Filter{Name: "b"}, all[1:2]},
		{target.Filter{Kind: "host"}, all[2:3]},
		{target.Filter{Environment: "staging"}, all[2:3]},
		{target.Filter{AgentID: "id-y"}, all[2:3]},
		{target.Filter{Labels: map[string]string{"even": "no"}}, []*target.Target{all[1], all[3]}},
		{target.Filter{Labels: map[string]string{"even": "yes"}, Limit: 2}, []*target.Target{all[0], all[2]}},
		{target.Filter{Labels: map[string]string{"other": ""}}, all}, // as fleet.Filter has it
	} {
		got, err := b.Targets(b.ctx, tenant, c.filter)
		must(t, err)
		same(t, "targets", got, c.want)
	}
}

func testTargetDelete(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"))
	web := b.target(t, "web", "id-a")
	queued := b.insert(t, web.ID)
	wantFault(t, b.DeleteTarget(b.ctx, tenant, web.ID), fault.Conflict, "target_busy")
	held := b.claimed(t, queued, "id-a")
	wantFault(t, b.DeleteTarget(b.ctx, tenant, web.ID), fault.Conflict, "target_busy")
	_, err := b.FinishTask(b.ctx, task.Finish{
		Ref: task.Ref{ID: held.ID, Attempt: held.Attempt}, AgentID: "id-a", State: api.TaskSucceeded, At: b.now,
		Deployment: &task.Deployment{TaskID: held.ID, TenantID: tenant, TargetID: web.ID, ReleaseID: "r", At: b.now},
	})
	must(t, err)
	web.Name = "renamed"
	must(t, b.UpdateTarget(b.ctx, web))
	must(t, b.DeleteTarget(b.ctx, tenant, web.ID))
	wantFault(t, b.DeleteTarget(b.ctx, tenant, web.ID), fault.NotFound, "target_not_found")

	// Its ended task stays, and people still read of what it was.
	must(t, b.DeleteAgent(b.ctx, tenant, "id-a"))
	got := b.state(t, held.ID)
	if got.State != api.TaskSucceeded || got.TargetName != "renamed" || got.AgentName != "a" {
		t.Errorf("the ended task is %s on %q by %q, want succeeded on renamed by a", got.State, got.TargetName, got.AgentName)
	}
	_, err = b.InsertTask(b.ctx, b.queued(web.ID))
	wantFault(t, err, fault.NotFound, "target_not_found")
}

// testTargetDeleteRace: either the task is in and the target stays, or the
// target is gone and the task was refused.
func testTargetDeleteRace(t *testing.T, b *bench) {
	for i := range 20 {
		tgt := b.target(t, numbered("t", i), "id-a")
		var inserted, deleted atomic.Bool
		together(t, 2, func(i int) error {
			if i == 0 {
				_, err := b.InsertTask(b.ctx, b.queued(tgt.ID))
				inserted.Store(err == nil)
				if fault.KindOf(err) == fault.NotFound {
					return nil
				}
				return err
			}
			err := b.DeleteTarget(b.ctx, tenant, tgt.ID)
			deleted.Store(err == nil)
			if fault.KindOf(err) == fault.Conflict {
				return nil
			}
			return err
		})
		if inserted.Load() == deleted.Load() {
			t.Fatalf("task inserted: %v, target deleted: %v", inserted.Load(), deleted.Load())
		}
	}
}

func testAPITokens(t *testing.T, b *bench) {
	if n, err := b.CountAPITokens(b.ctx); err != nil || n != 0 {
		t.Fatalf("%d tokens in an empty store (error %v)", n, err)
	}
	first := &access.APIToken{ID: "t1", TenantID: tenant, Hash: "h1", Name: "one", Role: api.RoleAdmin, CreatedBy: "me", CreatedAt: b.now}
	second := &access.APIToken{ID: "t2", TenantID: tenant, Hash: "h2", Name: "two", Role: api.RoleViewer, CreatedAt: b.now.Add(time.Second), ExpiresAt: b.now.Add(time.Hour)}
	must(t, b.InsertAPIToken(b.ctx, first))
	must(t, b.InsertAPIToken(b.ctx, second))
	list, err := b.APITokens(b.ctx, tenant, access.Filter{})
	must(t, err)
	same(t, "list", list, []*access.APIToken{second, first})

	must(t, b.TouchAPIToken(b.ctx, "t1", b.now.Add(time.Minute)))
	must(t, b.TouchAPIToken(b.ctx, "t1", b.now)) // late: it does not go back
	must(t, b.RevokeAPIToken(b.ctx, tenant, "t1", b.now.Add(time.Minute)))
	must(t, b.RevokeAPIToken(b.ctx, tenant, "t1", b.now.Add(time.Hour)))
	first.LastUsedAt, first.RevokedAt = b.now.Add(time.Minute), b.now.Add(time.Minute)
	got, err := b.APITokenByHash(b.ctx, "h1")
	must(t, err)
	same(t, "revoked token", got, first)
	if got, err := b.APITokenByHash(b.ctx, "unknown"); err != nil || got != nil {
		t.Errorf("an unknown hash gives %v (error %v)", got, err)
	}
	wantFault(t, b.RevokeAPIToken(b.ctx, tenant, "nothing", b.now), fault.NotFound, "token_not_found")
	if n, err := b.CountAPITokens(b.ctx); err != nil || n != 2 {
		t.Errorf("%d tokens, want 2: ended ones count (error %v)", n, err)
	}
}
