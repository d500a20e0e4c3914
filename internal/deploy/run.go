package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"stella-ops.org/stella/api"
)

// Run does a plan for a task and blocks until it stands, or until what was
// begun is undone. It never returns nil.
func Run(ctx context.Context, task *api.AgentTask, plan *Plan, journal Journal, log Log) *api.TaskResult {
	r := &run{
		plan: plan, journal: journal, log: log,
		rec: &Record{Task: Bare(task), StartedAt: time.Now().UTC()},
	}
	for i := range plan.Steps {
		if begun, err := r.forward(ctx, i); err != nil {
			return r.fail(ctx, i, begun, err)
		}
	}
	return r.finish(ctx, 0)
}

// Resume ends what a record says was begun, after a crash: it finishes a plan
// that was committed and undoes any other. The plan is made from rec.State
// alone; of its Steps only Undo is called. Resume may itself be killed and
// called again with the record saved last.
func Resume(ctx context.Context, rec *Record, plan *Plan, journal Journal, log Log) *api.TaskResult {
	copied := *rec
	copied.Phases = append([]api.PhaseTime(nil), rec.Phases...)
	r := &run{plan: plan, journal: journal, log: log, rec: &copied}
	if rec.Committed {
		log.Line("system", "the agent was restarted after the new version was in place; finishing")
		from := 0
		if i := index(plan.Finish, rec.Step); i >= 0 {
			from = i
			if rec.Done {
				from++
			}
		}
		return r.finish(ctx, from)
	}
	from := -1
	if rec.Step != "" {
		// A name that is not known comes from another version of the agent:
		// every undo looks at what is there, so all of them are safe to call.
		if from = index(plan.Steps, rec.Step); from < 0 {
			from = len(plan.Steps) - 1
		}
	}
	if rec.Failure == nil {
		r.mark(rec.Step, PhaseFailed)
		attempted := "before its first step"
		if rec.Step != "" {
			attempted = "during " + rec.Step
		}
		r.rec.Failure = &Failure{
			Type: api.ErrAgentRestarted, Retriable: true,
			Message: "the agent was restarted " + attempted,
		}
	} else if rec.Done {
		from--
	}
	log.Line("system", "the agent was restarted; undoing what was begun")
	return r.undo(ctx, from)
}

// run is one pass of a plan; it is used by one goroutine.
type run struct {
	plan    *Plan
	journal Journal
	log     Log
	rec     *Record
}

// save writes the record with the state as it is now.
func (r *run) save(ctx context.Context) error {
	state, err := json.Marshal(r.plan.State)
	if err != nil {
		return fmt.Errorf("encode the state of task %s: %w", r.rec.Task.ID, err)
	}
	r.rec.State = state
	saved := *r.rec
	saved.Phases = append([]api.PhaseTime(nil), r.rec.Phases...)
	if err := r.journal.Save(context.WithoutCancel(ctx), &saved); err != nil {
		return fmt.Errorf("write the journal of task %s: %w", r.rec.Task.ID, err)
	}
	return nil
}

// forward does step i, and commits with the last. begun says whether the step
// may have changed anything.
func (r *run) forward(ctx context.Context, i int) (begun bool, err error) {
	step := r.plan.Steps[i]
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	r.rec.Step, r.rec.Done = step.Name, false
	r.begin(step.Name)
	if err := r.save(ctx); err != nil {
		r.rec.Phases = r.rec.Phases[:len(r.rec.Phases)-1]
		return false, err
	}
	r.log.Phase(step.Name, PhaseStarted)
	err = guard(func() error { return step.Do(withCheckpoint(ctx, r.save)) })
	last := i == len(r.plan.Steps)-1
	if err == nil && last && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		r.end(step.Name, PhaseFailed)
		r.log.Phase(step.Name, PhaseFailed)
		return true, err
	}
	r.end(step.Name, PhaseDone)
	r.rec.Done, r.rec.Committed = true, last
	if err := r.save(ctx); err != nil {
		r.rec.Committed = false
		r.log.Phase(step.Name, PhaseFailed)
		return true, err
	}
	r.log.Phase(step.Name, PhaseDone)
	return true, nil
}

// fail records why step i did not come to pass and undoes what was begun.
func (r *run) fail(ctx context.Context, i int, begun bool, err error) *api.TaskResult {
	name := r.plan.Steps[i].Name
	r.rec.Failure = failureOf(ctx, name, err)
	r.rec.Failure.mask(r.plan.Secrets)
	r.log.Line("system", r.rec.Failure.Message)
	from := i
	if !begun {
		from--
	}
	return r.undo(ctx, from)
}

// undo undoes the steps from the given one back to the first. A step whose
// undo fails does not keep the others from being undone: each looks for itself
// whether it may act.
func (r *run) undo(ctx context.Context, from int) *api.TaskResult {
	ctx = context.WithoutCancel(ctx)
	var failed []error
	if from < 0 {
		r.rec.Step, r.rec.Done = "", false
		r.saveOrWarn(ctx)
	}
	for i := from; i >= 0; i-- {
		step := r.plan.Steps[i]
		if step.Undo == nil {
			continue
		}
		r.rec.Step, r.rec.Done = step.Name, false
		r.saveOrWarn(ctx)
		if err := r.retry(ctx, undoTimeout, "undo "+step.Name, step.Undo); err != nil {
			failed = append(failed, fmt.Errorf("undoing %s: %w", step.Name, err))
			r.log.Phase(step.Name, PhaseFailed)
			continue
		}
		r.mark(step.Name, PhaseUndone)
		r.log.Phase(step.Name, PhaseUndone)
		r.rec.Done = true
		r.saveOrWarn(ctx)
	}
	return r.failed(ctx, failed)
}

// finish does what is left after the commit. Its failures are warnings.
func (r *run) finish(ctx context.Context, from int) *api.TaskResult {
	ctx = context.WithoutCancel(ctx)
	var warnings []string
	for _, step := range r.plan.Finish[min(from, len(r.plan.Finish)):] {
		r.rec.Step, r.rec.Done = step.Name, false
		r.begin(step.Name)
		r.saveOrWarn(ctx)
		r.log.Phase(step.Name, PhaseStarted)
		state := PhaseDone
		if err := r.retry(ctx, finishTimeout, step.Name, step.Do); err != nil {
			state = PhaseFailed
			warnings = append(warnings, fmt.Sprintf("%s: %v", step.Name, err))
		}
		r.end(step.Name, state)
		r.log.Phase(step.Name, state)
		r.rec.Done = true
		r.saveOrWarn(ctx)
	}
	return r.succeeded(warnings)
}

// retry calls f until it succeeds, a few times at most, under one limit.
func (r *run) retry(ctx context.Context, limit time.Duration, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	backoff := firstBackoff
	for try := 1; ; try++ {
		err := guard(func() error { return f(ctx) })
		if err == nil {
			return nil
		}
		r.log.Line("system", fmt.Sprintf("%s, try %d of %d: %v", what, try, tries, err))
		if try == tries {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(backoff):
			backoff *= 2
		}
	}
}

// saveOrWarn saves while undoing or finishing, where not going on would be
// worse than a journal that is behind: both may be repeated from any point.
func (r *run) saveOrWarn(ctx context.Context) {
	if err := r.save(ctx); err != nil {
		r.log.Line("system", err.Error())
	}
}

func index(steps []Step, name string) int {
	for i := range steps {
		if steps[i].Name == name {
			return i
		}
	}
	return -1
}

// guard turns a panic into an error: an executor's mistake must not take the
// agent, and the tasks beside this one, with it.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}
