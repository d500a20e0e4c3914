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

// submit queues a request for the target that it names, or for all that are
// selected.
func (a *app) submit(ctx context.Context, c *client.Client, s *scope, req api.TaskRequest) ([]api.Task, error) {
	if !s.many() {
		task, err := c.SubmitTask(ctx, req)
		if err != nil {
			return nil, err
		}
		return []api.Task{*task}, nil
	}
	list, err := c.SubmitTasks(ctx, api.TasksRequest{
		Selector: s.selector.TargetSelector, Type: req.Type, Payload: req.Payload, Credentials: req.Credentials,
		Timeout: req.Timeout, DeliveryTimeout: req.DeliveryTimeout, Priority: req.Priority, IdempotencyKey: req.IdempotencyKey,
	})
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, s.nobody()
	}
	a.noteChanges(s, list.Items)
	return list.Items, nil
}

// run queues a task for each target, and unless told otherwise waits and tells
// how they ended.
func (a *app) run(ctx context.Context, c *client.Client, f *runFlags, s *scope, req api.TaskRequest) error {
	tasks, err := a.submit(ctx, c, s, req)
	if err != nil {
		return err
	}
	for i := range tasks {
		if t := &tasks[i]; f.seen(t) {
			a.io.Notef("this key was seen before: task %s is %s", t.ID, t.State)
		}
	}
	if f.noWait || !f.wait {
		return a.io.Write(a.format, s.data(tasks), func() {
			for i := range tasks {
				a.io.Notef("%s is queued; `stella task logs --follow %s` shows it", taskPhrase(&tasks[i]), tasks[i].ID)
				a.io.Println(tasks[i].ID)
			}
		})
	}
	if len(tasks) == 1 {
		a.io.Notef("%s", a.io.ErrStyle.Faint(taskPhrase(&tasks[0])+", task "+tasks[0].ID))
	}
	last, err := a.watch(ctx, c, tasks, f.logs)
	if err != nil {
		return err
	}
	if f.logs {
		last = nil // shown already
	}
	ended := a.conclude(tasks, last)
	if a.format != out.FormatTable {
		if err := a.io.Write(a.format, s.data(tasks), nil); err != nil {
			return err
		}
	}
	return ended
}

// seen reports whether a task was there before, by the key that was given.
func (f *runFlags) seen(t *api.Task) bool {
	ours := t.IdempotencyKey == f.key || t.IdempotencyKey == f.key+"/"+t.TargetID
	return f.key != "" && ours && t.State != api.TaskQueued
}

// conclude tells how tasks ended: of one all there is to say; of several, each
// of which has its line already, how many succeeded.
func (a *app) conclude(tasks []api.Task, last []string) error {
	good := 0
	for i := range tasks {
		if tasks[i].State == api.TaskSucceeded {
			good++
		}
	}
	if len(tasks) == 1 {
		for _, line := range summary(&tasks[0], last, a.io.ErrStyle) {
			a.io.Notef("%s", line)
		}
	} else {
		a.io.Notef("%s", a.io.ErrStyle.Bold(fmt.Sprintf("%d of %d succeeded", good, len(tasks))))
	}
	if good < len(tasks) {
		return exitCode(exitFailed)
	}
	return nil
}

// ask queues a task that only looks, and returns it as it ended.
func (a *app) ask(ctx context.Context, c *client.Client, req api.TaskRequest) (*api.Task, error) {
	tasks, err := a.submit(ctx, c, &scope{}, req)
	if err != nil {
		return nil, err
	}
	last, err := a.watch(ctx, c, tasks, false)
	if err != nil {
		return nil, err
	}
	if tasks[0].State == api.TaskSucceeded {
		return &tasks[0], nil
	}
	return &tasks[0], a.conclude(tasks, last)
}
