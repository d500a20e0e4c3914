package task_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

// What can never run is refused before anything is queued.
func TestSubmitRefusesWhatCannotRun(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	revoked, deleted := b.agent("revoked"), b.agent("deleted")
	weak := b.agent("weak", func(a *fleet.Agent) { a.Capabilities = []string{"docker.inspect", "host"} })
	dead := b.agent("dead", func(a *fleet.Agent) { a.Capabilities, a.Liveness = nil, api.Dead })
	b.target("of-revoked", revoked.ID)
	b.target("of-deleted", deleted.ID)
	b.target("of-weak", weak.ID)
	b.target("of-dead", dead.ID)
	if _, err := b.fleet.Revoke(b.ctx, tenant, revoked.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.fleet.Delete(b.ctx, tenant, deleted.ID); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*api.TaskRequest)
		kind   fault.Kind
		code   string
	}{
		{"no target", func(r *api.TaskRequest) { r.Target = "nowhere" }, fault.NotFound, "target_not_found"},
		{"agent revoked", func(r *api.TaskRequest) { r.Target = "of-revoked" }, fault.Conflict, "agent_revoked"},
		{"agent deleted", func(r *api.TaskRequest) { r.Target = "of-deleted" }, fault.Conflict, "agent_missing"},
		{"capability missing", func(r *api.TaskRequest) {}, fault.Conflict, "capability_missing"},
		{"no type", func(r *api.TaskRequest) { r.Type = "format-disk" }, fault.Invalid, "invalid"},
		{"no priority", func(r *api.TaskRequest) { r.Type, r.Payload, r.Priority = api.TaskInspect, nil, "urgent" }, fault.Invalid, "invalid"},
		{"bad payload", func(r *api.TaskRequest) { r.Target, r.Payload = "of-dead", []byte(`{}`) }, fault.Invalid, "invalid"},
	} {
		req := deploy("of-weak", "r1", digest("r1"))
		c.change(&req)
		_, _, err := b.Submit(b.ctx, tenant, "tester", req)
		if fault.KindOf(err) != c.kind || fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want code %s", c.name, err, c.code)
		}
	}
	if n := b.count(); n != 0 || len(b.wakes.queued) != 0 {
		t.Errorf("%d tasks were queued, and %d servers woken", n, len(b.wakes.queued))
	}
	// What an agent that is away could do, nobody knows: the task waits.
	b.submit(deploy("of-dead", "r1", digest("r1")))
	// And what the weak one can do, it may.
	b.submit(api.TaskRequest{Type: api.TaskInspect, Target: "of-weak"})
	if diff := slices.Compare(b.wakes.queued, []string{dead.ID, weak.ID}); diff != 0 {
		t.Errorf("woken: %v", b.wakes.queued)
	}
}

func TestIdempotencyKeyReturnsTheFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target("d", b.agent("a").ID)
	req := deploy("d", "r1", digest("r1"))
	req.IdempotencyKey = "key"
	first := b.submit(req)
	b.pass(time.Hour)
	other := deploy("d", "r2", digest("r2"))
	other.IdempotencyKey = "key"
	again, existed, err := b.Submit(b.ctx, tenant, "somebody else", other)
	must(t, err)
	if !existed || again.ID != first.ID || !strings.Contains(string(again.Payload), "r1") || again.CreatedBy != "tester" {
		t.Errorf("existed %v: %+v", existed, again)
	}
	// Not across tenants, and an empty key is none.
	b.submit(deploy("d", "r3", digest("r3")))
	b.submit(deploy("d", "r3", digest("r3")))
	if n := b.count(); n != 3 {
		t.Errorf("%d tasks, want 3", n)
	}
}

// The token is the attempt's, and ends when nobody waits for it any more.
func TestAttemptCarriesItsToken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	req := deploy("d", "r1", digest("r1"))
	req.Timeout = 60
	b.submit(req)
	k := b.next(a)
	if k.Attempt != 1 || k.Timeout != 60 || strings.Count(k.Token, ".") != 2 {
		t.Errorf("%+v", k)
	}
	if want := b.now.Add(16 * time.Minute); !k.ExpiresAt.Equal(want) {
		t.Errorf("it expires at %s, want %s", k.ExpiresAt, want)
	}
}

// A late result is refused with a reason, and what it said is in the audit log.
func TestLateResultIsRefusedAndAudited(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first, second := b.agent("first"), b.agent("second")
	b.target("d", "", shared("web"))
	k := b.submit(deploy("d", "r1", digest("r1")))
	old := b.next(first)
	must(t, b.Accepted(b.ctx, first, task.Ref{ID: k.ID, Attempt: 1}, b.now))
	b.pass(lease + time.Second)
	must(t, task.SweepLeases(b.Service, b.ctx, b.now))
	if got := b.state(k.ID); got.State != api.TaskQueued || !strings.Contains(got.Reason, "first") {
		t.Fatalf("the task is %s: %s", got.State, got.Reason)
	}
	anew := b.next(second)
	if anew.ID != old.ID || anew.Attempt != 2 {
		t.Fatalf("%s attempt %d", anew.ID, anew.Attempt)
	}
	ok, reason, err := b.Finish(b.ctx, first, task.Ref{ID: k.ID, Attempt: 1}, &api.TaskResult{Error: "exploded\nstack", ErrorType: api.ErrSwitchFailed})
	must(t, err)
	if ok || !strings.Contains(reason, "newer attempt") {
		t.Errorf("taken: %v (%s)", ok, reason)
	}
	events := b.audit.of("task.late_result")
	if len(events) != 1 || events[0].Actor != "agent:"+first.ID || events[0].Object != k.ID || events[0].Outcome != "denied" ||
		!strings.Contains(events[0].Detail, "switch_failed exploded") || strings.Contains(events[0].Detail, "stack") {
		t.Errorf("audited: %+v", events)
	}
	b.finish(second, anew, &api.TaskResult{Success: true})
	if got := b.state(k.ID); got.State != api.TaskSucceeded || got.AgentID != second.ID {
		t.Errorf("the task is %s by %s", got.State, got.AgentID)
	}
}

// What ran is handed to another agent only if there is one that can take it;
// the silent one itself is none.
func TestRunningTaskFailsWithItsAgent(t *testing.T) {
	t.Parallel()
	for name, other := range map[string]func(*fleet.Agent){
		"another group":           func(a *fleet.Agent) { a.Group = "db" },
		"without the capability":  func(a *fleet.Agent) { a.Capabilities = []string{"host"} },
		"not heard of for long":   func(a *fleet.Agent) { a.Liveness = api.Dead },
		"deactivated":             func(a *fleet.Agent) { a.Lifecycle = api.LifecycleInactive },
		"one that could (is one)": func(*fleet.Agent) {},
	} {
		b := newBench(t)
		a := b.agent("a")
		b.agent("other", other)
		b.target("d", "", shared("web"))
		k := b.submit(deploy("d", "r1", digest("r1")))
		b.next(a)
		must(t, b.Accepted(b.ctx, a, task.Ref{ID: k.ID, Attempt: 1}, b.now))
		b.pass(lease + time.Second)
		must(t, task.SweepLeases(b.Service, b.ctx, b.now))
		want := api.TaskFailed
		if strings.HasSuffix(name, "(is one)") {
			want = api.TaskQueued
		}
		if got := b.state(k.ID); got.State != want || want == api.TaskFailed && got.Result.ErrorType != api.ErrAgentLost {
			t.Errorf("%s: the task is %s: %+v", name, got.State, got.Result)
		}
	}
}

// The same result may come twice: the acknowledgement of the first was lost.
func TestSameResultTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	b.submit(deploy("d", "r1", digest("r1")))
	k := b.run(a, nil)
	b.finish(a, k, &api.TaskResult{Success: true})
	ok, reason, err := b.Finish(b.ctx, a, task.Ref{ID: k.ID, Attempt: 1}, &api.TaskResult{Error: "no", ErrorType: api.ErrPullFailed})
	must(t, err)
	if ok || reason == "" {
		t.Errorf("another result was taken: %v (%s)", ok, reason)
	}
	if n := len(b.audit.of("task.late_result")); n != 1 {
		t.Errorf("%d late results audited, want 1", n)
	}
	history, err := b.store.Deployments(b.ctx, tenant, b.state(k.ID).TargetID, 10)
	must(t, err)
	if len(history) != 1 {
		t.Errorf("the history has %d entries, want 1", len(history))
	}
}

// An agent that holds an older attempt gets the newer one again, which was
// lost on the way: it must take its number over, or its result is refused.
func TestNewerAttemptLostOnTheWayComesAgain(t *testing.T) {
	t.Parallel()
	for _, polls := range []bool{false, true} {
		b := newBench(t)
		a, other := b.agent("a"), b.agent("other")
		b.target("d", "", shared("web"))
		k := b.submit(deploy("d", "r1", digest("r1")))
		b.next(a)
		must(t, b.Accepted(b.ctx, a, task.Ref{ID: k.ID, Attempt: 1}, b.now))
		b.pass(lease + time.Second)
		must(t, task.SweepLeases(b.Service, b.ctx, b.now)) // the other agent could take it
		_ = other
		b.next(a) // and the first one gets it anew, but this never reaches it
		resume := b.Resume
		if polls {
			resume = b.Pending
		}
		again, cancel, err := resume(b.ctx, a, []task.Ref{{ID: k.ID, Attempt: 1}})
		must(t, err)
		if len(again) != 1 || again[0].Attempt != 2 || len(cancel) != 0 {
			t.Fatalf("polls %v: again %v, cancelled %v; want attempt 2 again", polls, again, cancel)
		}
		// With its number, or with none, it is known.
		for _, attempt := range []int64{2, 0} {
			again, _, err = resume(b.ctx, a, []task.Ref{{ID: k.ID, Attempt: attempt}})
			must(t, err)
			if len(again) != 0 {
				t.Errorf("polls %v: attempt %d came again", polls, attempt)
			}
		}
		if got := b.state(k.ID); got.State != api.TaskRunning {
			t.Errorf("polls %v: the task is %s", polls, got.State)
		}
	}
}

// An agent that polls may name nothing: nothing is concluded from that.
func TestPendingConcludesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	k := b.submit(deploy("d", "r1", digest("r1")))
	b.next(a)
	again, _, err := b.Pending(b.ctx, a, nil)
	must(t, err)
	if len(again) != 1 || again[0].ID != k.ID || again[0].Attempt != 1 {
		t.Fatalf("again: %v", again)
	}
	must(t, b.Accepted(b.ctx, a, task.Ref{ID: k.ID, Attempt: 1}, b.now))
	again, cancel, err := b.Pending(b.ctx, a, nil)
	must(t, err)
	if len(again)+len(cancel) != 0 || b.state(k.ID).State != api.TaskRunning {
		t.Errorf("again %v, cancelled %v, the task is %s", again, cancel, b.state(k.ID).State)
	}
	if _, err := b.Cancel(b.ctx, tenant, k.ID, "tester"); err != nil {
		t.Fatal(err)
	}
	if _, cancel, err = b.Pending(b.ctx, a, nil); err != nil || len(cancel) != 1 {
		t.Errorf("cancelled: %v, %v", cancel, err)
	}
}

// A stale attempt's log is dropped, and said to be stored, so that the agent
// forgets it.
func TestLogOfAStaleAttemptIsDropped(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a, other := b.agent("a"), b.agent("other")
	b.target("d", a.ID)
	k := b.submit(deploy("d", "r1", digest("r1")))
	b.next(a)
	line := []api.LogEntry{{At: b.now, Stream: "stdout", Text: "one"}, {At: b.now, Stream: "stdout", Text: "two"}}
	for _, c := range []struct {
		name    string
		agent   *fleet.Agent
		attempt int64
	}{{"another attempt", a, 7}, {"another agent", other, 1}} {
		last, err := b.AppendLog(b.ctx, c.agent, task.Ref{ID: k.ID, Attempt: c.attempt}, 5, line)
		if err != nil || last != 6 {
			t.Errorf("%s: stored to %d, %v", c.name, last, err)
		}
	}
	for _, attempt := range []int64{1, 0} {
		last, err := b.AppendLog(b.ctx, a, task.Ref{ID: k.ID, Attempt: attempt}, 1, line)
		if err != nil || last != 2 {
			t.Errorf("attempt %d: stored to %d, %v", attempt, last, err)
		}
	}
	entries, _, err := b.Log(b.ctx, k.ID, 0, 100)
	must(t, err)
	if len(entries) != 2 {
		t.Errorf("%d entries are stored, want 2", len(entries))
	}
	if _, err := b.AppendLog(b.ctx, a, task.Ref{ID: "none", Attempt: 1}, 1, line); fault.KindOf(err) != fault.NotFound {
		t.Errorf("no task: %v", err)
	}
}

// Cancelling what runs asks its agent by way of the bus.
func TestCancelAsksTheAgent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	k := b.submit(deploy("d", "r1", digest("r1")))
	b.next(a)
	got, err := b.Cancel(b.ctx, tenant, k.ID, "tester")
	must(t, err)
	if !got.CancelRequested || got.State != api.TaskAssigned || !slices.Equal(b.wakes.cancelled, []task.Ref{{ID: k.ID, Attempt: 1}}) {
		t.Errorf("%s, asked %v: %v", got.State, got.CancelRequested, b.wakes.cancelled)
	}
	if _, err := b.Cancel(b.ctx, tenant, "none", "tester"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("no task: %v", err)
	}
}

// A clock that runs ahead does not write the future into the store.
func TestResultTimesAreNotInTheFuture(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	k := b.submit(deploy("d", "r1", digest("r1")))
	got := b.next(a)
	must(t, b.Accepted(b.ctx, a, task.Ref{ID: k.ID, Attempt: 1}, b.now.Add(time.Hour)))
	b.pass(time.Second)
	b.finish(a, got, &api.TaskResult{Success: true, CompletedAt: b.now.Add(time.Hour)})
	end := b.state(k.ID)
	if end.StartedAt.After(b.now) || end.Result.CompletedAt.After(b.now) || end.Result.StartedAt.IsZero() {
		t.Errorf("started %s, result %+v, now %s", end.StartedAt, end.Result, b.now)
	}
}
