package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/rollout"
	"stella-ops.org/stella/internal/task"
)

// story is one rollout over targets that ran release old, or nothing.
type story struct {
	*bench
	agent *fleet.Agent
	svc   *rollout.Service
	id    string
}

func newStory(t *testing.T, change func(*api.RolloutRequest), targets ...string) *story {
	t.Helper()
	s := &story{bench: newBench(t)}
	s.agent, s.svc = s.bench.agent("a"), s.service(s.store)
	req := api.RolloutRequest{Payload: payload("new")}
	for _, name := range targets {
		name, fresh := strings.CutSuffix(name, "*")
		s.target(name, s.agent.ID)
		if !fresh {
			s.deployed(s.agent, name, "old")
		}
		req.Targets = append(req.Targets, name)
	}
	if change != nil {
		change(&req)
	}
	r, _, err := s.svc.Create(s.ctx, tenant, "tester", req)
	must(t, err)
	s.id = r.ID
	return s
}

func (s *story) move() *rollout.Rollout {
	s.t.Helper()
	s.pass(time.Second)
	must(s.t, s.svc.Advance(s.ctx, rollout.Ref{TenantID: tenant, ID: s.id}))
	r, err := s.svc.Get(s.ctx, tenant, s.id)
	must(s.t, err)
	return r
}

// ends has the agent end the next task, and checks its type.
func (s *story) ends(kind api.TaskType, res *api.TaskResult) {
	s.t.Helper()
	s.move()
	if res.Success && res.Outputs == nil {
		res.Outputs = map[string]any{"releaseId": map[api.TaskType]string{api.TaskDeploy: "new", api.TaskRollback: "old"}[kind]}
	}
	if k := s.finish(s.agent, res); k.Type != kind {
		s.t.Fatalf("a %s was begun, want a %s", k.Type, kind)
	}
}

func well() *api.TaskResult { return &api.TaskResult{Success: true} }

// stands checks a rollout's state, and its targets' in their order.
func (s *story) stands(state api.RolloutState, reason string, targets ...api.RolloutTargetState) *rollout.Rollout {
	s.t.Helper()
	r := s.move()
	var have []api.RolloutTargetState
	for i := range r.Targets {
		have = append(have, r.Targets[i].State)
	}
	if diff := cmp.Diff(targets, have); diff != "" || r.State != state || !strings.Contains(r.Reason, reason) {
		s.t.Fatalf("%s: %s %v, want %s: %s %v", r.State, r.Reason, have, state, reason, targets)
	}
	return r
}

// idle checks that nothing is to be done.
func (s *story) idle() {
	s.t.Helper()
	s.move()
	if k, err := s.tasks.Next(s.ctx, s.agent, 100); err != nil || k != nil {
		s.t.Fatalf("%+v, %v", k, err)
	}
}

const (
	pending     = api.RolloutTargetPending
	running     = api.RolloutTargetRunning
	succeeded   = api.RolloutTargetSucceeded
	failed      = api.RolloutTargetFailed
	rolledBack  = api.RolloutTargetRolledBack
	notBack     = api.RolloutTargetRollbackFailed
	skipped     = api.RolloutTargetSkipped
	rollingBack = api.RolloutTargetRollingBack
)

func TestOneAfterTheOther(t *testing.T) {
	t.Parallel()
	s := newStory(t, nil, "a", "b", "c*")
	s.stands(api.RolloutRunning, "", running, pending, pending)
	s.ends(api.TaskDeploy, well())
	s.stands(api.RolloutRunning, "", succeeded, running, pending)
	s.ends(api.TaskDeploy, well())
	s.ends(api.TaskDeploy, well())
	r := s.stands(api.RolloutSucceeded, "", succeeded, succeeded, succeeded)
	if r.Targets[0].From != "old" || r.Targets[2].From != "" || strings.Contains(string(r.Payload), "hunter22") {
		t.Errorf("%+v, %s", r.Targets, r.Payload)
	}
}

func TestCanary(t *testing.T) {
	t.Parallel()
	s := newStory(t, func(r *api.RolloutRequest) { r.MaxParallel, r.PauseAfter = 3, 1 }, "a", "b", "c")
	s.ends(api.TaskDeploy, well())
	s.stands(api.RolloutPaused, "after 1 target, as planned", succeeded, pending, pending)
	s.idle()
	_, err := s.svc.Resume(s.ctx, tenant, s.id, "ann", false)
	must(t, err)
	s.stands(api.RolloutRunning, "resumed by ann", succeeded, running, running)
	s.ends(api.TaskDeploy, well())
	s.ends(api.TaskDeploy, well())
	s.stands(api.RolloutSucceeded, "", succeeded, succeeded, succeeded)
}

// A target that came back by itself needs nothing more.
func TestStopsAtTheLimit(t *testing.T) {
	t.Parallel()
	for _, policy := range []api.OnFailure{api.OnFailureStop, api.OnFailureRollbackFailed} {
		s := newStory(t, func(r *api.RolloutRequest) { r.OnFailure = policy }, "a", "b", "c")
		s.ends(api.TaskDeploy, well())
		s.ends(api.TaskDeploy, &api.TaskResult{Error: "500 Internal Server Error", ErrorType: api.ErrHealthCheckFailed, RolledBack: true})
		if policy == api.OnFailureStop {
			r := s.stands(api.RolloutStopped, "1 target failed", succeeded, failed, pending)
			if r.Targets[1].Reason != "500 Internal Server Error" {
				t.Errorf("%+v", r.Targets[1])
			}
		} else {
			s.stands(api.RolloutFailed, "1 target failed; nothing was left to roll back", succeeded, failed, skipped)
		}
		s.idle()
	}
}

func TestResumeWithAnotherTurn(t *testing.T) {
	t.Parallel()
	s := newStory(t, nil, "a", "b")
	s.ends(api.TaskDeploy, &api.TaskResult{Error: "no", ErrorType: api.ErrPullFailed})
	s.stands(api.RolloutStopped, "", failed, pending)
	_, err := s.svc.Resume(s.ctx, tenant, s.id, "ann", true)
	must(t, err)
	s.ends(api.TaskDeploy, well())
	s.ends(api.TaskDeploy, well())
	s.stands(api.RolloutSucceeded, "", succeeded, succeeded)
}

// Without another turn, what failed stays so, and counts no more.
func TestResumeWithoutThem(t *testing.T) {
	t.Parallel()
	s := newStory(t, nil, "a", "b")
	s.ends(api.TaskDeploy, &api.TaskResult{Error: "no", ErrorType: api.ErrPullFailed})
	s.stands(api.RolloutStopped, "", failed, pending)
	_, err := s.svc.Resume(s.ctx, tenant, s.id, "ann", false)
	must(t, err)
	s.ends(api.TaskDeploy, well())
	s.stands(api.RolloutFailed, "1 target failed", failed, succeeded)
}

func TestRollsBackAll(t *testing.T) {
	t.Parallel()
	s := newStory(t, func(r *api.RolloutRequest) { r.OnFailure = api.OnFailureRollbackAll }, "a", "b", "c", "d")
	s.ends(api.TaskDeploy, well())
	s.ends(api.TaskDeploy, well())
	s.ends(api.TaskDeploy, &api.TaskResult{Error: "no", ErrorType: api.ErrHealthCheckFailed, RolledBack: true})
	s.stands(api.RolloutRollingBack, "1 target failed", succeeded, rollingBack, failed, skipped)
	s.ends(api.TaskRollback, well())
	s.ends(api.TaskRollback, well())
	s.stands(api.RolloutRolledBack, "1 target failed", rolledBack, rolledBack, failed, skipped)
}

// What a lost agent has left nobody knows, so that target goes back too.
func TestRollsBackWhatIsUnclear(t *testing.T) {
	t.Parallel()
	for _, res := range []api.TaskResult{
		{Error: "silent", ErrorType: api.ErrAgentLost},
		{Error: "broken", ErrorType: api.ErrRollbackFailed},
		{Error: "no", ErrorType: api.ErrSwitchFailed, Phases: []api.PhaseTime{{Name: "switch", State: "failed"}}},
	} {
		s := newStory(t, func(r *api.RolloutRequest) { r.OnFailure = api.OnFailureRollbackFailed }, "a", "b", "c")
		s.ends(api.TaskDeploy, well())
		s.ends(api.TaskDeploy, &res)
		s.ends(api.TaskRollback, well())
		s.stands(api.RolloutFailed, "1 target rolled back, 1 target with the new release", succeeded, rolledBack, skipped)
	}
}

// A target that somebody else has changed since is not taken back from them.
func TestRollbackLeavesAloneWhatOthersChanged(t *testing.T) {
	t.Parallel()
	s := newStory(t, nil, "a", "b", "c*")
	for range 3 {
		s.ends(api.TaskDeploy, well())
	}
	s.stands(api.RolloutSucceeded, "", succeeded, succeeded, succeeded)
	s.deployed(s.agent, "b", "newer")
	_, err := s.svc.Rollback(s.ctx, tenant, s.id, "ann")
	must(t, err)
	s.ends(api.TaskRollback, well())
	r := s.stands(api.RolloutFailed, "rolled back by ann; 2 targets could not be rolled back", rolledBack, notBack, notBack)
	if !strings.Contains(r.Targets[1].Reason, "changed since, by task") || r.Targets[2].Reason != "nothing was deployed there before" {
		t.Errorf("%+v", r.Targets)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := newStory(t, func(r *api.RolloutRequest) { r.MaxParallel = 2 }, "a", "b", "c")
	s.move()
	k, err := s.tasks.Next(s.ctx, s.agent, 100)
	must(t, err)
	_, err = s.svc.Cancel(s.ctx, tenant, s.id, "ann")
	must(t, err)
	s.move()
	s.stands(api.RolloutCancelling, "cancelled by ann", running, failed, pending) // the second one was queued, and is not
	held, err := s.tasks.Get(s.ctx, tenant, k.ID)
	if err != nil || !held.CancelRequested {
		t.Errorf("%+v, %v", held, err)
	}
	_, _, err = s.tasks.Finish(s.ctx, s.agent, task.Ref{ID: k.ID, Attempt: k.Attempt}, &api.TaskResult{Error: "cancelled", ErrorType: api.ErrCancelled, RolledBack: true})
	must(t, err)
	s.stands(api.RolloutCancelled, "cancelled by ann", failed, failed, skipped)
	if _, err := s.svc.Rollback(s.ctx, tenant, s.id, "ann"); fault.CodeOf(err) != "rollout_unchanged" {
		t.Errorf("%v", err)
	}
}

// What was checked at the beginning may be otherwise when a target has its turn.
func TestTheWorldChanges(t *testing.T) {
	t.Parallel()
	s := newStory(t, func(r *api.RolloutRequest) { r.MaxFailures = 5 }, "a", "b")
	must(t, s.store.DeleteTarget(s.ctx, tenant, func() string { tgt, _ := s.tgts.Get(s.ctx, tenant, "a"); return tgt.ID }()))
	s.ends(api.TaskDeploy, well())
	r := s.stands(api.RolloutFailed, "1 target failed", failed, succeeded)
	if !strings.Contains(r.Targets[0].Reason, "there is no target") {
		t.Errorf("%+v", r.Targets[0])
	}
}

func TestPreview(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a, gone := b.agent("a"), b.agent("gone")
	b.target("a", a.ID)
	b.deployed(a, "a", "old")
	b.target("b", gone.ID)
	must(t, b.store.DeleteAgent(b.ctx, tenant, gone.ID))
	svc := b.service(b.store)
	req := api.RolloutRequest{Filter: "label.tier=web and name in (a, b)", Payload: payload("new")}
	got, err := svc.Preview(b.ctx, tenant, "tester", req)
	must(t, err)
	if len(got.Targets) != 2 || got.Problems != 1 {
		t.Fatalf("%+v", got)
	}
	if x := got.Targets[0]; x.Name != "a" || x.From != "old" || x.To != "new" || x.FromAt == nil || x.Problem != "" || x.ToDigest != "sha256:"+sum("new") {
		t.Errorf("%+v", x)
	}
	if x := got.Targets[1]; x.From != "" || !strings.Contains(x.Problem, "was deleted") {
		t.Errorf("%+v", x)
	}
	if _, _, err := svc.Create(b.ctx, tenant, "tester", req); fault.CodeOf(err) != "agent_missing" || !strings.Contains(err.Error(), "target b:") {
		t.Errorf("%v", err)
	}
	if list, err := b.tasks.List(b.ctx, tenant, task.Filter{State: api.TaskQueued}); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("a", a.ID)
	_, err := b.tgts.Create(b.ctx, tenant, api.TargetRequest{Name: "h", Kind: "host", Agent: a.ID, Config: api.TargetConfig{Directory: "/srv"}})
	must(t, err)
	svc := b.service(b.store)
	for what, c := range map[string]struct {
		change func(*api.RolloutRequest)
		says   string
	}{
		"nobody":       {func(r *api.RolloutRequest) { r.Targets = nil }, "say which targets"},
		"both":         {func(r *api.RolloutRequest) { r.Filter = "name=a" }, "say which targets"},
		"unknown":      {func(r *api.RolloutRequest) { r.Targets = []string{"a", "x"} }, `body.targets[1]: there is no target "x"`},
		"twice":        {func(r *api.RolloutRequest) { r.Targets = []string{"a", "a"} }, "is there twice"},
		"two kinds":    {func(r *api.RolloutRequest) { r.Targets = []string{"a", "h"} }, "one rollout is for one kind"},
		"no match":     {func(r *api.RolloutRequest) { r.Targets, r.Filter = nil, "name=x" }, "no target matches"},
		"bad filter":   {func(r *api.RolloutRequest) { r.Targets, r.Filter = nil, "colour=blue" }, `have no field "colour"`},
		"no payload":   {func(r *api.RolloutRequest) { r.Payload = nil }, "say which image to deploy"},
		"bad payload":  {func(r *api.RolloutRequest) { r.Payload = []byte(`{"image":5}`) }, "body.payload.image"},
		"strategy":     {func(r *api.RolloutRequest) { r.Strategy = "blue-green" }, "is no strategy"},
		"on failure":   {func(r *api.RolloutRequest) { r.OnFailure = "cry" }, "nothing to do on failure"},
		"parallel":     {func(r *api.RolloutRequest) { r.MaxParallel = -1 }, "less than nothing"},
		"all and some": {func(r *api.RolloutRequest) { r.Strategy, r.MaxParallel = "all-at-once", 2 }, "has no limit"},
	} {
		req := api.RolloutRequest{Targets: []string{"a"}, Payload: payload("new")}
		c.change(&req)
		if _, _, err := svc.Create(b.ctx, tenant, "tester", req); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if list, err := svc.List(b.ctx, tenant, rollout.Filter{}); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target("a", b.agent("a").ID)
	svc := b.service(b.store)
	req := api.RolloutRequest{Targets: []string{"a"}, Payload: payload("new"), IdempotencyKey: "k"}
	first, existed, err := svc.Create(b.ctx, tenant, "tester", req)
	if err != nil || existed {
		t.Fatal(existed, err)
	}
	req.Targets = []string{"nothing"}
	again, existed, err := svc.Create(b.ctx, tenant, "tester", req)
	if err != nil || !existed || again.ID != first.ID {
		t.Errorf("%+v %v %v", again, existed, err)
	}
}
