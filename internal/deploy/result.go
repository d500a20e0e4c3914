package deploy

import (
	"context"
	"fmt"
	"strings"
	"time"

	"stella-ops.org/stella/api"
)

// Ended is the result of a task that is no plan: of a look at the target, or
// of a command. err nil means success.
func Ended(ctx context.Context, task *api.AgentTask, started time.Time, outputs map[string]any, err error) *api.TaskResult {
	res := newResult(task, started)
	res.Outputs = outputs
	if err == nil {
		res.Success = true
		return res
	}
	f := failureOf(ctx, string(task.Type), err)
	res.Error, res.ErrorType, res.Retriable = f.Message, f.Type, f.Retriable
	for name, value := range f.Outputs {
		if res.Outputs == nil {
			res.Outputs = map[string]any{}
		}
		res.Outputs[name] = value
	}
	return res
}

func newResult(task *api.AgentTask, started time.Time) *api.TaskResult {
	return &api.TaskResult{
		TaskID: task.ID, Attempt: task.Attempt,
		StartedAt: started.UTC(), CompletedAt: time.Now().UTC(),
	}
}

func (r *run) succeeded(warnings []string) *api.TaskResult {
	res := r.result()
	res.Success = true
	if r.plan.Outputs != nil {
		res.Outputs = r.plan.Outputs()
	}
	if len(warnings) > 0 {
		if res.Outputs == nil {
			res.Outputs = map[string]any{}
		}
		res.Outputs["warnings"] = warnings
	}
	return res
}

// failed is the result once the undoing is over.
func (r *run) failed(ctx context.Context, undo []error) *api.TaskResult {
	res, f := r.result(), r.rec.Failure
	res.Error, res.ErrorType, res.Retriable, res.Outputs = f.Message, f.Type, f.Retriable, f.Outputs
	if len(undo) > 0 {
		text := make([]string, len(undo))
		for i, err := range undo {
			text[i] = err.Error()
		}
		res.ErrorType, res.Retriable = api.ErrRollbackFailed, false
		res.Error = fmt.Sprintf("%s; then %s", f.Message, strings.Join(text, "; "))
		if r.plan.Standing != nil {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			res.Error += ". " + r.plan.Standing(ctx)
		}
		return res
	}
	if r.changed() && r.plan.Restored != nil {
		running, sentence := r.plan.Restored()
		res.RolledBack = running
		if sentence != "" {
			res.Error += ". " + sentence
		}
	}
	return res
}

func (r *run) result() *api.TaskResult {
	res := newResult(&r.rec.Task, r.rec.StartedAt)
	res.Phases = r.rec.Phases
	for _, p := range r.rec.Phases {
		switch p.Name {
		case PhasePull:
			res.Metrics.PullDurationMs = p.DurationMs
		case PhaseBackup, PhaseSwitch:
			res.Metrics.DeployDurationMs += p.DurationMs
		case PhaseHealthCheck:
			res.Metrics.HealthCheckDurationMs = p.DurationMs
		}
	}
	return res
}

// changed says whether a step that changes what the target runs was begun.
func (r *run) changed() bool {
	for _, p := range r.rec.Phases {
		if i := index(r.plan.Steps, p.Name); i >= 0 && r.plan.Steps[i].Changes {
			return true
		}
	}
	return false
}

// begin, end and mark keep the phases of the result.
func (r *run) begin(name string) {
	// A step of Finish that a crash interrupted is begun again.
	if n := len(r.rec.Phases); n > 0 && r.rec.Phases[n-1].Name == name {
		return
	}
	r.rec.Phases = append(r.rec.Phases, api.PhaseTime{Name: name, State: PhaseStarted, StartedAt: time.Now().UTC()})
}

func (r *run) end(name, state string) {
	r.rec.Phases[len(r.rec.Phases)-1].DurationMs = time.Since(r.rec.Phases[len(r.rec.Phases)-1].StartedAt).Milliseconds()
	r.mark(name, state)
}

func (r *run) mark(name, state string) {
	for i := len(r.rec.Phases) - 1; i >= 0; i-- {
		if r.rec.Phases[i].Name == name {
			r.rec.Phases[i].State = state
			return
		}
	}
}
