package storetest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/task"
)

func testQueued(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"), b.agent("b"))
	mine, busy, other := b.target(t, "mine", "id-a"), b.target(t, "busy", "id-a"), b.target(t, "other", "id-b")
	pool, closed := b.target(t, "pool", ""), b.target(t, "closed", "")
	at := func(s int, more ...func(*task.Task)) func(*task.Task) {
		return func(k *task.Task) {
			k.CreatedAt = b.now.Add(time.Duration(s) * time.Second)
			for _, f := range more {
				f(k)
			}
		}
	}
	// A change is at work on busy: reading tasks may go there, after others.
	b.claimed(t, b.insert(t, busy.ID, at(0)), "id-a")
	readBusy := b.insert(t, busy.ID, unchanging, at(1))
	b.insert(t, busy.ID, at(2)) // another change waits
	second := b.insert(t, mine.ID, at(4))
	first := b.insert(t, mine.ID, at(3))
	shared := b.insert(t, pool.ID, at(5))
	urgent := b.insert(t, mine.ID, at(9, func(k *task.Task) { k.Priority = 2 }))
	b.insert(t, other.ID, at(0))
	b.insert(t, closed.ID, at(0))
	b.insert(t, mine.ID, func(k *task.Task) { k.ExpiresAt = b.now })
	gone := b.insert(t, mine.ID)
	_, err := b.CancelQueued(b.ctx, tenant, gone.ID, "", b.now)
	must(t, err)

	got, err := b.Queued(b.ctx, tenant, "id-a", []string{pool.ID}, b.now, 64)
	must(t, err)
	var order []string
	for _, c := range got {
		order = append(order, c.Ref.ID)
		k := b.state(t, c.Ref.ID)
		same(t, "candidate", c, task.Candidate{Ref: task.Ref{ID: k.ID, Attempt: k.Attempt}, Capability: k.Capability})
	}
	same(t, "order", order, []string{urgent.ID, first.ID, second.ID, shared.ID, readBusy.ID})

	got, err = b.Queued(b.ctx, tenant, "id-a", nil, b.now, 2)
	must(t, err)
	if len(got) != 2 {
		t.Errorf("%d candidates, want 2", len(got))
	}
	got, err = b.Queued(b.ctx, "elsewhere", "id-a", []string{pool.ID}, b.now, 64)
	must(t, err)
	if len(got) != 0 {
		t.Errorf("another tenant has %d candidates", len(got))
	}
}

func testClaimRefusals(t *testing.T, b *bench) {
	resting, full, other := b.agent("resting"), b.agent("full"), b.agent("other")
	resting.Lifecycle = api.LifecycleInactive
	b.enrol(t, b.agent("a"), resting, full, other)
	tgt := b.target(t, "web", "")
	k := b.insert(t, tgt.ID)
	refused := func(what string, c task.Claim) {
		t.Helper()
		got, err := b.ClaimTask(b.ctx, c)
		must(t, err)
		if got != nil {
			t.Errorf("%s: the task was claimed", what)
		}
	}
	refused("an agent that rests", b.claim(k, "id-resting"))
	refused("no agent", b.claim(k, "nobody"))
	stale := b.claim(k, "id-a")
	stale.Ref.Attempt = 1
	refused("another attempt", stale)
	late := b.claim(k, "id-a")
	late.At = k.ExpiresAt
	refused("past its expiry", late)

	b.claimed(t, k, "id-a")
	refused("claimed before", b.claim(k, "id-other"))
	refused("a second change on the target", b.claim(b.insert(t, tgt.ID), "id-other"))
	b.claimed(t, b.insert(t, tgt.ID, unchanging), "id-other") // reading goes beside a change

	none := b.claim(b.insert(t, tgt.ID, unchanging), "id-full")
	none.MaxActive = 0
	refused("an agent without a slot", none)
	for range 2 {
		c := b.claim(b.insert(t, tgt.ID, unchanging), "id-full")
		c.MaxActive = 2
		if got, err := b.ClaimTask(b.ctx, c); err != nil || got == nil {
			t.Fatalf("the agent has a slot and got none (error %v)", err)
		}
	}
	c := b.claim(b.insert(t, tgt.ID, unchanging), "id-full")
	c.MaxActive = 2
	refused("an agent that is full", c)
}

// testManyClaims: fifty who claim at once, on two servers. Each task is had
// once, no target ever has two changes, no agent more than it may hold.
func testManyClaims(t *testing.T, b *bench) {
	const targets, perTarget, claimers, agents, maxActive = 20, 10, 50, 10, 3
	var queue []*task.Task
	for i := range agents {
		b.enrol(t, b.agent(numbered("a", i)))
	}
	for i := range targets {
		tgt := b.target(t, numbered("t", i), "")
		for range perTarget {
			queue = append(queue, b.insert(t, tgt.ID))
		}
	}
	stores := []*store.Store{b.Store, b.open(t)}

	var mu sync.Mutex
	claims := map[string]int{}
	changing := map[string]int{}
	held := map[string]int{}
	left := len(queue)
	note := func(k *task.Task, by int) error {
		mu.Lock()
		defer mu.Unlock()
		changing[k.TargetID] += by
		held[k.AgentID] += by
		if by > 0 {
			claims[k.ID]++
		} else {
			left--
		}
		if n := changing[k.TargetID]; n > 1 {
			return fmt.Errorf("%d changes at once on %s", n, k.TargetID)
		}
		if n := held[k.AgentID]; n > maxActive {
			return fmt.Errorf("agent %s holds %d tasks", k.AgentID, n)
		}
		return nil
	}
	work := func(s *store.Store, c task.Claim) error {
		k, err := s.ClaimTask(b.ctx, c)
		if err != nil || k == nil {
			return err
		}
		if err := note(k, 1); err != nil {
			return err
		}
		if err := note(k, -1); err != nil { // before it is free in the store
			return err
		}
		done, err := s.FinishTask(b.ctx, task.Finish{Ref: task.Ref{ID: k.ID, Attempt: k.Attempt}, AgentID: k.AgentID, State: api.TaskSucceeded, At: b.now})
		if err == nil && !done {
			err = fmt.Errorf("the holder of task %s could not finish it", k.ID)
		}
		return err
	}
	finished := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return left == 0
	}
	together(t, claimers, func(i int) error {
		for at := i; !finished(); at++ {
			c := b.claim(queue[at*7%len(queue)], "id-"+numbered("a", i%agents))
			c.MaxActive = maxActive
			if err := work(stores[i%2], c); err != nil {
				return err
			}
		}
		return nil
	})
	for _, k := range queue {
		if claims[k.ID] != 1 {
			t.Errorf("task %s was claimed %d times", k.ID, claims[k.ID])
		}
		if got := b.state(t, k.ID); got.State != api.TaskSucceeded || got.Attempt != 1 {
			t.Errorf("task %s is %s in attempt %d", k.ID, got.State, got.Attempt)
		}
	}

	// And without giving any back: an agent gets exactly as many as it may.
	b.enrol(t, b.agent("one"))
	for i := range 30 {
		queue[i] = b.insert(t, b.target(t, numbered("more", i), "").ID)
	}
	got := make([]bool, 30)
	together(t, len(got), func(i int) error {
		c := b.claim(queue[i], "id-one")
		c.MaxActive = maxActive
		k, err := stores[i%2].ClaimTask(b.ctx, c)
		got[i] = k != nil
		return err
	})
	if n := count(got); n != maxActive {
		t.Errorf("the agent got %d tasks, want %d", n, maxActive)
	}
	// The same for one target: of many agents one gets its change.
	tgt := b.target(t, "wanted", "")
	for i := range agents {
		queue[i] = b.insert(t, tgt.ID)
	}
	got = make([]bool, agents)
	together(t, len(got), func(i int) error {
		k, err := stores[i%2].ClaimTask(b.ctx, b.claim(queue[i], "id-"+numbered("a", i)))
		got[i] = k != nil
		return err
	})
	if n := count(got); n != 1 {
		t.Errorf("%d changes of one target were claimed, want 1", n)
	}
}

// testFencing: who lost an attempt changes nothing any more.
func testFencing(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"), b.agent("b"))
	k := b.insert(t, b.target(t, "web", "").ID)
	old := b.claimed(t, k, "id-a")
	oldRef := task.Ref{ID: old.ID, Attempt: old.Attempt}
	after := old.LeaseUntil.Add(time.Second)
	if done, err := b.Requeue(b.ctx, oldRef, "taken back", after, after); err != nil || !done {
		t.Fatalf("the lost attempt was not given back (error %v)", err)
	}
	stale := func(when string) {
		t.Helper()
		before := b.state(t, k.ID)
		for name, call := range map[string]func() (bool, error){
			"start": func() (bool, error) { return b.StartTask(b.ctx, "id-a", oldRef, after) },
			"finish": func() (bool, error) {
				return b.FinishTask(b.ctx, task.Finish{Ref: oldRef, AgentID: "id-a", State: api.TaskSucceeded, At: after})
			},
			"requeue": func() (bool, error) { return b.Requeue(b.ctx, oldRef, "again", after, after) },
			"failLost": func() (bool, error) {
				return b.FailLost(b.ctx, task.Finish{Ref: oldRef, AgentID: "id-a", State: api.TaskFailed, At: after}, after)
			},
			"renew": func() (bool, error) {
				return false, b.RenewLeases(b.ctx, "id-a", []task.Ref{oldRef}, after.Add(time.Hour))
			},
		} {
			if done, err := call(); err != nil || done {
				t.Errorf("%s: %s of a stale attempt did something (error %v)", when, name, err)
			}
		}
		same(t, when, b.state(t, k.ID), before)
	}
	stale("while it is queued")
	got := b.state(t, k.ID)
	if got.State != api.TaskQueued || got.Reason != "taken back" || got.AgentID != "" || !got.AssignedAt.IsZero() || !got.LeaseUntil.IsZero() {
		t.Errorf("the task given back is %+v", got)
	}
	fresh := b.claim(got, "id-b")
	fresh.LeaseUntil = after.Add(time.Minute)
	if k, err := b.ClaimTask(b.ctx, fresh); err != nil || k == nil || k.Attempt != 2 {
		t.Fatalf("the second attempt is %v (error %v)", k, err)
	}
	stale("while another has it")
	// The right hands, but an attempt that they had before.
	again := b.claimed(t, b.insert(t, b.target(t, "again", "").ID), "id-a")
	for _, attempt := range []int64{0, again.Attempt - 1, again.Attempt + 1} {
		ref := task.Ref{ID: again.ID, Attempt: attempt}
		if done, err := b.StartTask(b.ctx, "id-a", ref, after); err != nil || done {
			t.Errorf("attempt %d was begun (error %v)", attempt, err)
		}
		if done, err := b.FinishTask(b.ctx, task.Finish{Ref: ref, AgentID: "id-a", State: api.TaskSucceeded, At: after}); err != nil || done {
			t.Errorf("attempt %d was finished (error %v)", attempt, err)
		}
	}
	// The right attempt in the wrong hands.
	newRef := task.Ref{ID: k.ID, Attempt: 2}
	if done, err := b.StartTask(b.ctx, "id-a", newRef, after); err != nil || done {
		t.Errorf("another agent began the attempt (error %v)", err)
	}
	if done, err := b.FinishTask(b.ctx, task.Finish{Ref: newRef, AgentID: "id-b", State: api.TaskSucceeded, At: after}); err != nil || !done {
		t.Errorf("the holder could not finish (error %v)", err)
	}
	stale("when it is over")
	if done, err := b.FinishTask(b.ctx, task.Finish{Ref: newRef, AgentID: "id-b", State: api.TaskFailed, At: after}); err != nil || done {
		t.Errorf("the task was finished twice (error %v)", err)
	}
}

func testLeases(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"))
	tgt := b.target(t, "web", "id-a")
	var held []*task.Task
	for range 4 {
		held = append(held, b.claimed(t, b.insert(t, tgt.ID, unchanging), "id-a"))
	}
	ref := func(i int) task.Ref { return task.Ref{ID: held[i].ID, Attempt: held[i].Attempt} }
	_, err := b.StartTask(b.ctx, "id-a", ref(0), b.now)
	must(t, err)
	got, err := b.HeldBy(b.ctx, "id-a")
	must(t, err)
	same(t, "held", ids(got), ids(held))
	if got[0].State != api.TaskRunning {
		t.Errorf("the first task is %s", got[0].State)
	}

	later := b.now.Add(time.Hour)
	must(t, b.RenewLeases(b.ctx, "id-a", []task.Ref{ref(0), ref(1), {ID: ref(2).ID, Attempt: 9}, {ID: "nothing", Attempt: 1}}, later))
	must(t, b.RenewLeases(b.ctx, "id-a", []task.Ref{ref(0)}, b.now)) // never shorter
	must(t, b.RenewLeases(b.ctx, "id-a", nil, b.now))
	lost, err := b.LeasesBefore(b.ctx, b.now.Add(2*time.Minute))
	must(t, err)
	same(t, "lost", ids(lost), ids(held[2:]))
	lost, err = b.LeasesBefore(b.ctx, b.now.Add(time.Minute)) // the very moment is not before
	must(t, err)
	same(t, "lost at once", lost, []*task.Task{})

	// A lease that was renewed in time is not lost.
	if done, err := b.Requeue(b.ctx, ref(0), "", later, later); err != nil || done {
		t.Errorf("a task with a good lease was given back (error %v)", err)
	}
	if done, err := b.FailLost(b.ctx, task.Finish{Ref: ref(1), AgentID: "id-a", State: api.TaskFailed, At: later}, later); err != nil || done {
		t.Errorf("a task with a good lease was ended (error %v)", err)
	}
	// One that should stop does not begin anew elsewhere.
	_, err = b.RequestCancel(b.ctx, tenant, held[2].ID, b.now)
	must(t, err)
	if done, err := b.Requeue(b.ctx, ref(2), "", later, later); err != nil || done {
		t.Errorf("a task that should stop was given back (error %v)", err)
	}
	f := task.Finish{Ref: ref(2), AgentID: "id-a", State: api.TaskFailed, Reason: "lost", At: later, Result: &api.TaskResult{TaskID: held[2].ID, ErrorType: api.ErrAgentLost}}
	if done, err := b.FailLost(b.ctx, f, later); err != nil || !done {
		t.Errorf("a lost task was not ended (error %v)", err)
	}
	ended := b.state(t, held[2].ID)
	if ended.State != api.TaskFailed || ended.Reason != "lost" || ended.Result == nil || ended.Result.ErrorType != api.ErrAgentLost {
		t.Errorf("the lost task is %+v", ended)
	}
}

// testLostOnce: of many servers that sweep, one decides.
func testLostOnce(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"))
	k := b.claimed(t, b.insert(t, b.target(t, "web", "id-a").ID), "id-a")
	stores := []*store.Store{b.Store, b.open(t)}
	ref := task.Ref{ID: k.ID, Attempt: k.Attempt}
	after := b.now.Add(time.Hour)
	did := make([]bool, 20)
	together(t, len(did), func(i int) (err error) {
		if i%4 < 2 {
			did[i], err = stores[i%2].Requeue(b.ctx, ref, "lost", after, after)
		} else {
			did[i], err = stores[i%2].FailLost(b.ctx, task.Finish{Ref: ref, AgentID: "id-a", State: api.TaskFailed, At: after}, after)
		}
		return err
	})
	if n := count(did); n != 1 {
		t.Errorf("%d servers decided about the lost task, want 1", n)
	}
}

func testDeployments(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"))
	tgt := b.target(t, "web", "id-a")
	var want []*task.Deployment // the newest first
	for i := range 5 {
		k := b.claimed(t, b.insert(t, tgt.ID), "id-a")
		d := &task.Deployment{
			TaskID: k.ID, TenantID: tenant, TargetID: tgt.ID, ReleaseID: numbered("r", i), Digest: "sha256:x",
			Payload: []byte(`{}`), Sealed: []byte{9}, At: b.now.Add(time.Duration(i) * time.Second),
		}
		f := task.Finish{Ref: task.Ref{ID: k.ID, Attempt: k.Attempt}, AgentID: "nobody", State: api.TaskSucceeded, At: b.now, Deployment: d}
		if done, err := b.FinishTask(b.ctx, f); err != nil || done {
			t.Fatalf("a stranger finished the task (error %v)", err)
		}
		f.AgentID = "id-a"
		if done, err := b.FinishTask(b.ctx, f); err != nil || !done {
			t.Fatalf("the task was not finished (error %v)", err)
		}
		want = append([]*task.Deployment{d}, want...)
	}
	got, err := b.Deployments(b.ctx, tenant, tgt.ID, 10)
	must(t, err)
	same(t, "history", got, want)
	got, err = b.Deployments(b.ctx, tenant, tgt.ID, 2)
	must(t, err)
	same(t, "the last two", got, want[:2])
	got, err = b.Deployments(b.ctx, "elsewhere", tgt.ID, 2)
	must(t, err)
	same(t, "another tenant's", got, []*task.Deployment{})
}
