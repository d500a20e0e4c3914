package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

// rollFlags are those of `stella deploy` that say how it goes over many targets.
type rollFlags struct {
	strategy                            string
	maxParallel, maxFailures, pauseFrom int
	onFailure                           string
}

// rollNames are their names: they mean something with --select alone.
var rollNames = []string{"strategy", "max-parallel", "max-failures", "pause-after", "on-failure"}

func (f *rollFlags) add(cmd *cobra.Command, flags *pflag.FlagSet) {
	flags.StringVar(&f.strategy, "strategy", "", "with --select: rolling (when left out), some at a time, or all-at-once")
	flags.IntVar(&f.maxParallel, "max-parallel", 0, "with --select: how many `targets` at a time; 1 when left out")
	flags.IntVar(&f.maxFailures, "max-failures", 0, "with --select: at how many failed `targets` to stop; 1 when left out")
	flags.IntVar(&f.pauseFrom, "pause-after", 0, "with --select: after how many `targets` to pause until `stella rollout resume`")
	flags.StringVar(&f.onFailure, "on-failure", "", "with --select, when it stops for its failures: stop (when left out), rollback-failed or rollback-all")
	complete(cmd, "strategy", fixed("rolling", "all-at-once"))
	complete(cmd, "on-failure", fixed(string(api.OnFailureStop), string(api.OnFailureRollbackFailed), string(api.OnFailureRollbackAll)))
}

// check refuses what means nothing for one target.
func (f *rollFlags) check(cmd *cobra.Command, many bool) error {
	for _, name := range rollNames {
		if !many && cmd.Flags().Changed(name) {
			return wrongUse("give --select instead of TARGET", "--%s is for a deployment to many targets", name)
		}
	}
	for name, n := range map[string]int{"max-parallel": f.maxParallel, "max-failures": f.maxFailures, "pause-after": f.pauseFrom} {
		if cmd.Flags().Changed(name) && n < 1 {
			return wrongUse("leave it out, or give 1 or more", "--%s %d is no number of targets", name, n)
		}
	}
	return nil
}

// rollOut deploys to the targets that were found, once their user has seen what
// would become of each.
func (a *app) rollOut(ctx context.Context, c *client.Client, f *rollFlags, run *runFlags, s *scope, req api.TaskRequest) error {
	if run.logs {
		return wrongUse("leave it out; `stella task logs` shows the log of each target's task", "--follow is for one target")
	}
	r := api.RolloutRequest{
		Payload: req.Payload, Credentials: req.Credentials, Strategy: f.strategy, MaxParallel: f.maxParallel, MaxFailures: f.maxFailures,
		PauseAfter: f.pauseFrom, OnFailure: api.OnFailure(f.onFailure), Timeout: req.Timeout, DeliveryTimeout: req.DeliveryTimeout,
		Priority: req.Priority, IdempotencyKey: req.IdempotencyKey,
	}
	for i := range s.found {
		r.Targets = append(r.Targets, s.found[i].ID)
	}
	preview, err := c.PreviewRollout(ctx, r)
	if err != nil {
		return err
	}
	a.showPreview(preview)
	if preview.Problems > 0 {
		return &Error{
			Code: exitFailed, What: fmt.Sprintf("%s cannot be deployed to, so nothing was begun", plural(preview.Problems, "target")),
			Next: "mend what the list says, or select other targets",
		}
	}
	if err := a.agree(s, "Deploy to these %d targets?"); err != nil {
		return err
	}
	made, err := c.CreateRollout(ctx, r)
	if err != nil {
		return err
	}
	if run.noWait || !run.wait {
		return a.io.Write(a.format, made, func() {
			a.io.Notef("the rollout to %s has begun; `stella rollout watch %s` shows it", plural(made.Total, "target"), made.ID)
			a.io.Println(made.ID)
		})
	}
	a.io.Notef("%s", a.io.ErrStyle.Faint("rollout "+made.ID))
	return a.watchRollout(ctx, c, made)
}

func (a *app) showPreview(p *api.RolloutPreview) {
	t := out.NewTable("TARGET", "ENVIRONMENT", "NOW", "THEN", "PROBLEM")
	for i := range p.Targets {
		x := &p.Targets[i]
		now := "nothing"
		if x.From != "" {
			now = version(x.From, x.FromDigest)
			if x.FromAt != nil {
				now += " (" + out.Ago(*x.FromAt, a.now()) + ")"
			}
		}
		problem := out.Plain(x.Problem)
		if problem != "" {
			problem = a.io.ErrStyle.Bad(problem)
		}
		t.Row(x.Name, x.Environment, now, version(x.To, x.ToDigest), problem)
	}
	a.io.NoteTable(t)
}

// version names a release, and an image by the beginning of its digest.
func version(release, digest string) string {
	short := digest
	if hex, ok := strings.CutPrefix(digest, "sha256:"); ok && len(hex) > 12 {
		short = "sha256:" + hex[:12]
	}
	switch {
	case release == "":
		return first(short, "a release of its own")
	case short == "":
		return release
	}
	return release + " " + short
}

func (a *app) rolloutCommand() *cobra.Command {
	return noun("rollout", "Rollouts: one deployment to many targets (stella deploy --select)",
		a.rolloutListCommand(), a.rolloutShowCommand(), a.rolloutWatchCommand(),
		a.rolloutSteerCommand("pause", "Begin no other target for now; those that were begun go on", "paused", (*client.Client).PauseRollout),
		a.rolloutResumeCommand(),
		a.rolloutSteerCommand("cancel", "End a rollout: stop the tasks that were begun, and begin no other", "cancelled", (*client.Client).CancelRollout),
		a.rolloutRollbackCommand())
}

func (a *app) rolloutListCommand() *cobra.Command {
	var l listFlags
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List rollouts, the newest first",
		Example: `  stella rollout list --filter 'state in (running, paused, stopped)'`,
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			rollouts, err := take(c.Rollouts(cmd.Context(), client.RolloutFilter{Filter: l.filter, Sort: l.sort, Limit: pageSize(l.limit)}), l.limit)
			if err != nil {
				return err
			}
			list := api.RolloutList{Items: rollouts}
			return a.io.Write(a.format, list, func() {
				t := out.NewTable("ID", "STATE", "RELEASE", "TARGETS", "BEGUN", "BY", "REASON")
				for i := range list.Items {
					r := &list.Items[i]
					t.Row(r.ID, rolloutStyle(a.io.OutStyle, r.State), first(r.ReleaseName, r.ReleaseID), strings.Join(tally(r), ", "),
						out.Ago(r.CreatedAt, a.now()), r.CreatedBy, out.Plain(oneLine(r.Reason)))
				}
				a.io.Table(t, "There are no rollouts: `stella deploy --select …` begins one.")
			})
		},
	}
	l.add(cmd.Flags(), 50)
	return cmd
}

func (a *app) rolloutShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show ROLLOUT",
		Short:             "Show a rollout and its targets",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeRollouts,
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			r, err := c.Rollout(cmd.Context(), ids[0])
			if err != nil {
				return err
			}
			return a.io.Write(a.format, r, func() {
				limits := fmt.Sprintf("%d at a time, stops at %s, then: %s", r.MaxParallel, plural(r.MaxFailures, "failure"), r.OnFailure)
				if r.PauseAfter > 0 {
					limits += fmt.Sprintf("; pauses after %d", r.PauseAfter)
				}
				a.io.Pairs(
					[2]string{"Id", a.io.OutStyle.Bold(r.ID)},
					[2]string{"State", rolloutStyle(a.io.OutStyle, r.State)},
					[2]string{"Reason", out.Plain(r.Reason)},
					[2]string{"Release", first(r.ReleaseName, r.ReleaseID)},
					[2]string{"Targets", strings.Join(tally(r), ", ")},
					[2]string{"Plan", limits},
					[2]string{"Begun", out.Ago(r.CreatedAt, a.now()) + " by " + r.CreatedBy},
				)
				a.io.Println()
				a.io.Table(rolloutTable(r, a.io.OutStyle), "")
			})
		},
	}
}

func (a *app) rolloutWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "watch ROLLOUT",
		Short:             "Show how a rollout goes on, until it is over or waits for somebody",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeRollouts,
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			r, err := c.Rollout(cmd.Context(), ids[0])
			if err != nil {
				return err
			}
			return a.watchRollout(cmd.Context(), c, r)
		},
	}
}

func (a *app) rolloutSteerCommand(verb, short, done string, steer func(*client.Client, context.Context, string) (*api.Rollout, error)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ROLLOUT", Short: short,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeRollouts,
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			r, err := steer(c, cmd.Context(), ids[0])
			if err != nil {
				return err
			}
			return a.io.Write(a.format, r, func() { a.io.Notef("rollout %s is %s: %s", r.ID, done, strings.Join(tally(r), ", ")) })
		},
	}
}

func (a *app) rolloutResumeCommand() *cobra.Command {
	var retry, wait bool
	cmd := &cobra.Command{
		Use:   "resume ROLLOUT",
		Short: "Go on with a rollout that is paused or stopped",
		Long: `Go on with a rollout that is paused or stopped. The failures until now count no
more towards its limit; with --retry-failed, the targets that failed have another
turn.`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeRollouts,
		RunE: func(cmd *cobra.Command, ids []string) error {
			return a.steerAndWatch(cmd.Context(), ids[0], wait, "goes on", func(ctx context.Context, c *client.Client, id string) (*api.Rollout, error) {
				return c.ResumeRollout(ctx, id, retry)
			})
		},
	}
	cmd.Flags().BoolVar(&retry, "retry-failed", false, "give the targets that failed another turn")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until it is over, or waits for somebody again")
	return cmd
}

func (a *app) rolloutRollbackCommand() *cobra.Command {
	var yes, wait bool
	cmd := &cobra.Command{
		Use:               "rollback ROLLOUT",
		Short:             "Bring the targets that a rollout has changed back to what they ran before",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeRollouts,
		RunE: func(cmd *cobra.Command, ids []string) error {
			if !yes {
				if err := a.confirm("Roll back what rollout %s has changed?", ids[0]); err != nil {
					return err
				}
			}
			return a.steerAndWatch(cmd.Context(), ids[0], wait, "goes back", func(ctx context.Context, c *client.Client, id string) (*api.Rollout, error) {
				return c.RollbackRollout(ctx, id)
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until the targets are back")
	return cmd
}

func (a *app) steerAndWatch(ctx context.Context, id string, wait bool, does string, steer func(context.Context, *client.Client, string) (*api.Rollout, error)) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	r, err := steer(ctx, c, id)
	if err != nil {
		return err
	}
	if !wait {
		return a.io.Write(a.format, r, func() { a.io.Notef("rollout %s %s; `stella rollout watch %s` shows it", r.ID, does, r.ID) })
	}
	return a.watchRollout(ctx, c, r)
}
