package task_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

// modelTask is the documented state machine in a few fields.
type modelTask struct {
	id, target, key string
	shared          bool
	changing        bool
	priority        int
	state           api.TaskState
	agent           string
	attempt         int64
	lease           time.Time
	created         time.Time
	expires         time.Time
	cancel          bool
	result          *api.TaskResult // what matters of it
}

func (k *modelTask) held() bool { return k.state == api.TaskAssigned || k.state == api.TaskRunning }

// modelAgent is an agent; reaches are the targets that it may serve.
type modelAgent struct {
	*fleet.Agent
	reaches []string
}

// model drives the service and compares all that it says.
type model struct {
	b       *bench
	agents  []*modelAgent
	targets []string // the first names its agent, the others have a selector
	tasks   []*modelTask
	keys    []string
	late    int // results that were refused
}

// TestServiceFollowsItsStateMachine has people, agents and the clock do
// whatever comes to their mind, and holds the service to the package's
// drawing after each step.
func TestServiceFollowsItsStateMachine(t *testing.T) {
	t.Parallel()
	// A database is dear: the runs share one, each with things of its own.
	b := newBench(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		b.audit.events = nil
		m := &model{b: b, keys: []string{"", "", fmt.Sprintf("k1-%d", run), fmt.Sprintf("k2-%d", run)}}
		group := fmt.Sprintf("g%d", run)
		owned := fmt.Sprintf("owned-%d", run)
		for _, name := range []string{"x", "y"} {
			m.agents = append(m.agents, &modelAgent{Agent: b.agent(fmt.Sprintf("%s-%d", name, run), func(a *fleet.Agent) { a.Group = group })})
		}
		m.targets = append(m.targets, b.target(owned, m.agents[0].ID).ID)
		for _, name := range []string{"s", "t"} {
			m.targets = append(m.targets, b.target(fmt.Sprintf("%s-%d", name, run), "", shared(group)).ID)
		}
		m.agents[0].reaches, m.agents[1].reaches = m.targets, m.targets[1:]
		defer m.end()
		rt.Repeat(map[string]func(*rapid.T){
			"submit": m.submit, "submit more": m.submit, "next": m.next, "next again": m.next, "accept": m.accept,
			"finish": m.finish, "finish the latest": m.finish, "cancel": m.cancel, "renew": m.renew, "resume": m.resume,
			"pass time": m.passTime, "sweep": m.sweep, "life cycle": m.lifecycle, "": m.check,
		})
	})
}

// pick draws an agent and an attempt at a task; mostly the ones that fit.
func (m *model) pick(t *rapid.T) (k *modelTask, a *modelAgent, attempt int64) {
	if len(m.tasks) == 0 {
		t.Skip("no task yet")
	}
	k = rapid.SampledFrom(m.tasks).Draw(t, "task")
	a = rapid.SampledFrom(m.agents).Draw(t, "agent")
	if rapid.IntRange(0, 3).Draw(t, "fits") > 0 {
		if i := slices.IndexFunc(m.agents, func(a *modelAgent) bool { return a.ID == k.agent }); i >= 0 {
			a = m.agents[i]
		}
	}
	return k, a, k.attempt + rapid.SampledFrom([]int64{0, 0, 0, -1, 1}).Draw(t, "attempt")
}

func (m *model) of(agent string) *modelAgent {
	return m.agents[slices.IndexFunc(m.agents, func(a *modelAgent) bool { return a.ID == agent })]
}

func (m *model) submit(t *rapid.T) {
	i := rapid.IntRange(0, len(m.targets)-1).Draw(t, "target")
	k := &modelTask{
		target: m.targets[i], shared: i > 0, key: rapid.SampledFrom(m.keys).Draw(t, "key"), changing: rapid.Bool().Draw(t, "changing"),
		priority: rapid.IntRange(-1, 2).Draw(t, "priority"), state: api.TaskQueued, created: m.b.now,
	}
	wait := rapid.Int64Range(1, 300).Draw(t, "delivery timeout")
	k.expires = m.b.now.Add(time.Duration(wait) * time.Second)
	req := api.TaskRequest{Type: api.TaskInspect, Target: k.target}
	if k.changing {
		req = deploy(k.target, "r1", digest("app"))
	}
	req.DeliveryTimeout, req.Priority, req.IdempotencyKey = wait, task.PriorityName(k.priority), k.key
	got, existed, err := m.b.Submit(m.b.ctx, tenant, "tester", req)
	first := slices.IndexFunc(m.tasks, func(o *modelTask) bool { return k.key != "" && o.key == k.key })
	if first < 0 && !k.shared && m.agents[0].Lifecycle == api.LifecycleRevoked {
		wantFault(m.b.t, err, fault.Conflict, "agent_revoked")
		return
	}
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	if first >= 0 {
		if !existed || got.ID != m.tasks[first].id {
			t.Fatalf("key %s gave task %s (existed %v), first was %s", k.key, got.ID, existed, m.tasks[first].id)
		}
		return
	}
	if existed {
		t.Fatalf("task %s is said to have existed", got.ID)
	}
	k.id = got.ID
	m.tasks = append(m.tasks, k)
}

// may returns the task that an agent is to get next, by the store's promise:
// by priority, then targets with less at work, then age.
func (m *model) may(a *modelAgent, maxActive int) *modelTask {
	if a.Lifecycle != api.LifecycleActive || m.count(func(k *modelTask) bool { return k.held() && k.agent == a.ID }) >= maxActive {
		return nil
	}
	var fit []*modelTask
	for _, k := range m.tasks {
		busy := k.changing && m.count(func(o *modelTask) bool { return o.held() && o.changing && o.target == k.target }) > 0
		if k.state == api.TaskQueued && k.expires.After(m.b.now) && slices.Contains(a.reaches, k.target) && !busy {
			fit = append(fit, k)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	work := func(k *modelTask) int {
		return m.count(func(o *modelTask) bool { return o.held() && o.target == k.target })
	}
	return slices.MinFunc(fit, func(x, y *modelTask) int {
		return cmp.Or(-cmp.Compare(x.priority, y.priority), cmp.Compare(work(x), work(y)), x.created.Compare(y.created), cmp.Compare(x.id, y.id))
	})
}

func (m *model) count(is func(*modelTask) bool) int {
	n := 0
	for _, k := range m.tasks {
		if is(k) {
			n++
		}
	}
	return n
}

func (m *model) next(t *rapid.T) {
	a := rapid.SampledFrom(m.agents).Draw(t, "agent")
	maxActive := rapid.IntRange(0, 3).Draw(t, "max active")
	want := m.may(a, cmp.Or(maxActive, task.DefaultMaxActive))
	got, err := m.b.Next(m.b.ctx, a.Agent, maxActive)
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	switch {
	case got == nil && want == nil:
		return
	case got == nil:
		t.Fatalf("%s got nothing, want task %s", a.Name, want.id)
	case want == nil:
		t.Fatalf("%s (%s) got task %s, want none", a.Name, a.Lifecycle, got.ID)
	case got.ID != want.id || got.Attempt != want.attempt+1:
		t.Fatalf("%s got task %s attempt %d, want %s attempt %d", a.Name, got.ID, got.Attempt, want.id, want.attempt+1)
	}
	want.state, want.agent, want.attempt, want.lease, want.cancel = api.TaskAssigned, a.ID, want.attempt+1, m.b.now.Add(lease), false
}

func (m *model) accept(t *rapid.T) {
	k, a, attempt := m.pick(t)
	if err := m.b.Accepted(m.b.ctx, a.Agent, task.Ref{ID: k.id, Attempt: attempt}, m.b.now); err != nil {
		t.Fatalf("accept: %v", err)
	}
	if k.state == api.TaskAssigned && k.agent == a.ID && k.attempt == attempt {
		k.state = api.TaskRunning
	}
}

func (m *model) finish(t *rapid.T) {
	k, a, attempt := m.pick(t)
	r := rapid.SampledFrom([]api.TaskResult{
		{Success: true}, {Error: "no", ErrorType: api.ErrHealthCheckFailed}, {Error: "stopped", ErrorType: api.ErrCancelled},
	}).Draw(t, "result")
	said := attempt
	if attempt == k.attempt && rapid.Bool().Draw(t, "leaves the attempt out") {
		said = 0
	}
	if said == 0 {
		attempt = k.attempt // so a simple client says that it means the current one
	}
	sent := r
	got, reason, err := m.b.Finish(m.b.ctx, a.Agent, task.Ref{ID: k.id, Attempt: said}, &sent)
	if err != nil {
		t.Fatalf("finish: %v", err)
	}
	mine := k.agent == a.ID && k.attempt == attempt
	taken := mine && k.held()
	again := mine && k.result != nil && k.result.Success == r.Success && k.result.ErrorType == r.ErrorType
	if got != (taken || again) {
		t.Fatalf("the result was taken: %v (%s), want %v", got, reason, taken || again)
	}
	if !got {
		if m.late++; reason == "" {
			t.Fatal("a result was refused without a reason")
		}
	}
	if !taken {
		return
	}
	k.result = &r
	switch {
	case r.Success:
		k.state = api.TaskSucceeded
	case r.ErrorType == api.ErrCancelled:
		k.state = api.TaskCancelled
	default:
		k.state = api.TaskFailed
	}
}

func (m *model) cancel(t *rapid.T) {
	k, _, _ := m.pick(t)
	got, err := m.b.Cancel(m.b.ctx, tenant, k.id, "tester")
	if k.state.Final() {
		wantFault(m.b.t, err, fault.Conflict, "task_finished")
		return
	}
	if err != nil {
		t.Fatalf("cancel: %v", err)
	}
	if k.state == api.TaskQueued {
		k.state = api.TaskCancelled
	} else {
		k.cancel = true
	}
	if got.State != k.state {
		t.Fatalf("cancel answers %s, want %s", got.State, k.state)
	}
}

func (m *model) renew(t *rapid.T) {
	k, a, attempt := m.pick(t)
	if err := m.b.Renew(m.b.ctx, a.ID, []task.Ref{{ID: k.id, Attempt: attempt}}); err != nil {
		t.Fatalf("renew: %v", err)
	}
	if k.held() && k.agent == a.ID && k.attempt == attempt {
		k.lease = m.b.now.Add(lease)
	}
}

// resume has an agent connect and name a part of what it holds.
func (m *model) resume(t *rapid.T) {
	a := rapid.SampledFrom(m.agents).Draw(t, "agent")
	var held []task.Ref
	var wantAgain, wantCancel []string
	for _, k := range m.tasks {
		if !k.held() || k.agent != a.ID {
			continue
		}
		switch known := rapid.Bool().Draw(t, "known"); {
		case known:
			held = append(held, task.Ref{ID: k.id, Attempt: k.attempt})
			k.state, k.lease = api.TaskRunning, m.b.now.Add(lease)
			if k.cancel {
				wantCancel = append(wantCancel, k.id)
			}
		case k.state == api.TaskRunning:
			k.state, k.result = api.TaskFailed, &api.TaskResult{ErrorType: api.ErrAgentLost}
		case k.cancel:
			k.state = api.TaskCancelled
		case a.Lifecycle != api.LifecycleActive:
			// Not now; its lease decides.
		default:
			wantAgain = append(wantAgain, k.id)
		}
	}
	again, cancel, err := m.b.Resume(m.b.ctx, a.Agent, held)
	if err != nil {
		t.Fatalf("resume: %v", err)
	}
	var gotAgain, gotCancel []string
	for _, k := range again {
		gotAgain = append(gotAgain, k.ID)
	}
	for _, r := range cancel {
		gotCancel = append(gotCancel, r.ID)
	}
	for _, list := range [][]string{gotAgain, gotCancel, wantAgain, wantCancel} {
		slices.Sort(list)
	}
	if !slices.Equal(gotAgain, wantAgain) || !slices.Equal(gotCancel, wantCancel) {
		t.Fatalf("resume gave %v again and cancelled %v, want %v and %v", gotAgain, gotCancel, wantAgain, wantCancel)
	}
}

func (m *model) passTime(t *rapid.T) {
	m.b.pass(time.Duration(rapid.IntRange(1, 150).Draw(t, "seconds")) * time.Second)
}

// sweep is what Run does each second.
func (m *model) sweep(t *rapid.T) {
	if _, err := m.b.store.ExpireQueued(m.b.ctx, m.b.now); err != nil {
		t.Fatal(err)
	}
	for _, k := range m.tasks {
		if k.state == api.TaskQueued && !k.expires.After(m.b.now) {
			k.state = api.TaskExpired
		}
	}
	if err := task.SweepLeases(m.b.Service, m.b.ctx, m.b.now); err != nil {
		t.Fatal(err)
	}
	for _, k := range m.tasks {
		if !k.held() || !k.lease.Before(m.b.now) {
			continue
		}
		other := slices.ContainsFunc(m.agents, func(a *modelAgent) bool { return a.ID != k.agent && a.Lifecycle == api.LifecycleActive })
		switch {
		case k.cancel && k.state == api.TaskAssigned:
			k.state = api.TaskCancelled
		case !k.cancel && (k.state == api.TaskAssigned || k.attempt < 3 && k.shared && other):
			k.state, k.agent = api.TaskQueued, ""
		default:
			k.state, k.result = api.TaskFailed, &api.TaskResult{ErrorType: api.ErrAgentLost}
		}
	}
}

func (m *model) lifecycle(t *rapid.T) {
	a := rapid.SampledFrom(m.agents).Draw(t, "agent")
	var got *fleet.Agent
	var err error
	switch rapid.IntRange(0, 7).Draw(t, "change") {
	case 0:
		got, err = m.b.fleet.Revoke(m.b.ctx, tenant, a.ID)
	case 1, 2:
		got, err = m.b.fleet.Deactivate(m.b.ctx, tenant, a.ID)
	default:
		got, err = m.b.fleet.Activate(m.b.ctx, tenant, a.ID)
	}
	if a.Lifecycle == api.LifecycleRevoked && err != nil {
		wantFault(m.b.t, err, fault.Conflict, "agent_revoked")
		return
	}
	if err != nil {
		t.Fatalf("life cycle: %v", err)
	}
	if a.Lifecycle == api.LifecycleRevoked && got.Lifecycle != api.LifecycleRevoked {
		t.Fatal("a revoked agent came back")
	}
	a.Agent = got
}

// check compares every task, and holds the promises that need no model.
func (m *model) check(t *rapid.T) {
	changes := map[string]int{}
	for _, want := range m.tasks {
		got, err := m.b.Get(m.b.ctx, tenant, want.id)
		if err != nil {
			t.Fatal(err)
		}
		if got.State != want.state || got.Attempt != want.attempt || got.AgentID != want.agent || got.CancelRequested != want.cancel && !got.State.Final() {
			t.Fatalf("task %s is %s (%s), attempt %d of %q, cancel %v; want %s, attempt %d of %q, cancel %v",
				want.id, got.State, got.Reason, got.Attempt, got.AgentID, got.CancelRequested, want.state, want.attempt, want.agent, want.cancel)
		}
		if want.held() && want.changing {
			if changes[want.target]++; changes[want.target] > 1 {
				t.Fatalf("two changes are at work on target %s", want.target)
			}
		}
		if got.State.Final() && got.FinishedAt.IsZero() {
			t.Fatalf("task %s has ended and does not say when", got.ID)
		}
	}
	for _, a := range m.agents {
		if n := m.count(func(k *modelTask) bool { return k.held() && k.agent == a.ID }); n > task.DefaultMaxActive {
			t.Fatalf("%s holds %d tasks", a.Name, n)
		}
	}
	if n := len(m.b.audit.of("task.late_result")); n != m.late {
		t.Fatalf("%d late results were audited, want %d", n, m.late)
	}
}

// end leaves nothing that the next run's sweeps would find.
func (m *model) end() {
	for _, k := range m.tasks {
		switch {
		case k.state == api.TaskQueued:
			_, err := m.b.Cancel(m.b.ctx, tenant, k.id, "the test")
			must(m.b.t, err)
		case k.held():
			_, _, err := m.b.Finish(m.b.ctx, m.of(k.agent).Agent, task.Ref{ID: k.id, Attempt: k.attempt}, &api.TaskResult{Success: true})
			must(m.b.t, err)
		}
	}
}
