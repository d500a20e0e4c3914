package storetest

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/task"
)

func testTaskRoundTrip(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"))
	tgt := b.target(t, "web", "id-a")
	want := b.insert(t, tgt.ID, func(k *task.Task) { k.Priority, k.IdempotencyKey = 2, "key" })
	want.TargetName = "web"

	got := b.state(t, want.ID)
	samePayload(t, got, want)
	same(t, "queued task", got, want)

	// The whole way, with everything that is noted on it.
	got = b.claimed(t, want, "id-a")
	want.State, want.AgentID, want.AgentName, want.Attempt = api.TaskAssigned, "id-a", "a", 1
	want.AssignedAt, want.LeaseUntil = b.now, b.now.Add(time.Minute)
	samePayload(t, got, want)
	same(t, "claimed task", got, want)

	ref := task.Ref{ID: want.ID, Attempt: 1}
	started, err := b.StartTask(b.ctx, "id-a", ref, b.now.Add(time.Second))
	must(t, err)
	if again, err := b.StartTask(b.ctx, "id-a", ref, b.now); err != nil || !started || again {
		t.Fatalf("started %v, again %v (error %v), want true and false", started, again, err)
	}
	done, err := b.FinishTask(b.ctx, task.Finish{
		Ref: ref, AgentID: "id-a", State: api.TaskFailed, Reason: "no \x00 such image", At: b.now.Add(2 * time.Second),
		Result: &api.TaskResult{TaskID: want.ID, Attempt: 1, Error: "nul \x00, \\u0000 and \xff", ErrorType: "x", CompletedAt: b.now},
	})
	must(t, err)
	if !done {
		t.Fatal("the result was not taken")
	}
	want.State, want.Reason, want.StartedAt, want.FinishedAt = api.TaskFailed, "no \ufffd such image", b.now.Add(time.Second), b.now.Add(2*time.Second)
	want.LeaseUntil = time.Time{}
	want.Result = &api.TaskResult{TaskID: want.ID, Attempt: 1, Error: "nul \ufffd, \\u0000 and \ufffd", ErrorType: "x", CompletedAt: b.now}
	got = b.state(t, want.ID)
	samePayload(t, got, want)
	same(t, "finished task", got, want)
}

// samePayload compares what an engine may write differently, and makes it the
// same.
func samePayload(t testing.TB, got, want *task.Task) {
	t.Helper()
	var x, y any
	must(t, json.Unmarshal(got.Payload, &x))
	must(t, json.Unmarshal(want.Payload, &y))
	same(t, "payload", x, y)
	got.Payload = want.Payload
}

func testTaskLists(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"), b.agent("b"))
	t1, t2 := b.target(t, "t1", "id-a"), b.target(t, "t2", "id-b")
	var all []*task.Task // the newest first
	for i := range 12 {
		tgt := t1
		if i%2 == 1 {
			tgt = t2
		}
		k := b.insert(t, tgt.ID, unchanging, func(k *task.Task) {
			if i%3 == 0 {
				k.Type = api.TaskInspect
			}
		})
		if i >= 8 {
			b.claimed(t, k, []string{"id-a", "id-b"}[i%2])
		}
		all = append([]*task.Task{b.state(t, k.ID)}, all...)
	}
	for _, f := range []task.Filter{
		{},
		{State: api.TaskQueued},
		{State: api.TaskAssigned},
		{Type: api.TaskInspect},
		{TargetID: t1.ID},
		{AgentID: "id-b"},
		{TargetID: t2.ID, AgentID: "id-b", State: api.TaskAssigned, Type: api.TaskInspect},
		{AgentID: "id-a", State: api.TaskQueued},
		{State: api.TaskQueued, Type: api.TaskDeploy},
		{TargetID: "nothing"},
	} {
		var want []string
		for _, k := range all {
			if (f.State == "" || k.State == f.State) && (f.Type == "" || k.Type == f.Type) &&
				(f.TargetID == "" || k.TargetID == f.TargetID) && (f.AgentID == "" || k.AgentID == f.AgentID) {
				want = append(want, k.ID)
			}
		}
		f.Limit = 3
		var got []string
		for {
			page, err := b.Tasks(b.ctx, tenant, f)
			must(t, err)
			got = append(got, ids(page)...)
			if len(page) < f.Limit {
				break
			}
			f.Query = behind(t, task.Schema, f.Query, page[len(page)-1])
		}
		same(t, "tasks", got, want)
	}
	none, err := b.Tasks(b.ctx, "elsewhere", task.Filter{TargetID: t1.ID})
	must(t, err)
	same(t, "tasks of another tenant", none, []*task.Task{})
}

func ids(tasks []*task.Task) []string {
	var list []string
	for _, k := range tasks {
		list = append(list, k.ID)
	}
	return list
}

func testIdempotency(t *testing.T, b *bench) {
	tgt := b.target(t, "web", "id-a")
	stores := []*store.Store{b.Store, b.open(t)}
	made := make([]string, 40)
	first := make([]string, len(made))
	together(t, len(made), func(i int) error {
		k := b.queued(tgt.ID)
		k.IdempotencyKey = "the key"
		was, err := stores[i%2].InsertTask(b.ctx, k)
		if err != nil {
			return err
		}
		if first[i] = k.ID; was != nil {
			first[i] = was.ID
		} else {
			made[i] = k.ID
		}
		return nil
	})
	slices.Sort(made)
	winner := made[len(made)-1]
	if made = slices.Compact(made); len(made) != 2 { // "" and the one
		t.Errorf("the key made the tasks %v", made)
	}
	for _, id := range first {
		if id != winner {
			t.Errorf("the key gives task %s, want %s", id, winner)
		}
	}
	// No key is no key.
	b.insert(t, tgt.ID)
	b.insert(t, tgt.ID)
	list, err := b.Tasks(b.ctx, tenant, task.Filter{})
	must(t, err)
	if len(list) != 3 {
		t.Errorf("%d tasks, want 3", len(list))
	}
}

func testCancel(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"))
	tgt := b.target(t, "web", "id-a")
	k := b.insert(t, tgt.ID)
	asked, err := b.RequestCancel(b.ctx, tenant, k.ID, b.now)
	must(t, err)
	if asked {
		t.Error("a queued task was asked to stop")
	}
	done, err := b.CancelQueued(b.ctx, tenant, k.ID, "not wanted", b.now)
	must(t, err)
	if again, err := b.CancelQueued(b.ctx, tenant, k.ID, "again", b.now); err != nil || !done || again {
		t.Errorf("cancelled %v, again %v (error %v), want true and false", done, again, err)
	}
	if got := b.state(t, k.ID); got.State != api.TaskCancelled || got.Reason != "not wanted" || !got.FinishedAt.Equal(b.now) {
		t.Errorf("the cancelled task is %s, %q, at %s", got.State, got.Reason, got.FinishedAt)
	}
	if got, err := b.ClaimTask(b.ctx, b.claim(k, "id-a")); err != nil || got != nil {
		t.Errorf("a cancelled task was claimed (error %v)", err)
	}

	k = b.claimed(t, b.insert(t, tgt.ID), "id-a")
	if done, err := b.CancelQueued(b.ctx, tenant, k.ID, "late", b.now); err != nil || done {
		t.Errorf("an assigned task was cancelled in the queue (error %v)", err)
	}
	for range 2 {
		if asked, err := b.RequestCancel(b.ctx, tenant, k.ID, b.now); err != nil || !asked {
			t.Errorf("an assigned task was not asked to stop (error %v)", err)
		}
	}
	if got := b.state(t, k.ID); !got.CancelRequested || got.State != api.TaskAssigned {
		t.Errorf("the task is %s, cancel requested %v", got.State, got.CancelRequested)
	}
}

func testExpire(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"))
	tgt := b.target(t, "web", "id-a")
	var late []string
	for range 10 {
		late = append(late, b.insert(t, tgt.ID, func(k *task.Task) { k.ExpiresAt = b.now }).ID)
	}
	b.insert(t, tgt.ID, func(k *task.Task) { k.ExpiresAt = b.now.Add(time.Microsecond) })
	held := b.claimed(t, b.insert(t, tgt.ID), "id-a")

	stores := []*store.Store{b.Store, b.open(t)}
	expired := make([][]*task.Task, 8)
	together(t, len(expired), func(i int) (err error) {
		expired[i], err = stores[i%2].ExpireQueued(b.ctx, b.now)
		return err
	})
	var got []string
	for _, k := range slices.Concat(expired...) {
		if k.State != api.TaskExpired || k.TargetName != "web" || !k.FinishedAt.Equal(b.now) {
			t.Errorf("the expired task is %s on %q at %s", k.State, k.TargetName, k.FinishedAt)
		}
		got = append(got, k.ID)
	}
	slices.SortFunc(got, strings.Compare)
	same(t, "each expired once", got, late)
	if k := b.state(t, held.ID); k.State != api.TaskAssigned {
		t.Errorf("an assigned task is %s", k.State)
	}
}

func testWaiting(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"))
	one, pool, idle, late := b.target(t, "one", "id-a"), b.target(t, "pool", ""), b.target(t, "idle", "id-b"), b.target(t, "late", "id-c")
	b.insert(t, one.ID)
	b.insert(t, one.ID)
	b.insert(t, pool.ID)
	done := b.insert(t, idle.ID)
	_, err := b.CancelQueued(b.ctx, tenant, done.ID, "", b.now)
	must(t, err)
	b.insert(t, late.ID, func(k *task.Task) { k.ExpiresAt = b.now })
	got, err := b.WaitingFor(b.ctx, b.now)
	must(t, err)
	slices.SortFunc(got, func(x, y task.Waiting) int { return strings.Compare(x.AgentID, y.AgentID) })
	same(t, "waiting", got, []task.Waiting{{TenantID: tenant}, {TenantID: tenant, AgentID: "id-a"}})
}

func testMissingTask(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"))
	ref := task.Ref{ID: "nothing", Attempt: 1}
	for name, call := range map[string]func() error{
		"Task": func() error { _, err := b.Task(b.ctx, tenant, "nothing"); return err },
		"ClaimTask": func() error {
			_, err := b.ClaimTask(b.ctx, task.Claim{Ref: ref, AgentID: "id-a", At: b.now})
			return err
		},
		"StartTask":     func() error { _, err := b.StartTask(b.ctx, "id-a", ref, b.now); return err },
		"FinishTask":    func() error { _, err := b.FinishTask(b.ctx, task.Finish{Ref: ref, State: api.TaskFailed}); return err },
		"CancelQueued":  func() error { _, err := b.CancelQueued(b.ctx, tenant, "nothing", "", b.now); return err },
		"RequestCancel": func() error { _, err := b.RequestCancel(b.ctx, tenant, "nothing", b.now); return err },
		"Requeue":       func() error { _, err := b.Requeue(b.ctx, ref, "", b.now, b.now); return err },
		"FailLost": func() error {
			_, err := b.FailLost(b.ctx, task.Finish{Ref: ref, State: api.TaskFailed}, b.now)
			return err
		},
		"AppendLog": func() error { _, err := b.AppendLog(b.ctx, ref, 1, []api.LogEntry{{}}, 1000); return err },
		"Log":       func() error { _, _, err := b.Log(b.ctx, "nothing", 0, 10); return err },
	} {
		t.Run(name, func(t *testing.T) { wantFault(t, call(), fault.NotFound, "task_not_found") })
	}
	// Somebody else's task is missing too.
	k := b.insert(t, b.target(t, "web", "id-a").ID)
	_, err := b.CancelQueued(b.ctx, "elsewhere", k.ID, "", b.now)
	wantFault(t, err, fault.NotFound, "task_not_found")
}
