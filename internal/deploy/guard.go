package deploy

import (
	"context"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
)

// Guard calls f and turns a panic of its into a result: one task must not
// take the agent with it.
func Guard(ctx context.Context, task *api.AgentTask, f func() *api.TaskResult) *api.TaskResult {
	started := time.Now()
	var res *api.TaskResult
	if err := guard(func() error { res = f(); return nil }); err != nil {
		return Ended(ctx, task, started, nil, Fail(api.ErrInternal, "the executor broke down: %w; this is a mistake in the agent, please report it", err))
	}
	return res
}

// Once runs something that cannot be undone and must not be repeated: it is
// journaled before it begins, and after a crash Resume with an empty plan says
// that it was interrupted.
func Once(ctx context.Context, task *api.AgentTask, name string, journal Journal, do func() (map[string]any, error)) *api.TaskResult {
	started := time.Now()
	if ctx.Err() != nil {
		return Ended(ctx, task, started, nil, context.Cause(ctx))
	}
	rec := &Record{Task: Bare(task), StartedAt: started.UTC(), Step: name}
	if err := journal.Save(context.WithoutCancel(ctx), rec); err != nil {
		return Ended(ctx, task, started, nil, fmt.Errorf("write the journal of task %s: %w", task.ID, err))
	}
	outputs, err := do()
	return Ended(ctx, task, started, outputs, err)
}
