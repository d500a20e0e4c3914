package executortest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

func testDeploy(t *testing.T, b *bench) {
	hook, ran := b.hookFile()
	for _, version := range []string{"v1", "v2", "v2", "v3"} {
		p := b.payload(version)
		p.Hooks.PreDeploy, p.Hooks.PostDeploy = hook("pre-"+version), hook("post-"+version)
		res := b.do(api.TaskDeploy, p)
		if !res.Success {
			t.Fatalf("deploy %s: %s: %s\n%s", version, res.ErrorType, res.Error, b.log)
		}
		b.runs(version)
		var done []string
		for _, phase := range b.log.phases() {
			if name, ok := strings.CutSuffix(phase, " done"); ok && name != deploy.PhasePull {
				done = append(done, name)
			}
		}
		want := []string{"verify", "pre-hook", "backup", "switch", "health-check", "post-hook", "sticker", "cleanup"}
		if diff := cmp.Diff(want, done); diff != "" {
			t.Errorf("phases of %s: %s", version, diff)
		}
		if res.Metrics.HealthCheckDurationMs < 0 || len(res.Phases) < len(want) {
			t.Errorf("metrics %+v, phases %+v", res.Metrics, res.Phases)
		}
	}
	for name, want := range map[string]int{"pre-v1": 1, "post-v1": 1, "pre-v2": 2, "post-v2": 2} {
		if got := ran(name); got != want {
			t.Errorf("the hook %s ran %d times, want %d", name, got, want)
		}
	}
	if s := b.sticker(); s == nil || s.ReleaseID != "v3" || s.TargetID != b.TargetID || s.AgentID != "agent-1" {
		t.Errorf("sticker %+v", s)
	}
}

func testPreHook(t *testing.T, b *bench) {
	b.deployed("v1")
	p := b.payload("v2")
	p.Hooks.PreDeploy = &api.Hook{Command: []string{"sh", "-c", "echo no deployments today; exit 7"}}
	res := b.do(api.TaskDeploy, p)
	b.fails(res, api.ErrPreHookFailed, "v1")
	if !strings.Contains(b.log.String(), "stdout: no deployments today") {
		t.Errorf("the hook's output is not in the log:\n%s", b.log)
	}
	if slices.Contains(b.log.phases(), "switch started") || res.RolledBack {
		t.Errorf("something was touched: rolledBack=%v\n%s", res.RolledBack, b.log)
	}
	if s := b.sticker(); s == nil || s.ReleaseID != "v1" {
		t.Errorf("sticker %+v", s)
	}
}

func testUnhealthy(t *testing.T, b *bench) {
	b.deployed("v1")
	res := b.do(api.TaskDeploy, unhealthy(b.payload("v2")))
	b.fails(res, api.ErrHealthCheckFailed, "v1")
	if !res.RolledBack {
		t.Error("rolledBack is false")
	}
	if !strings.Contains(res.Error, "200 OK") {
		t.Errorf("the error does not say the last answer seen: %s", res.Error)
	}
	if s := b.sticker(); s == nil || s.ReleaseID != "v1" {
		t.Errorf("sticker %+v", s)
	}
	b.deployed("v2")
}

func testFirstFails(t *testing.T, b *bench) {
	res := b.do(api.TaskDeploy, unhealthy(b.payload("v1")))
	b.fails(res, api.ErrHealthCheckFailed, "")
	if res.RolledBack || !strings.Contains(res.Error, "othing runs") {
		t.Errorf("rolledBack=%v, error %q", res.RolledBack, res.Error)
	}
	if s := b.sticker(); s != nil {
		t.Errorf("sticker %+v", s)
	}
	b.deployed("v1")
}

func testPostHook(t *testing.T, b *bench) {
	b.deployed("v1")
	p := b.payload("v2")
	p.Hooks.PostDeploy = &api.Hook{Command: []string{"sh", "-c", "exit 3"}}
	res := b.do(api.TaskDeploy, p)
	b.fails(res, api.ErrPostHookFailed, "v1")
	if !res.RolledBack {
		t.Error("rolledBack is false")
	}
}

func testCancel(t *testing.T, b *bench) {
	b.deployed("v1")
	p := unhealthy(b.payload("v2"))
	p.Config.HealthCheck.Timeout = 600
	ctx, cancel := context.WithCancelCause(t.Context())
	task := b.task(api.TaskDeploy, p)
	env := b.env(&journal{t: t})
	b.log.on["health-check started"] = func() { cancel(deploy.ErrCancelled) }
	res := b.Executor.Run(ctx, task, env)
	b.check(task, res)
	b.fails(res, api.ErrCancelled, "v1")
	if !res.RolledBack {
		t.Error("rolledBack is false")
	}
}

func testCancelInHook(t *testing.T, b *bench) {
	b.deployed("v1")
	p := b.payload("v2")
	p.Hooks.PreDeploy = &api.Hook{Command: []string{"sh", "-c", "sleep 600 & sleep 600"}}
	ctx, cancel := context.WithCancelCause(t.Context())
	task := b.task(api.TaskDeploy, p)
	env := b.env(&journal{t: t})
	b.log.on["pre-hook started"] = func() { cancel(deploy.ErrCancelled) }
	began := time.Now()
	res := b.Executor.Run(ctx, task, env)
	b.check(task, res)
	b.fails(res, api.ErrCancelled, "v1")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the cancel took %v", took)
	}
}

func testTimeout(t *testing.T, b *bench) {
	b.deployed("v1")
	p := unhealthy(b.payload("v2"))
	p.Config.HealthCheck.Timeout = 600
	task := b.task(api.TaskDeploy, p)
	env := b.env(&journal{t: t})
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, deploy.ErrTimeout)
	defer cancel()
	res := b.Executor.Run(ctx, task, env)
	b.check(task, res)
	b.fails(res, api.ErrTimeout, "v1")
}

func testRollback(t *testing.T, b *bench) {
	res := b.do(api.TaskRollback, api.RollbackPayload{})
	b.fails(res, api.ErrNothingToRestore, "")
	b.deployed("v1")
	b.deployed("v2")
	res = b.do(api.TaskRollback, api.RollbackPayload{})
	if !res.Success {
		t.Fatalf("rollback: %s: %s\n%s", res.ErrorType, res.Error, b.log)
	}
	b.runs("v1")
	if s := b.sticker(); s == nil || s.ReleaseID != "v1" {
		t.Errorf("sticker %+v", s)
	}
	// With nothing kept, the deployment that the server has filled in is done.
	again := b.payload("v9")
	res = b.do(api.TaskRollback, api.RollbackPayload{Deploy: &again})
	if !res.Success {
		t.Fatalf("rollback by deployment: %s: %s\n%s", res.ErrorType, res.Error, b.log)
	}
	b.runs("v9")
}

func testJournalFails(t *testing.T, b *bench) {
	b.deployed("v1")
	for failAt := 1; ; failAt++ {
		j := &journal{t: t, failAt: failAt}
		res := b.run(t.Context(), b.task(api.TaskDeploy, b.payload("v2")), j)
		if res.Success {
			b.runs("v2")
			return
		}
		b.fails(res, api.ErrInternal, "v1")
	}
}
