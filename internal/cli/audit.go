package cli

import (
	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) auditCommand() *cobra.Command {
	limit := 50
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "List who changed what, the newest first",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			list := api.AuditList{Items: []api.AuditEvent{}}
			for e, err := range c.Audit(cmd.Context(), client.AuditFilter{Limit: pageSize(limit)}) {
				if err != nil {
					return err
				}
				if list.Items = append(list.Items, e); len(list.Items) == limit {
					break
				}
			}
			return a.io.Write(a.format, list, func() { a.showAudit(list.Items) })
		},
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "how many at the most; 0 for all")
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

// pageSize asks for no more than is wanted, and for no more than a page holds.
func pageSize(limit int) int {
	if limit <= 0 || limit > 500 {
		return 500
	}
	return limit
}
