package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/rollout"
	"stella-ops.org/stella/internal/task"
)

// flaky is the real store, which fails where the test says: what a server that
// dies there leaves behind.
type flaky struct {
	rollout.Store
	fail func() bool
}

var errDied = errors.New("the server died here")

func (f *flaky) UpdateRollout(ctx context.Context, r *rollout.Rollout) (bool, error) {
	if f.fail() {
		return false, errDied
	}
	return f.Store.UpdateRollout(ctx, r)
}

// Whatever targets do, in whatever order servers look, die and look again: no
// more targets are worked on than may be, none is deployed to twice, the limit
// of failures and the pause hold, and the end says what happened.
func TestRolloutModel(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		m := &model{T: t, bench: b, run: n, before: map[string]string{}}
		m.setUp()
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			m.step()
			m.check()
		}
		m.toTheEnd()
	})
}

type model struct {
	*rapid.T
	*bench
	run     int
	size    int
	req     api.RolloutRequest
	id      string
	servers []*rollout.Service
	dying   bool
	resumed bool
	retried bool
	before  map[string]string // what targets ran
	byHand  bool              // a person has cancelled it or rolled it back
}

func (m *model) setUp() {
	m.size = rapid.IntRange(1, 6).Draw(m.T, "targets")
	m.req = api.RolloutRequest{
		MaxParallel: rapid.IntRange(1, 4).Draw(m.T, "parallel"), MaxFailures: rapid.IntRange(1, 3).Draw(m.T, "failures"),
		PauseAfter: rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(m.T, "pause"),
		OnFailure:  rapid.SampledFrom([]api.OnFailure{api.OnFailureStop, api.OnFailureRollbackFailed, api.OnFailureRollbackAll}).Draw(m.T, "onFailure"),
		Payload:    payload("new"),
	}
	agent := m.agent(fmt.Sprintf("a%d", m.run))
	for i := range m.size {
		name := fmt.Sprintf("t%d-%d", m.run, i)
		m.target(name, agent.ID)
		if rapid.IntRange(0, 3).Draw(m.T, "history") > 0 {
			m.deployed(agent, name, "old")
			m.before[name] = "old"
		}
		m.req.Targets = append(m.req.Targets, name)
	}
	for range 2 {
		m.servers = append(m.servers, m.service(&flaky{Store: m.store, fail: func() bool { return m.dying && rapid.Bool().Draw(m.T, "dies") }}))
	}
	r, _, err := m.servers[0].Create(m.ctx, tenant, "tester", m.req)
	if err != nil {
		m.Fatal(err)
	}
	m.id = r.ID
}

func (m *model) rollout() *rollout.Rollout {
	r, err := m.store.Rollout(m.ctx, tenant, m.id)
	if err != nil {
		m.Fatal(err)
	}
	return r
}

func (m *model) advance() {
	m.dying = true
	err := rapid.SampledFrom(m.servers).Draw(m.T, "server").Advance(m.ctx, rollout.Ref{TenantID: tenant, ID: m.id})
	m.dying = false
	if err != nil && !errors.Is(err, errDied) {
		m.Fatal(err)
	}
}

// finishOne has the agent take a task of the rollout's and end it.
func (m *model) finishOne() {
	a := m.agentNamed(fmt.Sprintf("a%d", m.run))
	k, err := m.tasks.Next(m.ctx, a, 100)
	if err != nil {
		m.Fatal(err)
	}
	if k == nil {
		return
	}
	res := rapid.SampledFrom([]api.TaskResult{
		{Success: true},
		{Success: true},
		{Success: true},
		{Error: "unhealthy", ErrorType: api.ErrHealthCheckFailed, RolledBack: true},
		{Error: "hook", ErrorType: api.ErrPreHookFailed},
		{Error: "broken", ErrorType: api.ErrRollbackFailed},
	}).Draw(m.T, "result")
	if k.Type == api.TaskRollback {
		res.Outputs = map[string]any{"releaseId": "old"}
	} else {
		res.Outputs = map[string]any{"releaseId": "new"}
	}
	if ok, why, err := m.tasks.Finish(m.ctx, a, task.Ref{ID: k.ID, Attempt: k.Attempt}, &res); err != nil || !ok {
		m.Fatalf("%v %s", err, why)
	}
}

func (m *model) step() {
	m.pass(time.Second)
	person := m.service(m.store)
	switch rapid.IntRange(0, 20).Draw(m.T, "step") {
	case 0:
		_, err := person.Pause(m.ctx, tenant, m.id, "tester")
		m.allowed(err)
	case 1:
		retry := rapid.Bool().Draw(m.T, "retry")
		if _, err := person.Resume(m.ctx, tenant, m.id, "tester", retry); err == nil {
			m.resumed, m.retried = true, m.retried || retry
		} else {
			m.allowed(err)
		}
	case 2:
		if _, err := person.Cancel(m.ctx, tenant, m.id, "tester"); err == nil {
			m.byHand = true
		} else {
			m.allowed(err)
		}
	case 3:
		if _, err := person.Rollback(m.ctx, tenant, m.id, "tester"); err == nil {
			m.byHand = true
		} else {
			m.allowed(err)
		}
	case 4, 5, 6, 7, 8, 9, 10:
		m.finishOne()
	default:
		m.advance()
	}
}

// all are the tasks of the rollout's targets, without those of before.
func (m *model) all() (out []*task.Task) {
	for _, name := range m.req.Targets {
		tgt, err := m.tgts.Get(m.ctx, tenant, name)
		if err != nil {
			m.Fatal(err)
		}
		list, err := m.tasks.List(m.ctx, tenant, task.Filter{TargetID: tgt.ID})
		if err != nil {
			m.Fatal(err)
		}
		out = append(out, slices.DeleteFunc(list, func(k *task.Task) bool { return k.CreatedBy == "history" })...)
	}
	return out
}

func (m *model) check() {
	r := m.rollout()
	open, deploys := 0, map[string]int{}
	for _, k := range m.all() {
		if !k.State.Final() {
			open++
		}
		if k.Type == api.TaskDeploy {
			deploys[k.TargetName]++
		}
	}
	if open > m.req.MaxParallel {
		m.Fatalf("%d tasks are under way, and %d may be", open, m.req.MaxParallel)
	}
	for name, n := range deploys {
		if n > 1 && !m.retried {
			m.Fatalf("%s was deployed to %d times", name, n)
		}
	}
	if m.req.PauseAfter > 0 && !m.resumed && len(deploys) > m.req.PauseAfter {
		m.Fatalf("%d targets were begun, and it pauses after %d", len(deploys), m.req.PauseAfter)
	}
	counts := r.Counts()
	if n := counts[api.RolloutTargetFailed]; !m.resumed && n > m.req.MaxFailures+m.req.MaxParallel-1 {
		m.Fatalf("%d failed, of at most %d", n, m.req.MaxFailures)
	}
	if r.State == api.RolloutSucceeded && counts[api.RolloutTargetSucceeded] != m.size {
		m.Fatalf("succeeded with %v", counts)
	}
	if r.State.Final() && counts[api.RolloutTargetRunning]+counts[api.RolloutTargetRollingBack]+counts[api.RolloutTargetPending] > 0 {
		m.Fatalf("%s with %v", r.State, counts)
	}
	if r.State == api.RolloutStopped && counts[api.RolloutTargetRunning] > 0 {
		m.Fatalf("stopped with %v", counts)
	}
	if r.State.Final() != !r.FinishedAt.IsZero() {
		m.Fatalf("%s, finished at %v", r.State, r.FinishedAt)
	}
}

// toTheEnd has everything happen that still can, with nobody interfering.
func (m *model) toTheEnd() {
	last := m.service(m.store)
	for i := 0; ; i++ {
		if i > 200 {
			m.Fatalf("it does not come to an end: %+v", m.rollout())
		}
		m.pass(time.Second)
		if err := last.Advance(m.ctx, rollout.Ref{TenantID: tenant, ID: m.id}); err != nil {
			m.Fatal(err)
		}
		r := m.rollout()
		if r.State.Final() {
			break
		}
		if r.State == api.RolloutPaused || r.State == api.RolloutStopped {
			open := slices.ContainsFunc(m.all(), func(k *task.Task) bool { return !k.State.Final() })
			if !open {
				if _, err := last.Resume(m.ctx, tenant, m.id, "tester", false); err != nil {
					m.Fatal(err)
				}
				m.resumed = true
			}
		}
		m.finishOne()
		m.check()
	}
	m.check()
	m.truth()
}

// truth holds the end against what is deployed now.
func (m *model) truth() {
	r := m.rollout()
	for i := range r.Targets {
		t := &r.Targets[i]
		current, err := m.tasks.Current(m.ctx, tenant, t.ID)
		if err != nil {
			m.Fatal(err)
		}
		runs := ""
		if current != nil {
			runs = current.ReleaseID
		}
		switch t.State {
		case api.RolloutTargetSucceeded:
			if runs != "new" {
				m.Fatalf("%s succeeded and runs %q", t.Name, runs)
			}
			if r.State == api.RolloutRolledBack {
				m.Fatalf("%s was left alone by a rollback of all: %+v", t.Name, r.Plan)
			}
		case api.RolloutTargetRolledBack:
			if runs != t.From || t.From == "" || t.From != m.before[t.Name] {
				m.Fatalf("%s is rolled back to %q and runs %q", t.Name, t.From, runs)
			}
		case api.RolloutTargetSkipped, api.RolloutTargetFailed:
			if runs != m.before[t.Name] {
				m.Fatalf("%s was %s and runs %q instead of %q", t.Name, t.State, runs, m.before[t.Name])
			}
		}
	}
	counts := r.Counts()
	if r.State == api.RolloutFailed && counts[api.RolloutTargetFailed]+counts[api.RolloutTargetRollbackFailed]+counts[api.RolloutTargetRolledBack] == 0 && !m.byHand {
		m.Fatalf("failed without a failure: %v", counts)
	}
}

// allowed takes what people are told when something cannot be done now.
func (m *model) allowed(err error) {
	switch fault.CodeOf(err) {
	case "rollout_state", "rollout_busy", "rollout_unchanged":
	default:
		if err != nil {
			m.Fatal(err)
		}
	}
}
