package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) taskCommand() *cobra.Command {
	return noun("task", "Tasks: what was done, is being done and waits",
		a.taskListCommand(), a.taskShowCommand(), a.taskLogsCommand(), a.taskCancelCommand())
}

func (a *app) taskListCommand() *cobra.Command {
	var f client.TaskFilter
	var state, typ string
	var l listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List tasks, the newest first",
		Example: `  stella task list --filter 'state=failed and createdAt > -7d and targetName ~ "web-*"'
  stella task list --filter 'type in (deploy, rollback)' --sort -finishedAt`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.State, f.Type = api.TaskState(state), api.TaskType(typ)
			f.Filter, f.Sort, f.Limit = l.filter, l.sort, pageSize(l.limit)
			c, err := a.connect()
			if err != nil {
				return err
			}
			tasks, err := take(c.Tasks(cmd.Context(), f), l.limit)
			if err != nil {
				return err
			}
			list := api.TaskList{Items: tasks}
			return a.io.Write(a.format, list, func() { a.showTasks(list.Items) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&state, "state", "", "only those that are queued, assigned, running, succeeded, failed, cancelled or expired")
	flags.StringVar(&typ, "type", "", "only those of this type, as in deploy")
	flags.StringVar(&f.Target, "target", "", "only those of this target")
	flags.StringVar(&f.Agent, "agent", "", "only those of this agent")
	l.add(flags, 20)
	complete(cmd, "state", fixed("queued", "assigned", "running", "succeeded", "failed", "cancelled", "expired"))
	complete(cmd, "type", fixed("deploy", "rollback", "health-check", "inspect", "execute-command", "upload-files", "write-sticker", "read-sticker"))
	complete(cmd, "target", a.completeTargets(0))
	complete(cmd, "agent", a.completeAgents(0))
	return cmd
}

func (a *app) showTasks(tasks []api.Task) {
	t := out.NewTable("ID", "TYPE", "TARGET", "STATE", "WHAT", "AGENT", "CREATED", "TOOK", "BY")
	for i := range tasks {
		k := &tasks[i]
		took := ""
		if d := duration(k); d > 0 {
			took = out.Seconds(d)
		}
		t.Row(k.ID, string(k.Type), k.TargetName, a.taskState(k), what(k), k.AgentName, out.Ago(k.CreatedAt, a.now()), took, k.CreatedBy)
	}
	a.io.Table(t, "There are no such tasks.")
}

func (a *app) taskState(t *api.Task) string {
	style, text := a.io.OutStyle, string(t.State)
	if t.Result != nil && t.Result.RolledBack {
		text += ", rolled back"
	}
	if t.CancelRequested && !t.State.Final() {
		text += ", being cancelled"
	}
	switch t.State {
	case api.TaskSucceeded:
		return style.Good(text)
	case api.TaskFailed, api.TaskExpired:
		return style.Bad(text)
	case api.TaskCancelled:
		return style.Warn(text)
	case api.TaskQueued, api.TaskAssigned, api.TaskRunning:
	}
	return text
}

// what is the essence of a task's payload, for a table.
func what(t *api.Task) string {
	switch t.Type {
	case api.TaskDeploy:
		var p api.DeployPayload
		if json.Unmarshal(t.Payload, &p) != nil {
			return ""
		}
		name := first(p.Config.ReleaseName, p.Config.ReleaseID)
		if p.Digest != "" {
			return first(name, p.Image+"@"+out.ShortDigest(p.Digest))
		}
		return first(name, plural(len(p.Artifacts), "file"))
	case api.TaskExecuteCommand:
		var p api.CommandPayload
		if json.Unmarshal(t.Payload, &p) != nil || len(p.Command) == 0 {
			return ""
		}
		text := out.Plain(p.Command[0])
		if len(p.Command) > 1 {
			text += " …"
		}
		return text
	case api.TaskRollback, api.TaskHealthCheck, api.TaskInspect, api.TaskUploadFiles, api.TaskWriteSticker, api.TaskReadSticker:
	}
	return ""
}

func (a *app) taskShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show TASK",
		Short:             "Show a task with its phases and its result",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeTasks,
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			t, err := c.Task(cmd.Context(), ids[0])
			if err != nil {
				return err
			}
			return a.io.Write(a.format, t, func() { a.showTask(t) })
		},
	}
}

func (a *app) showTask(t *api.Task) {
	stamp := func(at *time.Time) string {
		if at == nil {
			return ""
		}
		return at.UTC().Format(time.RFC3339) + " (" + out.Ago(*at, a.now()) + ")"
	}
	attempt := ""
	if t.Attempt > 1 {
		attempt = fmt.Sprint(t.Attempt)
	}
	reason := out.Plain(t.Reason)
	if t.Result != nil && t.Result.Error != "" {
		reason = "" // the result says it below
	}
	rows := [][2]string{
		{"Task", t.ID},
		{"What", taskPhrase(t)},
		{"State", a.taskState(t)},
		{"Reason", reason},
		{"Agent", t.AgentName},
		{"Attempt", attempt},
		{"Priority", string(t.Priority)},
		{"By", t.CreatedBy},
		{"Created", stamp(&t.CreatedAt)},
		{"Started", stamp(t.StartedAt)},
		{"Finished", stamp(t.FinishedAt)},
	}
	if t.State == api.TaskQueued {
		rows = append(rows, [2]string{"Waits until", stamp(&t.ExpiresAt)})
	}
	a.io.Pairs(rows...)
	a.showResult(t)
}

func (a *app) showResult(t *api.Task) {
	if !t.State.Final() {
		return
	}
	if t.Result != nil && len(t.Result.Phases) > 0 {
		a.io.Println()
		phases := out.NewTable("PHASE", "STATE", "TOOK")
		for _, p := range t.Result.Phases {
			phases.Row(p.Name, p.State, out.Seconds(time.Duration(p.DurationMs)*time.Millisecond))
		}
		a.io.Table(phases, "")
	}
	a.io.Println()
	for _, line := range summary(t, nil, a.io.OutStyle) {
		a.io.Println(line)
	}
}

func (a *app) taskLogsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs TASK",
		Short: "Print the log of a task",
		Long: `Print the log of a task, with what Stella itself says and the phases between the
lines of what ran. --follow goes on until the task is over. With -o json, each
entry is an object on a line of its own.`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeTasks,
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if follow {
				for e, err := range c.FollowTaskLogs(cmd.Context(), ids[0]) {
					if err != nil {
						return err
					}
					if err := a.logLine(&e); err != nil {
						return err
					}
				}
				return nil
			}
			logs, err := c.TaskLogs(cmd.Context(), ids[0])
			if err != nil {
				return err
			}
			if a.format != out.FormatTable {
				return a.io.Write(a.format, logs, nil)
			}
			for i := range logs.Entries {
				if err := a.logLine(&logs.Entries[i]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "wait for what is still to come, until the task is over")
	return cmd
}

func (a *app) logLine(e *api.LogEntry) error {
	if a.format != out.FormatTable {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		a.io.Printf("%s\n", line)
		return nil
	}
	style := a.io.OutStyle
	if e.Lost > 0 {
		a.io.Println(style.Warn("… " + plural(int(e.Lost), "line") + " lost here"))
	}
	text := out.Plain(e.Text)
	if e.Phase != "" {
		text = style.Bold(out.Plain(e.Phase + " " + e.PhaseState))
	}
	a.io.Printf("%s %s %s\n", style.Faint(e.At.UTC().Format("15:04:05.000")), style.Faint(fmt.Sprintf("%-6s", out.Plain(e.Stream))), text)
	return nil
}

func (a *app) taskCancelCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:               "cancel TASK…",
		Short:             "End queued tasks, or ask their agents to stop them",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeTasks,
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			ended := api.TaskList{Items: []api.Task{}}
			for _, id := range ids {
				t, err := a.cancel(cmd.Context(), c, id, wait)
				if err != nil {
					return err
				}
				ended.Items = append(ended.Items, *t)
			}
			if a.format == out.FormatTable {
				return nil
			}
			return a.io.Write(a.format, ended, nil)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the tasks are over")
	return cmd
}

func (a *app) cancel(ctx context.Context, c *client.Client, id string, wait bool) (*api.Task, error) {
	t, err := c.CancelTask(ctx, id)
	if err != nil {
		return nil, err
	}
	if !t.State.Final() && wait {
		waiting := []api.Task{*t}
		if _, err = a.watch(ctx, c, waiting, false); err != nil {
			return nil, err
		}
		t = &waiting[0]
	}
	if t.State.Final() {
		a.io.Notef("%s is %s", taskPhrase(t), t.State)
	} else {
		a.io.Notef("%s: its agent was asked to stop; `stella task show %s` tells how it ends", taskPhrase(t), t.ID)
	}
	return t, nil
}
