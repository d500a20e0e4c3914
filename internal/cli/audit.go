package cli

import (
	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) auditCommand() *cobra.Command {
	cmd := a.auditListCommand("audit")
	cmd.Long = `List who changed what, the newest first. ` + "`stella audit list`" + ` does the same.

The log is a chain: each line has the hash of the one before it, and the server
seals the end. ` + "`stella audit verify`" + ` says whether it is as it was written.`
	cmd.Args = unknownCommand
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(a.auditListCommand("list"), a.auditVerifyCommand())
	return cmd
}

func (a *app) auditListCommand(use string) *cobra.Command {
	var l listFlags
	cmd := &cobra.Command{
		Use:   use,
		Short: "List who changed what, the newest first",
		Example: `  stella audit list --filter 'action ~ "agent.*" and at > -1d'
  stella audit list --filter outcome=denied --limit 10
  stella audit list --limit 0 -o json > export.json   # what verify --file checks`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			f := client.AuditFilter{Filter: l.filter, Sort: l.sort, Limit: pageSize(l.limit)}
			events, err := take(c.Audit(cmd.Context(), f), l.limit)
			if err != nil {
				return err
			}
			list := api.AuditList{Items: events}
			return a.io.Write(a.format, list, func() { a.showAudit(list.Items) })
		},
	}
	l.add(cmd.Flags(), 50)
	return cmd
}

func (a *app) showAudit(events []api.AuditEvent) {
	t := out.NewTable("WHEN", "WHO", "ACTION", "OBJECT", "OUTCOME", "FROM", "DETAIL")
	for i := range events {
		e := &events[i]
		outcome := e.Outcome
		if outcome != "ok" {
			outcome = a.io.OutStyle.Warn(outcome)
		}
		t.Row(out.Ago(e.At, a.now()), e.Actor, e.Action, e.Object, outcome, e.Remote, out.Plain(e.Detail))
	}
	a.io.Table(t, "Nothing was changed yet.")
}
