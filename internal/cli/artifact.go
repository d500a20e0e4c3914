package cli

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) artifactCommand() *cobra.Command {
	return noun("artifact", "Artifacts: files for deployments, in Stella's own store",
		a.artifactPushCommand(), a.artifactListCommand(), a.artifactShowCommand(), a.artifactPullCommand(), a.artifactRemoveCommand())
}

var hexPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// artifactID is how the server calls what a user calls artifact://sha256:…,
// sha256:…, or only by the digits; a name stays one.
func artifactID(text string) string {
	text = strings.TrimPrefix(text, api.ArtifactScheme)
	if hexPattern.MatchString(text) {
		return "sha256:" + text
	}
	return text
}

func (a *app) artifactListCommand() *cobra.Command {
	var f client.ArtifactFilter
	var l listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List artifacts, the newest first",
		Example: `  stella artifact list --filter 'name ~ "app-*" and complete=true'
  stella artifact list --sort -size --limit 10`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.Filter, f.Sort, f.Limit = l.filter, l.sort, pageSize(l.limit)
			c, err := a.connect()
			if err != nil {
				return err
			}
			artifacts, err := take(c.Artifacts(cmd.Context(), f), l.limit)
			if err != nil {
				return err
			}
			list := api.ArtifactList{Items: artifacts}
			return a.io.Write(a.format, list, func() { a.showArtifacts(list.Items) })
		},
	}
	cmd.Flags().StringVar(&f.Name, "name", "", "only those of this name")
	l.add(cmd.Flags(), 0)
	return cmd
}

func (a *app) showArtifacts(artifacts []api.Artifact) {
	t := out.NewTable("DIGEST", "NAME", "SIZE", "STATE", "AGE", "USED", "BY")
	for i := range artifacts {
		f := &artifacts[i]
		t.Row(out.ShortDigest(f.Digest), out.Plain(f.Name), out.Bytes(uint64(max(0, f.Size))), a.artifactState(f),
			strings.TrimSuffix(out.Ago(f.CreatedAt, a.now()), " ago"), out.Ago(f.LastUsedAt, a.now()), f.CreatedBy)
	}
	a.io.Table(t, "There are no artifacts: `stella artifact push FILE` adds one.")
}

func (a *app) artifactState(f *api.Artifact) string {
	if f.Complete {
		return a.io.OutStyle.Good("complete")
	}
	return a.io.OutStyle.Warn("uploading " + percent(f.Received, f.Size))
}

func percent(n, of int64) string { return fmt.Sprintf("%d%%", 100*n/max(1, of)) }

func (a *app) artifactShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show DIGEST|NAME",
		Short:             "Show an artifact, and what was made with it",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeArtifacts(1, true),
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			f, err := c.Artifact(cmd.Context(), artifactID(ids[0]))
			if err != nil {
				return err
			}
			return a.io.Write(a.format, f, func() { a.showArtifact(f) })
		},
	}
}

func (a *app) showArtifact(f *api.Artifact) {
	when := func(t time.Time) string { return t.UTC().Format(time.RFC3339) + " (" + out.Ago(t, a.now()) + ")" }
	a.io.Pairs(
		[2]string{"Digest", f.Digest},
		[2]string{"Name", out.Plain(f.Name)},
		[2]string{"Size", fmt.Sprintf("%s (%d bytes)", out.Bytes(uint64(max(0, f.Size))), f.Size)},
		[2]string{"State", a.artifactState(f)},
		[2]string{"Type", out.Plain(f.MediaType)},
		[2]string{"Notes", out.Plain(f.Notes)},
		[2]string{"By", f.CreatedBy},
		[2]string{"Pushed", when(f.CreatedAt)},
		[2]string{"Used", when(f.LastUsedAt)},
	)
	if len(f.UsedBy) == 0 {
		return
	}
	a.io.Println()
	t := out.NewTable("TASK", "TYPE", "TARGET", "STATE")
	for _, u := range f.UsedBy {
		t.Row(u.TaskID, string(u.Type), u.TargetName, string(u.State))
	}
	a.io.Table(t, "")
}

func (a *app) artifactRemoveCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove DIGEST…",
		Short: "Remove artifacts that nothing needs",
		Long: `Remove artifacts that nothing needs, and uploads that are not complete. It is
refused for what a task that is not over was made with, or a deployment that a
rollback may go back to. What nothing needs goes by itself after a while.`,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeArtifacts(0, false),
		RunE: func(cmd *cobra.Command, ids []string) error {
			if !yes {
				if err := a.confirm("Remove %s?", strings.Join(ids, ", ")); err != nil {
					return err
				}
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			for _, id := range ids {
				if err := c.DeleteArtifact(cmd.Context(), artifactID(id)); err != nil {
					return err
				}
				a.io.Notef("artifact %s is removed", id)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// completeArtifacts completes digests, and names too where they will do.
func (a *app) completeArtifacts(most int, names bool) cobra.CompletionFunc {
	return a.completeFrom(most, func(ctx context.Context, c *client.Client) ([]string, error) {
		page, err := c.ArtifactPage(ctx, client.ArtifactFilter{Limit: 200})
		if err != nil {
			return nil, err
		}
		var list []string
		for i := range page.Items {
			f := &page.Items[i]
			list = append(list, cobra.CompletionWithDesc(f.Digest, f.Name))
			if names && f.Name != "" {
				list = append(list, f.Name)
			}
		}
		return list, nil
	})
}
