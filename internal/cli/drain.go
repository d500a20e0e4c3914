package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
)

const drainHelp = `Let an agent take no new tasks, until it is resumed. It finishes those that it
has, and stays drained when it is restarted. Tasks for it wait, as long as their
delivery timeout lets them.

It is short for ` + "`stella command send drain --agent AGENT --wait`" + `; with --group,
that drains a group.`

// agentCommandShortcut sends a command that has no more to it than an agent's
// name and perhaps a reason, and waits.
func (a *app) agentCommandShortcut(kind, short, long string, withReason bool) *cobra.Command {
	s := sending{req: api.CommandRequest{Type: kind}, wait: true}
	var reason string
	cmd := &cobra.Command{
		Use:               kind + " AGENT",
		Short:             short,
		Long:              long,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeAgents(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			s.to.agent, s.req.ExpiresIn = names[0], s.expires.value
			if reason != "" {
				payload, err := json.Marshal(map[string]string{"reason": reason})
				if err != nil {
					return err
				}
				s.req.Payload = payload
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			return a.send(cmd.Context(), c, &s)
		},
	}
	cmd.Flags().Var(&s.expires, "expires", "how long the agent may take to answer; 60s when left out")
	if withReason {
		cmd.Flags().StringVar(&reason, "reason", "", "a `text` that is shown wherever the agent is")
	}
	return cmd
}
