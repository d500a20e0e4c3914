package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) execCommand() *cobra.Command {
	var run runFlags
	var p api.CommandPayload
	var env, envFiles []string
	cmd := &cobra.Command{
		Use:   "exec TARGET [flags] -- COMMAND [ARG…]",
		Short: "Run a command on a target: in its container, or on the host",
		Long: `Run a command on a target: in its container (docker), or in its current release
(host). Its stdout and stderr are written here as they come, line by line; it
has no stdin. No shell is put around it: write sh -c '…' for one.

It ends with the command's own exit code, and with 125 when it is Stella that
failed. An interrupt asks the agent to stop the command.`,
		Example: `  stella exec web -- nginx -t
  stella exec web --user postgres -- sh -c 'pg_dump app | wc -c'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); len(args) < 2 || dash == 0 || dash > 1 {
				return wrongUse("use it as in `stella exec TARGET -- COMMAND ARG`", "name one target, and after -- the command to run there")
			}
			return nil
		},
		ValidArgsFunction: a.completeTargets(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Command = args[1:]
			var err error
			if p.Environment, err = a.environment(env, envFiles); err != nil {
				return err
			}
			req, err := run.request(api.TaskExecuteCommand, args[0], p)
			if err != nil {
				return err
			}
			code, err := a.exec(cmd.Context(), req)
			if err != nil {
				e := *explain(err)
				if e.Code != exitInterrupted {
					e.Code = exitStella
				}
				return &e
			}
			if code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&p.User, "user", "u", "", "docker: the user to run it as")
	flags.StringVarP(&p.WorkingDir, "workdir", "w", "", "the `folder` to run it in")
	flags.StringArrayVarP(&env, "env", "e", nil, "a variable, as in `NAME=value`; NAME alone takes your own value; may be given several times")
	flags.StringArrayVar(&envFiles, "env-file", nil, "a `file` of variables, one NAME=value in each line")
	flags.StringVar(&p.ContainerName, "name", "", "docker: the `container`'s name; the target's when left out")
	run.addLimits(flags)
	return cmd
}

// exec runs a command and returns its exit code.
func (a *app) exec(ctx context.Context, req api.TaskRequest) (int, error) {
	c, err := a.connect()
	if err != nil {
		return 0, err
	}
	task, err := c.SubmitTask(ctx, req)
	if err != nil {
		return 0, err
	}
	w := &watcher{app: a, client: c, progress: a.io.Progress(), started: map[string]time.Time{}}
	defer w.progress.Stop()
	err = w.stream(ctx, task)
	w.progress.Stop()
	if err == nil {
		task, err = c.Task(ctx, task.ID)
	}
	if errors.Is(err, context.Canceled) {
		a.stopCommand(ctx, c, task.ID)
	}
	if err != nil {
		return 0, err
	}
	if a.format != out.FormatTable {
		if err := a.io.Write(a.format, task, nil); err != nil {
			return 0, err
		}
	}
	if code, ok := ownExitCode(task); ok {
		return code, nil
	}
	return 0, &Error{Code: exitStella, What: failure(task), Lines: lines(failureText(task)), Next: nextStep(task)}
}

// stream writes what the command writes to where it belongs. With data asked
// for as JSON or YAML, stdout is for that alone.
func (w *watcher) stream(ctx context.Context, task *api.Task) error {
	queue, begun := context.WithCancel(ctx)
	queued := make(chan struct{})
	go func() {
		defer close(queued)
		w.announceQueue(queue, task)
	}()
	stop := func() {
		begun()
		<-queued
	}
	defer stop()
	for e, err := range w.client.FollowTaskLogs(ctx, task.ID) {
		if err != nil {
			return err
		}
		stop()
		if e.Lost > 0 {
			w.app.io.Notef("… %s lost here", plural(int(e.Lost), "line"))
		}
		switch {
		case e.Phase != "" || e.Stream == "system":
		case e.Stream == "stdout" && w.app.format == out.FormatTable:
			w.app.io.Println(e.Text)
		default:
			w.app.io.Notef("%s", e.Text)
		}
	}
	return nil
}

// stopCommand asks for the command to be stopped, for whoever pressed Ctrl-C
// meant it and not the watching.
func (a *app) stopCommand(ctx context.Context, c *client.Client, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := c.CancelTask(ctx, id); err != nil {
		a.io.Notef("the command could not be stopped: %v; `stella task cancel %s` tries again", err, id)
		return
	}
	a.io.Notef("the agent was asked to stop the command (task %s)", id)
}

// ownExitCode is that of the command, when it ran to its end.
func ownExitCode(t *api.Task) (int, bool) {
	if t.Result == nil || t.Result.ErrorType != "" && t.Result.ErrorType != api.ErrCommandFailed {
		return 0, false
	}
	code, ok := t.Result.Outputs["exitCode"].(float64)
	if !ok || code < 0 || code > 255 {
		return 0, t.State == api.TaskSucceeded
	}
	return int(code), true
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}
