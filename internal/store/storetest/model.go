package storetest

import (
	"cmp"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/task"
)

// modelTask is what matters of a task, and the rules in a few lines.
type modelTask struct {
	id, target string
	changing   bool
	state      api.TaskState
	agent      string
	attempt    int64
	lease      time.Time
	expires    time.Time
	cancel     bool
}

func (k *modelTask) held() bool { return k.state == api.TaskAssigned || k.state == api.TaskRunning }

func (k *modelTask) heldAs(agent string, attempt int64) bool {
	return k.held() && k.agent == agent && k.attempt == attempt
}

// testTaskModel drives a store and the model with the same calls in any order,
// and compares what they say after each.
func testTaskModel(t *testing.T, b *bench) {
	// Databases are dear: the runs share one, each with things of its own.
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		m := &model{b: b, now: b.now, tasks: nil}
		for _, name := range []string{"x", "y"} {
			b.enrol(t, b.agent(numbered(name, run)))
			m.agents = append(m.agents, "id-"+numbered(name, run))
			m.targets = append(m.targets, b.target(t, numbered("t"+name, run), "").ID)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"insert": m.insert, "claim": m.claim, "start": m.start, "finish": m.finish, "cancel": m.cancel, "requestCancel": m.requestCancel,
			"requeue": m.requeue, "failLost": m.failLost, "renew": m.renew, "expire": m.expire, "wait": m.wait, "": m.check,
		})
		// The next run's sweeps must not find what this one leaves.
		for _, k := range m.tasks {
			_, err := b.CancelQueued(b.ctx, tenant, k.id, "", m.now)
			must(t, err)
		}
	})
}

type model struct {
	b       *bench
	now     time.Time
	agents  []string
	targets []string
	tasks   []*modelTask
}

// pick draws a task, an agent and an attempt; mostly those that fit.
func (m *model) pick(t *rapid.T) (k *modelTask, agent string, attempt int64) {
	if len(m.tasks) == 0 {
		t.Skip("no task yet")
	}
	k = rapid.SampledFrom(m.tasks).Draw(t, "task")
	agent = cmp.Or(k.agent, m.agents[0])
	if rapid.IntRange(0, 4).Draw(t, "other agent") == 0 {
		agent = rapid.SampledFrom(m.agents).Draw(t, "agent")
	}
	attempt = k.attempt
	if rapid.IntRange(0, 4).Draw(t, "other attempt") == 0 {
		attempt += rapid.Int64Range(-1, 1).Draw(t, "attempt")
	}
	return k, agent, attempt
}

func (m *model) agree(t *rapid.T, what string, got bool, err error, want bool) {
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if got != want {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

func (m *model) wait(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds")) * time.Second)
}

func (m *model) insert(t *rapid.T) {
	k := m.b.queued(rapid.SampledFrom(m.targets).Draw(t, "target"))
	k.Changing = rapid.Bool().Draw(t, "changing")
	k.ExpiresAt = m.now.Add(time.Duration(rapid.IntRange(1, 120).Draw(t, "life")) * time.Second)
	first, err := m.b.InsertTask(m.b.ctx, k)
	m.agree(t, "insert", first == nil, err, true)
	m.tasks = append(m.tasks, &modelTask{id: k.ID, target: k.TargetID, changing: k.Changing, state: api.TaskQueued, expires: k.ExpiresAt})
}

func (m *model) claim(t *rapid.T) {
	k, agent, attempt := m.pick(t)
	maxActive := rapid.IntRange(0, 3).Draw(t, "max active")
	lease := m.now.Add(30 * time.Second)
	got, err := m.b.ClaimTask(m.b.ctx, task.Claim{Ref: task.Ref{ID: k.id, Attempt: attempt}, AgentID: agent, MaxActive: maxActive, LeaseUntil: lease, At: m.now})
	holds, busy := 0, false
	for _, o := range m.tasks {
		if o.held() && o.agent == agent {
			holds++
		}
		busy = busy || o.held() && o.changing && o.target == k.target
	}
	want := k.state == api.TaskQueued && attempt == k.attempt && k.expires.After(m.now) && holds < maxActive && !(k.changing && busy)
	m.agree(t, "claim", got != nil, err, want)
	if want {
		k.state, k.agent, k.lease, k.cancel = api.TaskAssigned, agent, lease, false
		k.attempt++
	}
}

func (m *model) start(t *rapid.T) {
	k, agent, attempt := m.pick(t)
	got, err := m.b.StartTask(m.b.ctx, agent, task.Ref{ID: k.id, Attempt: attempt}, m.now)
	want := k.heldAs(agent, attempt) && k.state == api.TaskAssigned
	m.agree(t, "start", got, err, want)
	if want {
		k.state = api.TaskRunning
	}
}

func (m *model) finish(t *rapid.T) {
	k, agent, attempt := m.pick(t)
	state := rapid.SampledFrom([]api.TaskState{api.TaskSucceeded, api.TaskFailed, api.TaskCancelled}).Draw(t, "state")
	got, err := m.b.FinishTask(m.b.ctx, task.Finish{Ref: task.Ref{ID: k.id, Attempt: attempt}, AgentID: agent, State: state, At: m.now})
	want := k.heldAs(agent, attempt)
	m.agree(t, "finish", got, err, want)
	if want {
		k.state = state
	}
}

func (m *model) cancel(t *rapid.T) {
	k, _, _ := m.pick(t)
	got, err := m.b.CancelQueued(m.b.ctx, tenant, k.id, "", m.now)
	want := k.state == api.TaskQueued
	m.agree(t, "cancel", got, err, want)
	if want {
		k.state = api.TaskCancelled
	}
}

func (m *model) requestCancel(t *rapid.T) {
	k, _, _ := m.pick(t)
	got, err := m.b.RequestCancel(m.b.ctx, tenant, k.id, m.now)
	m.agree(t, "request cancel", got, err, k.held())
	k.cancel = k.cancel || k.held()
}

func (m *model) requeue(t *rapid.T) {
	k, _, attempt := m.pick(t)
	got, err := m.b.Requeue(m.b.ctx, task.Ref{ID: k.id, Attempt: attempt}, "", m.now, m.now)
	want := k.heldAs(k.agent, attempt) && k.lease.Before(m.now) && !k.cancel
	m.agree(t, "requeue", got, err, want)
	if want {
		k.state, k.agent = api.TaskQueued, ""
	}
}

func (m *model) failLost(t *rapid.T) {
	k, agent, attempt := m.pick(t)
	got, err := m.b.FailLost(m.b.ctx, task.Finish{Ref: task.Ref{ID: k.id, Attempt: attempt}, AgentID: agent, State: api.TaskFailed, At: m.now}, m.now)
	want := k.heldAs(agent, attempt) && k.lease.Before(m.now)
	m.agree(t, "fail lost", got, err, want)
	if want {
		k.state = api.TaskFailed
	}
}

func (m *model) renew(t *rapid.T) {
	k, agent, attempt := m.pick(t)
	until := m.now.Add(30 * time.Second)
	err := m.b.RenewLeases(m.b.ctx, agent, []task.Ref{{ID: k.id, Attempt: attempt}}, until)
	m.agree(t, "renew", true, err, true)
	if k.heldAs(agent, attempt) && k.lease.Before(until) {
		k.lease = until
	}
}

func (m *model) expire(t *rapid.T) {
	expired, err := m.b.ExpireQueued(m.b.ctx, m.now)
	m.agree(t, "expire", true, err, true)
	got := map[string]bool{}
	for _, k := range expired {
		got[k.ID] = true
	}
	for _, k := range m.tasks {
		want := k.state == api.TaskQueued && !k.expires.After(m.now)
		m.agree(t, "expired", got[k.id], nil, want)
		if want {
			k.state = api.TaskExpired
		}
	}
}

// check compares every task.
func (m *model) check(t *rapid.T) {
	for _, k := range m.tasks {
		got, err := m.b.Task(m.b.ctx, tenant, k.id)
		if err != nil {
			t.Fatal(err)
		}
		if got.State != k.state || got.Attempt != k.attempt || got.AgentID != k.agent || got.CancelRequested != k.cancel {
			t.Fatalf("task %s is %s in attempt %d of %q (cancel %v), want %s in %d of %q (%v)",
				k.id, got.State, got.Attempt, got.AgentID, got.CancelRequested, k.state, k.attempt, k.agent, k.cancel)
		}
		if k.held() && !got.LeaseUntil.Equal(k.lease) {
			t.Fatalf("the lease of task %s ends at %s, want %s", k.id, got.LeaseUntil, k.lease)
		}
	}
}
