package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) commandCommand() *cobra.Command {
	return noun("command", "Commands to agents: send them, and see what came of them",
		a.commandSendCommand(), a.commandListCommand(), a.commandShowCommand())
}

func (a *app) commandListCommand() *cobra.Command {
	var f client.CommandFilter
	var l listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List commands, the newest first",
		Example: `  stella command list --filter 'done=false and createdAt > -1h'
  stella command list --filter 'failed > 0 or expired > 0' --sort -createdAt`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.Filter, f.Sort, f.Limit = l.filter, l.sort, pageSize(l.limit)
			c, err := a.connect()
			if err != nil {
				return err
			}
			commands, err := take(c.Commands(cmd.Context(), f), l.limit)
			if err != nil {
				return err
			}
			list := api.CommandList{Items: commands}
			return a.io.Write(a.format, list, func() {
				empty := "No command was sent yet: `stella command send` sends one."
				if cmd.Flags().NFlag() > 0 {
					empty = "There are no such commands."
				}
				a.showCommands(list.Items, empty)
			})
		},
	}
	cmd.Flags().StringVar(&f.Type, "type", "", "only those of this type, as in drain")
	l.add(cmd.Flags(), 20)
	complete(cmd, "type", a.completeCommandTypes)
	return cmd
}

func (a *app) showCommands(commands []api.Command, empty string) {
	t := out.NewTable("ID", "TYPE", "TO", "RECIPIENTS", "COUNTS", "STATE", "AGE", "BY")
	for i := range commands {
		c := &commands[i]
		t.Row(c.ID, c.Type, commandTo(c), fmt.Sprint(c.Recipients), strings.Join(counted(c.Counts), ", "), a.commandState(c),
			strings.TrimSuffix(out.Ago(c.CreatedAt, a.now()), " ago"), c.CreatedBy)
	}
	a.io.Table(t, empty)
}

// commandTo says whom a command was sent to.
func commandTo(c *api.Command) string {
	switch c.Scope {
	case api.ScopeAgent:
		return "agent " + c.Recipient
	case api.ScopeGroup:
		return "group " + c.Recipient
	case api.ScopeAll:
	}
	return "all"
}

// counted says how many recipients are in which state, and leaves out what
// none is in.
func counted(n api.CommandCounts) []string {
	var words []string
	for _, state := range []struct {
		n    int
		word string
	}{
		{n.Acknowledged, "acknowledged"}, {n.Failed, "failed"}, {n.Expired, "expired"}, {n.Delivered, "delivered"}, {n.Pending, "pending"},
	} {
		if state.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", state.n, state.word))
		}
	}
	return words
}

// commandState is done or open, coloured by how it went so far.
func (a *app) commandState(c *api.Command) string {
	style, text := a.io.OutStyle, "open"
	if c.Done {
		text = "done"
	}
	switch {
	case c.Counts.Failed+c.Counts.Expired > 0:
		return style.Bad(text)
	case c.Done && c.Recipients == 0:
		return style.Warn(text)
	case c.Done:
		return style.Good(text)
	}
	return text
}

func stateStyle(style out.Style, s api.CommandState) string {
	switch s {
	case api.CommandAcknowledged:
		return style.Good(string(s))
	case api.CommandFailed, api.CommandExpired:
		return style.Bad(string(s))
	case api.CommandPending, api.CommandDelivered:
	}
	return string(s)
}

func (a *app) commandShowCommand() *cobra.Command {
	var state string
	limit := 100
	cmd := &cobra.Command{
		Use:   "show COMMAND",
		Short: "Show a command and what came of it with each agent",
		Long: `Show a command and what came of it with each agent that it was sent to, in the
order of their ids; the answer too when there is one agent. -o json and -o yaml
have the answers of all.`,
		Example: `  stella command show 0198f3c2-… --state failed
  stella command show 0198f3c2-… -o json | jq -r '.deliveries[] | [.agentName, .result.version] | @tsv'`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeCommands,
		RunE: func(cmd *cobra.Command, ids []string) error {
			if state != "" && !slices.Contains(commandStates, state) {
				return wrongUse("use "+strings.Join(commandStates[:4], ", ")+" or expired", "%q is no state of a command", state)
			}
			if a.format != out.FormatTable && !cmd.Flags().Changed("limit") {
				limit = 0 // a program would not see that the rest is missing
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			p, err := c.Command(cmd.Context(), ids[0], client.DeliveryFilter{Limit: 1})
			if err != nil {
				return err
			}
			p.Next = ""
			if p.Deliveries, err = recipientsOf(cmd.Context(), c, p.ID, api.CommandState(state), limit); err != nil {
				return err
			}
			return a.io.Write(a.format, p, func() { a.showCommand(p, api.CommandState(state)) })
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only agents with which it is pending, delivered, acknowledged, failed or expired")
	cmd.Flags().IntVar(&limit, "limit", limit, "how many agents at the most; 0 for all")
	complete(cmd, "state", fixed(commandStates...))
	return cmd
}

var commandStates = []string{
	string(api.CommandPending), string(api.CommandDelivered), string(api.CommandAcknowledged), string(api.CommandFailed), string(api.CommandExpired),
}

func (a *app) showCommand(p *api.CommandProgress, state api.CommandState) {
	expires := ""
	if !p.Done {
		expires = out.Ago(p.ExpiresAt, a.now())
	}
	a.io.Pairs(
		[2]string{"Command", p.ID},
		[2]string{"Type", p.Type},
		[2]string{"To", commandTo(&p.Command)},
		[2]string{"Payload", out.Plain(string(p.Payload))},
		[2]string{"State", a.commandState(&p.Command)},
		[2]string{"Recipients", strings.TrimSuffix(plural(p.Recipients, "agent")+": "+strings.Join(counted(p.Counts), ", "), ": ")},
		[2]string{"By", p.CreatedBy},
		[2]string{"Sent", p.CreatedAt.UTC().Format(time.RFC3339) + " (" + out.Ago(p.CreatedAt, a.now()) + ")"},
		[2]string{"Expires", expires},
	)
	if p.Recipients == 0 {
		return
	}
	a.io.Println()
	t := out.NewTable("AGENT", "STATE", "DELIVERED AFTER", "ANSWERED AFTER", "ERROR")
	for i := range p.Deliveries {
		d := &p.Deliveries[i]
		answered := after(p.CreatedAt, d.EndedAt)
		if d.State == api.CommandExpired {
			answered = ""
		}
		t.Row(d.AgentName, stateStyle(a.io.OutStyle, d.State), after(p.CreatedAt, d.DeliveredAt), answered, out.Plain(oneLine(d.Error)))
	}
	a.io.Table(t, fmt.Sprintf("With no agent is it %s.", state))
	total := map[api.CommandState]int{
		"": p.Recipients, api.CommandPending: p.Counts.Pending, api.CommandDelivered: p.Counts.Delivered,
		api.CommandAcknowledged: p.Counts.Acknowledged, api.CommandFailed: p.Counts.Failed, api.CommandExpired: p.Counts.Expired,
	}[state]
	if left := total - len(p.Deliveries); left > 0 && len(p.Deliveries) > 0 {
		a.io.Notef("… and %d more: --limit 0 shows all, --state failed those that failed", left)
	}
	if p.Recipients == 1 && len(p.Deliveries) == 1 && len(p.Deliveries[0].Result) > 0 {
		a.io.Println()
		a.showAnswer(p.Deliveries[0].Result)
	}
}

// after is how long after another a time was.
func after(from time.Time, to *time.Time) string {
	if to == nil {
		return ""
	}
	d := max(0, to.Sub(from))
	if d < time.Second {
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
	return out.Seconds(d)
}

// commandsOf are the types of commands that an agent's user has added.
func commandsOf(g *api.Agent) []string {
	var kinds []string
	for _, c := range g.Capabilities {
		if isCommand(c) {
			kinds = append(kinds, strings.TrimPrefix(c, commandPrefix))
		}
	}
	return kinds
}

// commandPrefix is before the type of a command that an agent declares.
const commandPrefix = "command."

func isCommand(capability string) bool { return strings.HasPrefix(capability, commandPrefix) }

func keysOf(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }

func (a *app) completeCommands(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completeFrom(1, func(ctx context.Context, c *client.Client) ([]string, error) {
		page, err := c.CommandPage(ctx, client.CommandFilter{Limit: 50})
		if err != nil {
			return nil, err
		}
		names := make([]string, len(page.Items))
		for i := range page.Items {
			k := &page.Items[i]
			names[i] = cobra.CompletionWithDesc(k.ID, k.Type+" to "+commandTo(k))
		}
		return names, nil
	})(cmd, args, prefix)
}
