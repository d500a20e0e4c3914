package executortest

import (
	"encoding/json"
	"fmt"
	"testing"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

// killed runs a task whose agent is killed at a write of its journal, and
// returns nil and the record that is left; or the result, when the task ended
// before that write.
func (b *bench) killed(task *api.AgentTask, j *journal) *api.TaskResult {
	b.t.Helper()
	return b.killedAt(task, j, 0)
}

// killedAt is killed, by what the log says.
func (b *bench) killedAt(task *api.AgentTask, j *journal, stopAt int) *api.TaskResult {
	b.t.Helper()
	var res *api.TaskResult
	env, done := b.env(j), make(chan struct{})
	b.log.stopAt = stopAt
	go func() {
		defer close(done)
		res = b.Executor.Run(b.t.Context(), task, env)
	}()
	<-done
	return res
}

// recovered recovers from a record, with a journal that may kill again.
func (b *bench) recovered(last []byte, j *journal) *api.TaskResult {
	b.t.Helper()
	var rec deploy.Record
	if err := json.Unmarshal(last, &rec); err != nil {
		b.t.Fatal(err)
	}
	var res *api.TaskResult
	env, done := b.env(j), make(chan struct{})
	go func() {
		defer close(done)
		res = b.Executor.Recover(b.t.Context(), &rec, env)
	}()
	<-done
	return res
}

// everyKill calls try for each write of a task's journal, killed before and
// after it, until the task is over before that write.
func everyKill(t *testing.T, try func(j *journal, name string) (over bool)) {
	for write := 1; ; write++ {
		for _, after := range []bool{false, true} {
			name := fmt.Sprintf("killed before write %d", write)
			if after {
				name = fmt.Sprintf("killed after write %d", write)
			}
			if try(&journal{t: t, stopAt: write, after: after}, name) {
				if write < 4 {
					t.Fatalf("the task wrote its journal only %d times", write-1)
				}
				return
			}
		}
	}
}

// truth checks that a result and the target agree: after a success next runs,
// after anything else now.
func (b *bench) truth(name string, task *api.AgentTask, res *api.TaskResult, now, next string) (runs string) {
	b.t.Helper()
	b.check(task, res)
	want := now
	if res.Success {
		want = next
	}
	if !res.Success && res.ErrorType == api.ErrRollbackFailed {
		b.t.Fatalf("%s: %s\n%s", name, res.Error, b.log)
	}
	b.t.Logf("%s: success=%v %s", name, res.Success, res.Error)
	b.runs(want)
	return want
}

func other(version string) string {
	if version == "v1" {
		return "v2"
	}
	return "v1"
}

func testKilledInDeploy(t *testing.T, b *bench) {
	b.deployed("v1")
	now := "v1"
	everyKill(t, func(j *journal, name string) bool {
		hook, ran := b.hookFile()
		p := b.payload(other(now))
		p.Hooks.PreDeploy, p.Hooks.PostDeploy = hook("pre"), hook("post")
		task := b.task(api.TaskDeploy, p)
		res := b.killed(task, j)
		over := res != nil
		if !over {
			if j.last == nil {
				b.runs(now) // nothing is known of the task, nothing was done
				return false
			}
			if res = b.recovered(j.last, &journal{t: t}); res == nil {
				t.Fatalf("%s: no result of the recovery", name)
			}
			if !res.Success && (res.ErrorType != api.ErrAgentRestarted || !res.Retriable) {
				t.Errorf("%s: errorType %q retriable=%v (%s)", name, res.ErrorType, res.Retriable, res.Error)
			}
		}
		now = b.truth(name, task, res, now, other(now))
		for _, h := range []string{"pre", "post"} {
			if n := ran(h); n > 1 || (res.Success && n != 1) {
				t.Errorf("%s: success=%v and the %s hook ran %d times", name, res.Success, h, n)
			}
		}
		return over
	})
}

func testKilledMidStep(t *testing.T, b *bench) {
	b.deployed("v1")
	now := "v1"
	for stopAt := 1; ; stopAt++ {
		task := b.task(api.TaskDeploy, unhealthy(b.payload(other(now))))
		if stopAt%2 == 0 {
			task = b.task(api.TaskDeploy, b.payload(other(now)))
		}
		j, name := &journal{t: t}, fmt.Sprintf("killed at line %d", stopAt)
		res := b.killedAt(task, j, stopAt)
		over := res != nil
		if !over {
			if res = b.recovered(j.last, &journal{t: t}); res == nil {
				t.Fatalf("%s: no result of the recovery", name)
			}
		}
		now = b.truth(name, task, res, now, other(now))
		if over {
			return
		}
	}
}

func testKilledInFailingDeploy(t *testing.T, b *bench) {
	b.deployed("v1")
	everyKill(t, func(j *journal, name string) bool {
		task := b.task(api.TaskDeploy, unhealthy(b.payload("v2")))
		res := b.killed(task, j)
		over := res != nil
		if !over {
			if j.last == nil {
				return false
			}
			if res = b.recovered(j.last, &journal{t: t}); res == nil {
				t.Fatalf("%s: no result of the recovery", name)
			}
		}
		if res.Success {
			t.Fatalf("%s: an unhealthy version succeeded", name)
		}
		b.truth(name, task, res, "v1", "v2")
		return over
	})
}

func testKilledInRollback(t *testing.T, b *bench) {
	n := 1
	version := func(n int) string { return fmt.Sprintf("v%d", n) }
	b.deployed(version(n))
	previous := ""
	everyKill(t, func(j *journal, name string) bool {
		if previous == "" {
			previous = b.Running()
			n++
			b.deployed(version(n))
		}
		now := b.Running()
		task := b.task(api.TaskRollback, api.RollbackPayload{})
		res := b.killed(task, j)
		over := res != nil
		if !over {
			if j.last == nil {
				b.runs(now)
				return false
			}
			if res = b.recovered(j.last, &journal{t: t}); res == nil {
				t.Fatalf("%s: no result of the recovery", name)
			}
		}
		b.truth(name, task, res, now, previous)
		if res.Success {
			previous = ""
		}
		return over
	})
}

func testKilledInRecovery(t *testing.T, b *bench) {
	b.deployed("v1")
	now := "v1"
	// The agent is killed once each step was begun, and again at each write
	// of the recovery.
	for first := 1; ; first += 2 {
		for write := 1; ; write++ {
			task := b.task(api.TaskDeploy, b.payload(other(now)))
			j := &journal{t: t, stopAt: first, after: true}
			res := b.killed(task, j)
			if res != nil {
				b.truth("not killed", task, res, now, other(now))
				return
			}
			again := &journal{t: t, last: j.last, stopAt: write, after: write%2 == 0}
			res = b.recovered(j.last, again)
			over := res != nil
			if !over {
				if res = b.recovered(again.last, &journal{t: t}); res == nil {
					t.Fatal("no result of the second recovery")
				}
			}
			now = b.truth(fmt.Sprintf("killed after write %d and at write %d of the recovery", first, write), task, res, now, other(now))
			if over {
				break
			}
		}
	}
}
