package cli

import (
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) stickerCommand() *cobra.Command {
	return noun("sticker", "Version stickers: what a target says of itself", a.stickerReadCommand())
}

func (a *app) stickerReadCommand() *cobra.Command {
	var run runFlags
	var p api.InspectPayload
	cmd := &cobra.Command{
		Use:               "read TARGET",
		Short:             "Read the version sticker that is on a target",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeTargets(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			req, err := run.request(api.TaskReadSticker, names[0], p)
			if err != nil {
				return err
			}
			task, err := a.ask(cmd.Context(), c, req)
			if err != nil {
				return err
			}
			s := stickerOf(task)
			if s == nil {
				return &Error{
					Code: exitNotFound, What: "there is no sticker on " + names[0],
					Next: "a deployment puts one there: `stella deploy " + names[0] + "`",
				}
			}
			return a.io.Write(a.format, s, func() { a.showSticker(s) })
		},
	}
	cmd.Flags().StringVar(&p.ContainerName, "name", "", "docker: the `container`'s name; the target's when left out")
	run.addLimits(cmd.Flags())
	return cmd
}

func (a *app) showSticker(s *api.VersionSticker) {
	a.io.Pairs(
		[2]string{"Release", a.io.OutStyle.Bold(first(s.ReleaseName, s.ReleaseID))},
		[2]string{"Release id", s.ReleaseID},
		[2]string{"Image", s.Image},
		[2]string{"Digest", s.Digest},
		[2]string{"Before", s.PreviousDigest},
		[2]string{"Target", s.TargetName},
		[2]string{"Environment", s.Environment},
		[2]string{"Deployed", s.DeployedAt.UTC().Format(time.RFC3339) + " (" + out.Ago(s.DeployedAt, a.now()) + ")"},
		[2]string{"Task", s.TaskID},
		[2]string{"Agent", s.AgentID},
	)
}
