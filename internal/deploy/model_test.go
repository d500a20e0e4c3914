package deploy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

// world is a model of a target: a few places that hold old or new, and a log
// of hooks. It outlives the agent's crashes, as a real target does.
type world struct {
	Places []string
	Hooks  []string
	tidy   bool
	acts   int
	stopAt int // the act after which the agent is killed
}

// act is something done to the world, after which the agent may be killed.
func (w *world) act(do func()) {
	do()
	w.acts++
	if w.acts == w.stopAt {
		runtime.Goexit()
	}
}

// journal keeps the last record as its JSON, as a real one does.
type journal struct {
	last   []byte
	saves  int
	stopAt int  // the save at which the agent is killed
	after  bool // kill it once the record is on disk, instead of before
	failAt int  // the save that fails
}

func (j *journal) Save(_ context.Context, rec *deploy.Record) error {
	j.saves++
	if j.saves == j.failAt {
		return errors.New("the disk is full")
	}
	if j.saves == j.stopAt && !j.after {
		runtime.Goexit()
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	j.last = data
	if j.saves == j.stopAt {
		runtime.Goexit()
	}
	return nil
}

type silent struct{}

func (silent) Line(string, string)  {}
func (silent) Phase(string, string) {}

// modelState is what the plan keeps: how many places there are.
type modelState struct {
	Places int
}

type scenario struct {
	places   int
	failStep int // the step whose Do fails; -1 for none
	cancelAt int // the step during which the task is cancelled; -1 for none
	undoFail int // how often the first undo fails before it succeeds
}

// plan changes the places one by one, with a hook before and after. sc is nil
// when it is made from a record.
func plan(w *world, s *modelState, sc *scenario, cancel context.CancelCauseFunc) *deploy.Plan {
	var steps []deploy.Step
	add := func(name string, do, undo func()) {
		i := len(steps)
		step := deploy.Step{Name: name, Changes: undo != nil, Do: func(ctx context.Context) error {
			if sc == nil {
				panic("a step is done again after a crash")
			}
			if sc.cancelAt == i {
				cancel(deploy.ErrCancelled)
				return ctx.Err()
			}
			w.act(do)
			if sc.failStep == i {
				return deploy.Fail(api.ErrSwitchFailed, "%s failed", name)
			}
			return nil
		}}
		if undo != nil {
			step.Undo = func(context.Context) error {
				if sc != nil && sc.undoFail > 0 {
					sc.undoFail--
					return errors.New("not now")
				}
				w.act(undo)
				return nil
			}
		}
		steps = append(steps, step)
	}
	add("pre-hook", func() { w.Hooks = append(w.Hooks, "pre") }, nil)
	for i := range s.Places {
		add(fmt.Sprintf("place-%d", i), func() { w.Places[i] = "new" }, func() { w.Places[i] = "old" })
	}
	add("post-hook", func() { w.Hooks = append(w.Hooks, "post") }, nil)
	return &deploy.Plan{
		State: s, Steps: steps,
		Finish: []deploy.Step{{Name: "cleanup", Do: func(context.Context) error {
			w.act(func() { w.tidy = true })
			return nil
		}}},
		Restored: func() (bool, string) { return true, "the old one runs" },
	}
}

// TestOldOrNew: whatever fails and wherever the agent is killed, the target
// ends as it was or as it should be, the result says which, and each hook ran
// at most once.
func TestOldOrNew(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sc := scenario{places: rapid.IntRange(0, 4).Draw(rt, "places")}
		steps := sc.places + 2
		sc.failStep = rapid.IntRange(-1, steps-1).Draw(rt, "failStep")
		sc.cancelAt = rapid.IntRange(-1, steps-1).Draw(rt, "cancelAt")
		sc.undoFail = rapid.IntRange(0, 2).Draw(rt, "undoFail")
		failAt := rapid.IntRange(0, 4*steps).Draw(rt, "failSave")
		kills := rapid.SliceOfN(rapid.IntRange(1, 4*steps), 0, 4).Draw(rt, "kills")
		modes := rapid.SliceOfN(rapid.IntRange(0, 2), len(kills), len(kills)).Draw(rt, "modes")
		var problem string
		synctest.Test(t, func(*testing.T) { problem = live(sc, failAt, kills, modes) })
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

// live runs a scenario through its crashes to the end and says what is wrong.
func live(sc scenario, failAt int, kills, modes []int) string {
	w := &world{Places: slices.Repeat([]string{"old"}, sc.places)}
	task := &api.AgentTask{ID: "t", Type: api.TaskDeploy, Payload: []byte(`"secret"`), Token: "secret"}
	var res *api.TaskResult
	var last []byte
	for life := 0; res == nil; life++ {
		j := &journal{last: last, stopAt: -1}
		w.acts, w.stopAt = 0, -1
		if life == 0 {
			j.failAt = failAt
		}
		if life < len(kills) {
			switch modes[life] {
			case 2:
				w.stopAt = kills[life]
			default:
				j.stopAt, j.after = kills[life], modes[life] == 1
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if last == nil {
				ctx, cancel := context.WithCancelCause(context.Background())
				defer cancel(nil)
				first := sc
				res = deploy.Run(ctx, task, plan(w, &modelState{sc.places}, &first, cancel), j, silent{})
				return
			}
			var rec deploy.Record
			if err := json.Unmarshal(last, &rec); err != nil {
				panic(err)
			}
			var s modelState
			if err := json.Unmarshal(rec.State, &s); err != nil {
				panic(err)
			}
			res = deploy.Resume(context.Background(), &rec, plan(w, &s, nil, nil), j, silent{})
		}()
		<-done
		if strings.Contains(string(j.last), "secret") {
			return "a secret is in the journal"
		}
		last = j.last
		if res == nil && last == nil {
			// Killed before anything was journaled: the agent knows nothing of
			// the task, so nothing may have happened.
			if slices.Contains(w.Places, "new") || len(w.Hooks) > 0 {
				return "something was done before it was journaled"
			}
			return ""
		}
	}
	want := "old"
	if res.Success {
		want = "new"
	}
	for i, place := range w.Places {
		if place != want {
			return fmt.Sprintf("success=%v (%s) and place %d is %s", res.Success, res.Error, i, place)
		}
	}
	for _, h := range []string{"pre", "post"} {
		ran := 0
		for _, seen := range w.Hooks {
			if seen == h {
				ran++
			}
		}
		if ran > 1 || (res.Success && ran != 1) {
			return fmt.Sprintf("success=%v and the %s hook ran %d times", res.Success, h, ran)
		}
	}
	switch {
	case res.Success && !w.tidy:
		return "a success without the clean up"
	case res.Success && (sc.failStep >= 0 || sc.cancelAt >= 0):
		return "a success where a step failed or the task was cancelled"
	case !res.Success && res.ErrorType == "":
		return "a failure without an error type"
	case !res.Success && res.ErrorType == api.ErrRollbackFailed:
		return "an undo that succeeds on a later try is not a failed one: " + res.Error
	}
	return ""
}
