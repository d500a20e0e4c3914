package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

const caHelp = `The installation's certificate authority, and how the next one takes its place
without any agent registering again:

  stella ca prepare    make the next authority; agents trust both
  stella ca activate   the next authority issues; agents get its certificates
  stella ca retire     the one before is trusted no more

and how the key that signs tasks and commands is replaced, at once:

  stella ca rotate-signing-key

Between two steps, ` + "`stella ca status`" + ` shows how many agents have followed. A step
waits twenty seconds after the one before, so that all servers know of it.`

func (a *app) caCommand() *cobra.Command {
	cmd := noun("ca", "The certificate authority: look at it, and rotate it",
		a.caStatusCommand(),
		a.caStepCommand("prepare", "Make the next authority, and have it trusted", "the next authority is trusted, beside the present one", (*client.Client).PrepareCA),
		a.caStepCommand("activate", "Have the next authority issue", "the next authority issues; the one before is trusted still", (*client.Client).ActivateCA),
		a.caRetireCommand(),
		a.caStepCommand("rotate-signing-key", "Make the next key that signs tasks and commands", "the next key signs in twenty seconds; agents follow by themselves", (*client.Client).RotateSigningKey))
	cmd.Long = caHelp
	return cmd
}

func (a *app) caStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the authorities, and who has followed a rotation", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			s, err := c.CA(cmd.Context())
			if err != nil {
				return err
			}
			return a.io.Write(a.format, s, func() { a.showCA(s) })
		},
	}
}

func (a *app) caStepCommand(name, short, done string, do func(*client.Client, context.Context) (*api.CAStatus, error)) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Long: short + ".\n\n" + caHelp, Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.caStep(cmd.Context(), done, do)
		},
	}
}

func (a *app) caStep(ctx context.Context, done string, do func(*client.Client, context.Context) (*api.CAStatus, error)) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	s, err := do(c, ctx)
	if err != nil {
		return err
	}
	return a.io.Write(a.format, s, func() {
		a.io.Printf("%s %s\n\n", a.io.OutStyle.Good("✓"), done)
		a.showCA(s)
	})
}

func (a *app) caRetireCommand() *cobra.Command {
	var req api.CARetireRequest
	cmd := &cobra.Command{
		Use: "retire", Short: "End the trust in the authority before", Args: args(cobra.NoArgs),
		Long: `End the trust in the authority before the one that issues. It is refused while an
agent that is up would be lost; those that are not heard may be given up with
--lose-dead, and are registered again when they come back.

Registration tokens from before the activation are worth nothing then, and a
command line that trusts the old root logs in again.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.caStep(cmd.Context(), "the authority before is not trusted any more", func(c *client.Client, ctx context.Context) (*api.CAStatus, error) {
				return c.RetireCA(ctx, req)
			})
		},
	}
	cmd.Flags().BoolVar(&req.LoseDead, "lose-dead", false, "agents that are not heard may be lost")
	return cmd
}

func (a *app) showCA(s *api.CAStatus) {
	t := out.NewTable("AUTHORITY", "STATE", "MADE", "ISSUES UNTIL", "ROOT UNTIL", "PIN")
	for i := range s.Authorities {
		c := &s.Authorities[i]
		t.Row(c.ID, c.State, out.Ago(c.MadeAt, a.now()), day(c.IssuesUntil), day(c.NotAfter), c.Pin)
	}
	a.io.Table(t, "There is no authority.")
	a.io.Println()
	t = out.NewTable("SIGNING KEY", "STATE", "SIGNS FROM")
	for _, k := range s.SigningKeys {
		t.Row(k.ID, k.State, k.From.UTC().Format("2006-01-02 15:04:05Z"))
	}
	a.io.Table(t, "There is no signing key.")
	f := s.Agents
	a.io.Println()
	a.io.Pairs(
		[2]string{"Rotation", fmt.Sprintf("%s, since %s", s.Phase, out.Ago(s.Since, a.now()))},
		[2]string{"Agents", fmt.Sprintf("%d of %d have followed", f.Followed, f.Total)},
		[2]string{"Not yet", countOf(f.Waiting, "that are up")},
		[2]string{"Not heard", countOf(f.WaitingDead, "that have not followed")},
		[2]string{"For instance", out.Plain(strings.Join(f.Names, ", "))},
	)
	a.io.Notef("%s", caNext(s))
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

func countOf(n int, what string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", n, what)
}

// caNext says what there is to do.
func caNext(s *api.CAStatus) string {
	switch {
	case s.Phase == api.CASteady:
		return "`stella ca prepare` begins a rotation"
	case s.Agents.Waiting > 0:
		return "agents renew within a minute or so of a heartbeat: look again before the next step"
	case s.Phase == api.CAPrepared:
		return "next: `stella ca activate`"
	case s.Agents.WaitingDead > 0:
		return "next: start the agents that are not heard, or delete them; then `stella ca retire`"
	}
	return "next: `stella ca retire`; after it, command lines that trust the old root log in again"
}
