package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

// runFlags are those of every command that queues a task.
type runFlags struct {
	timeout, delivery seconders
	priority, key     string
	noWait, wait      bool
	logs              bool
}

func (f *runFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	f.addLimits(flags)
	flags.StringVar(&f.priority, "priority", "", "low, normal, high or critical")
	flags.StringVar(&f.key, "idempotency-key", "", "a `key` of your own: with one that was seen, nothing is queued and the first task is shown")
	flags.BoolVar(&f.wait, "wait", true, "wait until the task is over")
	flags.BoolVar(&f.noWait, "no-wait", false, "queue the task and do not wait")
	flags.BoolVar(&f.logs, "follow", false, "show the log too while waiting")
	complete(cmd, "priority", fixed("low", "normal", "high", "critical"))
}

func (f *runFlags) addLimits(flags *pflag.FlagSet) {
	flags.Var(&f.timeout, "timeout", "how long the task may run; 30m when left out")
	flags.Var(&f.delivery, "delivery-timeout", "how long it may wait for its agent; 1h when left out")
}

// request makes a request of a payload. There always is an idempotency key, so
// that a lost answer does not make a second task.
func (f *runFlags) request(typ api.TaskType, target string, payload any) (api.TaskRequest, error) {
	raw, err := json.Marshal(payload)
	if err != nil {
		return api.TaskRequest{}, fmt.Errorf("encode the payload: %w", err)
	}
	return api.TaskRequest{
		Type: typ, Target: target, Payload: raw,
		Timeout: f.timeout.value, DeliveryTimeout: f.delivery.value,
		Priority: api.TaskPriority(f.priority), IdempotencyKey: first(f.key, uuid.Must(uuid.NewV7()).String()),
	}, nil
}

// run queues a task, and unless told otherwise waits and tells how it ended.
func (a *app) run(ctx context.Context, c *client.Client, f *runFlags, req api.TaskRequest) error {
	task, err := c.SubmitTask(ctx, req)
	if err != nil {
		return err
	}
	if task.IdempotencyKey == f.key && f.key != "" && task.State != api.TaskQueued {
		a.io.Notef("this key was seen before: task %s is %s", task.ID, task.State)
	}
	if f.noWait || !f.wait {
		return a.io.Write(a.format, task, func() {
			a.io.Notef("%s is queued; `stella task logs --follow %s` shows it", taskPhrase(task), task.ID)
			a.io.Println(task.ID)
		})
	}
	a.io.Notef("%s", a.io.ErrStyle.Faint(taskPhrase(task)+", task "+task.ID))
	task, last, err := a.watch(ctx, c, task, f.logs)
	if err != nil {
		return err
	}
	if f.logs {
		last = nil // shown already
	}
	for _, line := range summary(task, last, a.io.ErrStyle) {
		a.io.Notef("%s", line)
	}
	if a.format != out.FormatTable {
		if err := a.io.Write(a.format, task, nil); err != nil {
			return err
		}
	}
	if task.State != api.TaskSucceeded {
		return exitCode(exitFailed)
	}
	return nil
}

// ask queues a task that only looks, and returns it as it ended.
func (a *app) ask(ctx context.Context, c *client.Client, req api.TaskRequest) (*api.Task, error) {
	task, err := c.SubmitTask(ctx, req)
	if err != nil {
		return nil, err
	}
	task, last, err := a.watch(ctx, c, task, false)
	if err != nil {
		return nil, err
	}
	if task.State == api.TaskSucceeded {
		return task, nil
	}
	for _, line := range summary(task, last, a.io.ErrStyle) {
		a.io.Notef("%s", line)
	}
	return task, exitCode(exitFailed)
}
