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
	var where scope
	var p api.CommandPayload
	var env, envFiles []string
	cmd := &cobra.Command{
		Use:   "exec TARGET [flags] -- COMMAND [ARG…]",
		Short: "Run a command on a target: in its container, or on the host",
		Long: `Run a command on a target: in its container (docker), in a service's container
(compose), or in its current release (host). Its stdout and stderr are written here as they come, line by line; it
has no stdin. No shell is put around it: write sh -c '…' for one.

It ends with the command's own exit code, and with 125 when it is Stella that
failed. An interrupt asks the agent to stop the command.` + selectHelp + `
Before each line that the commands write on several targets, there is the
target's name, as in "web-1 | text"; it ends with 1 when one of them failed.`,
		Example: `  stella exec web -- nginx -t
  stella exec web --user postgres -- sh -c 'pg_dump app | wc -c'
  stella exec --select env=production,label.tier=web --yes -- nginx -t`,
		Args: func(cmd *cobra.Command, args []string) error {
			named := 1
			if where.many() {
				named = 0
				if err := where.args(cmd, args); err != nil {
					return err
				}
			}
			if dash := cmd.ArgsLenAtDash(); len(args) <= named || dash >= 0 && dash != named {
				return wrongUse("use it as in `stella exec TARGET -- COMMAND ARG`", "name one target, and after -- the command to run there")
			}
			return nil
		},
		ValidArgsFunction: a.completeTargets(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			target, command := where.split(args)
			p.Command = command
			var err error
			if p.Environment, err = a.environment(env, envFiles); err != nil {
				return err
			}
			req, err := run.request(api.TaskExecuteCommand, target, p)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err == nil {
				err = a.find(ctx, c, &where)
			}
			if err != nil {
				return ofStella(err)
			}
			if err := a.agree(&where, "Run the command on these %d targets?"); err != nil {
				return err
			}
			return ofStella(a.exec(ctx, c, &where, req))
		},
	}
	flags := cmd.Flags()
	where.add(cmd)
	flags.StringVarP(&p.User, "user", "u", "", "docker, compose: the user to run it as")
	flags.StringVarP(&p.WorkingDir, "workdir", "w", "", "the `folder` to run it in")
	flags.StringArrayVarP(&env, "env", "e", nil, "a variable, as in `NAME=value`; NAME alone takes your own value; may be given several times")
	flags.StringArrayVar(&envFiles, "env-file", nil, "a `file` of variables, one NAME=value in each line")
	flags.StringVar(&p.ContainerName, "name", "", "docker: the `container`'s name; the target's when left out; compose: the service; needless when there is only one")
	run.addLimits(flags)
	return cmd
}

// ofStella tells an error apart from what the command ends with: by its exit
// code, unless that was the command's, or an interrupt's.
func ofStella(err error) error {
	if _, own := errors.AsType[exitCode](err); own || err == nil {
		return err
	}
	e := *explain(err)
	if e.Code != exitInterrupted {
		e.Code = exitStella
	}
	return &e
}

// exec runs a command, and ends with its exit code.
func (a *app) exec(ctx context.Context, c *client.Client, s *scope, req api.TaskRequest) error {
	tasks, err := a.submit(ctx, c, s, req)
	if err != nil {
		return err
	}
	_, err = a.follow(ctx, c, tasks, view{entry: (*watcher).output, data: true})
	if errors.Is(err, context.Canceled) {
		a.stopCommands(ctx, c, tasks)
	}
	if err != nil {
		return err
	}
	if a.format != out.FormatTable {
		if err := a.io.Write(a.format, s.data(tasks), nil); err != nil {
			return err
		}
	}
	if len(tasks) > 1 {
		return a.conclude(tasks, nil)
	}
	task := &tasks[0]
	switch code, ok := ownExitCode(task); {
	case !ok:
		return &Error{Code: exitStella, What: failure(task), Lines: lines(failureText(task)), Next: nextStep(task)}
	case code != 0:
		return exitCode(code)
	}
	return nil
}

// output writes what the command writes to where it belongs. With data asked
// for as JSON or YAML, stdout is for that alone.
func (w *watcher) output(e *api.LogEntry) {
	if e.Lost > 0 {
		w.linef("… %s lost here", plural(int(e.Lost), "line"))
	}
	switch {
	case e.Phase != "" || e.Stream == "system":
	case e.Stream == "stdout" && w.app.format == out.FormatTable:
		w.app.io.Println(w.prefix + e.Text)
	default:
		w.linef("%s", e.Text)
	}
}

// stopCommands asks for the commands to be stopped, for whoever pressed Ctrl-C
// meant them and not the watching.
func (a *app) stopCommands(ctx context.Context, c *client.Client, tasks []api.Task) {
	for i := range tasks {
		if !tasks[i].State.Final() {
			a.stopCommand(ctx, c, tasks[i].ID)
		}
	}
}

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
