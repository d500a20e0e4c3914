package deploy_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

func one(do, undo func(context.Context) error) *deploy.Plan {
	return &deploy.Plan{
		State:    &struct{}{},
		Steps:    []deploy.Step{{Name: deploy.PhaseSwitch, Do: do, Undo: undo, Changes: true}},
		Restored: func() (bool, string) { return true, "The old one runs" },
		Standing: func(context.Context) string { return "Two halves stand" },
	}
}

func fine(context.Context) error { return nil }

func TestCauses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cause     error
		want      string
		retriable bool
	}{
		{deploy.ErrCancelled, api.ErrCancelled, false},
		{deploy.ErrTimeout, api.ErrTimeout, false},
		{context.DeadlineExceeded, api.ErrTimeout, false},
		{deploy.ErrStopping, api.ErrAgentRestarted, true},
		{nil, api.ErrCancelled, false},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		undone := false
		res := deploy.Run(ctx, &api.AgentTask{ID: "t"}, one(func(ctx context.Context) error {
			cancel(c.cause)
			return errors.New("killed")
		}, func(ctx context.Context) error {
			undone = ctx.Err() == nil
			return nil
		}), &journal{stopAt: -1}, silent{})
		if res.ErrorType != c.want || res.Retriable != c.retriable || !res.RolledBack || !undone {
			t.Errorf("cause %v: %q retriable=%v rolledBack=%v undone=%v; want %q", c.cause, res.ErrorType, res.Retriable, res.RolledBack, undone, c.want)
		}
	}
}

func TestUndoThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries, began := 0, time.Now()
		res := deploy.Run(t.Context(), &api.AgentTask{ID: "t", Attempt: 3}, one(func(context.Context) error {
			return deploy.Fail(api.ErrSwitchFailed, "no such network")
		}, func(context.Context) error {
			tries++
			return errors.New("the engine is gone")
		}), &journal{stopAt: -1}, silent{})
		if res.ErrorType != api.ErrRollbackFailed || res.RolledBack || res.Success || res.Attempt != 3 {
			t.Errorf("result %+v", res)
		}
		for _, part := range []string{"no such network", "the engine is gone", "Two halves stand"} {
			if !strings.Contains(res.Error, part) {
				t.Errorf("the error does not say %q: %s", part, res.Error)
			}
		}
		if tries != 4 || time.Since(began) < 3*time.Second {
			t.Errorf("%d tries in %v", tries, time.Since(began))
		}
	})
}

func TestPanicIsAFailure(t *testing.T) {
	t.Parallel()
	res := deploy.Run(t.Context(), &api.AgentTask{ID: "t"}, one(func(context.Context) error { panic("oh") }, fine), &journal{stopAt: -1}, silent{})
	if res.ErrorType != api.ErrInternal || !res.RolledBack {
		t.Errorf("result %+v", res)
	}
}

func TestCleanUpThatFailsIsAWarning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := one(fine, fine)
		p.Finish = []deploy.Step{{Name: deploy.PhaseCleanup, Do: func(context.Context) error { return errors.New("busy") }}}
		res := deploy.Run(t.Context(), &api.AgentTask{ID: "t"}, p, &journal{stopAt: -1}, silent{})
		if !res.Success {
			t.Fatalf("result %+v", res)
		}
		if diff := cmp.Diff([]string{"cleanup: busy"}, res.Outputs["warnings"]); diff != "" {
			t.Error(diff)
		}
	})
}

func TestFailureIsMaskedInTheJournal(t *testing.T) {
	t.Parallel()
	j := &journal{stopAt: -1}
	p := one(func(context.Context) error {
		return deploy.Fail(api.ErrSwitchFailed, "it said hunter2hunter2").With("logs", []string{"pw=hunter2hunter2"})
	}, fine)
	p.Secrets = []string{"hunter2hunter2"}
	res := deploy.Run(t.Context(), &api.AgentTask{ID: "t", Token: "hunter2hunter2"}, p, j, silent{})
	if strings.Contains(string(j.last), "hunter2") {
		t.Errorf("the record holds the secret: %s", j.last)
	}
	if diff := cmp.Diff([]string{"pw=***"}, res.Outputs["logs"]); diff != "" {
		t.Error(diff)
	}
}

func TestPhasesInLogAndResult(t *testing.T) {
	t.Parallel()
	l := &phases{}
	p := one(fine, fine)
	p.Steps = append(p.Steps, deploy.Step{Name: deploy.PhaseHealthCheck, Do: func(context.Context) error {
		return deploy.Fail(api.ErrHealthCheckFailed, "503")
	}})
	res := deploy.Run(t.Context(), &api.AgentTask{ID: "t"}, p, &journal{stopAt: -1}, l)
	want := []string{"switch started", "switch done", "health-check started", "health-check failed", "switch undone"}
	if diff := cmp.Diff(want, l.seen); diff != "" {
		t.Error(diff)
	}
	var states []string
	for _, ph := range res.Phases {
		states = append(states, ph.Name+" "+ph.State)
	}
	if diff := cmp.Diff([]string{"switch undone", "health-check failed"}, states); diff != "" {
		t.Error(diff)
	}
}

type phases struct {
	silent
	seen []string
}

func (p *phases) Phase(name, state string) { p.seen = append(p.seen, name+" "+state) }
