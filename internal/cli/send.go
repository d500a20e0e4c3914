package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

// commandTypes are the types that every agent knows, as completion tells them.
// Which those are is the server's to say: to it every type goes as it is.
var commandTypes = []cobra.Completion{
	cobra.CompletionWithDesc("collect-logs", "the end of the agent's own log"),
	cobra.CompletionWithDesc("config-update", "for an executable of yours"),
	cobra.CompletionWithDesc("deep-trace", "for an executable of yours"),
	cobra.CompletionWithDesc("doctor", "look whether the agent and its host are well"),
	cobra.CompletionWithDesc("drain", "take no new tasks"),
	cobra.CompletionWithDesc("renew-certificate", "get a new certificate now"),
	cobra.CompletionWithDesc("replay", "for an executable of yours"),
	cobra.CompletionWithDesc("resume", "take new tasks again"),
	cobra.CompletionWithDesc("ssh-scan", "the keys that an SSH server shows"),
	cobra.CompletionWithDesc("update", "bring the agent up to date"),
}

// recipients are whom a command is for: one of the three.
type recipients struct {
	agent, group string
	all, yes     bool
}

// sending is a command that is to be sent, and how.
type sending struct {
	to      recipients
	req     api.CommandRequest
	payload string
	expires seconders
	wait    bool
}

func (a *app) commandSendCommand() *cobra.Command {
	var s sending
	cmd := &cobra.Command{
		Use:   "send TYPE",
		Short: "Send a command to an agent, a group of agents, or all",
		Long: `Send a command to an agent, to the live agents of a group, or to all live agents.
What handles it is built into the agent, or an executable that its user has put
there; ` + "`stella agent show`" + ` lists those. More than one agent is asked about first.

It does not wait, unless --wait says so; then it ends with 0 when all agents
have acknowledged, and with 1 when one has not. An agent's answer goes to stdout
when the command is for that agent alone. An interrupt ends the waiting; the
command goes on.`,
		Example: `  stella command send doctor --agent prod-01 --wait
  stella command send drain --group web --payload '{"reason":"kernel update"}' --wait
  stella command send config-update --all --payload @settings.json --expires 10m --yes`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeCommandTypes,
		RunE: func(cmd *cobra.Command, types []string) error {
			s.req.Type, s.req.ExpiresIn = types[0], s.expires.value
			if err := s.to.check(); err != nil {
				return err
			}
			if cmd.Flags().Changed("payload") {
				var err error
				if s.req.Payload, err = a.readPayload(s.payload); err != nil {
					return err
				}
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			return a.send(cmd.Context(), c, &s)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.to.agent, "agent", "", "the `agent` to send it to, by name or id")
	flags.StringVar(&s.to.group, "group", "", "the `group` to whose live agents to send it")
	flags.BoolVar(&s.to.all, "all", false, "send it to all live agents")
	flags.BoolVarP(&s.to.yes, "yes", "y", false, "do not ask, however many agents get it")
	flags.StringVar(&s.payload, "payload", "", "what the command's handler gets: `JSON`, or @FILE, or - for stdin")
	flags.Var(&s.expires, "expires", "how long the agents may take to answer; 60s when left out")
	flags.BoolVar(&s.wait, "wait", false, "wait until all have answered, or the time is over")
	complete(cmd, "agent", a.completeAgents(0))
	complete(cmd, "group", a.completeGroups)
	return cmd
}

// check holds that it is said who gets the command, and said once.
func (r *recipients) check() error {
	var said []string
	if r.agent != "" {
		said = append(said, "--agent")
	}
	if r.group != "" {
		said = append(said, "--group")
	}
	if r.all {
		said = append(said, "--all")
	}
	const next = "give one of the three: --agent NAME, --group GROUP or --all"
	switch len(said) {
	case 0:
		return wrongUse(next, "it is not said who gets the command")
	case 1:
		return nil
	}
	return wrongUse(next, "%s both say who gets the command", strings.Join(said, " and "))
}

// readPayload returns the JSON of a flag, of a file or of stdin.
func (a *app) readPayload(flag string) (json.RawMessage, error) {
	text, from := []byte(flag), "the payload"
	var err error
	switch name, isFile := strings.CutPrefix(flag, "@"); {
	case flag == "-":
		from = "the payload from stdin"
		if text, err = io.ReadAll(a.io.In); err != nil {
			return nil, fmt.Errorf("read the payload from stdin: %w", err)
		}
	case isFile:
		from = "the payload in " + name
		if text, err = os.ReadFile(name); err != nil {
			return nil, wrongUse("", "the payload: %v", err)
		}
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, wrongUse("leave --payload out to send none", "%s is empty", from)
	}
	var raw json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, wrongUse("a text needs quotes of its own, as in --payload '\"text\"'", "%s is no JSON: %s", from, whereInJSON(text, err))
	}
	return raw, nil
}

// whereInJSON adds line and column to what is wrong with a JSON text.
func whereInJSON(text []byte, err error) string {
	syntax, ok := errors.AsType[*json.SyntaxError](err)
	if !ok {
		return err.Error()
	}
	before := text[:max(0, min(int(syntax.Offset)-1, len(text)))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := 1 + len([]rune(string(before[bytes.LastIndexByte(before, '\n')+1:])))
	return fmt.Sprintf("line %d, column %d: %s", line, column, syntax.Error())
}

// send says how many agents a command reaches, asks when they are several,
// sends it, and waits for its end if that is wanted.
func (a *app) send(ctx context.Context, c *client.Client, s *sending) error {
	if err := a.agreeToReach(ctx, c, s); err != nil {
		return err
	}
	sent, err := sendTo(ctx, c, s)
	if err != nil {
		return err
	}
	if sent.Recipients == 0 {
		return a.reachedNobody(sent)
	}
	if s.wait {
		a.io.Notef("%s", a.io.ErrStyle.Faint(fmt.Sprintf("%s to %s, command %s", sent.Type, commandTo(sent), sent.ID)))
		return a.await(ctx, c, sent)
	}
	return a.io.Write(a.format, sent, func() {
		a.io.Notef("%s was sent to %s and expires in %s; `stella command show %s` shows what comes of it",
			sent.Type, plural(sent.Recipients, "agent"), out.Span(sent.ExpiresAt.Sub(sent.CreatedAt)), sent.ID)
		a.io.Println(sent.ID)
	})
}

// agreeToReach asks whether so many agents are meant. The server fixes who they
// are when the command comes; a moment earlier they are as good as known.
func (a *app) agreeToReach(ctx context.Context, c *client.Client, s *sending) error {
	if s.to.agent != "" {
		g, err := c.Agent(ctx, s.to.agent)
		if err != nil {
			return err
		}
		if g.Liveness != api.Live {
			a.io.Notef("%s %s is %s: the command waits for it until it expires", a.io.ErrStyle.Warn("warning:"), g.Name, g.Liveness)
		}
		return nil
	}
	names, err := reach(ctx, c, s)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		a.io.Notef("%s reaches %s: %s", s.req.Type, plural(len(names), "live agent")+s.to.of(), someOf(names))
	}
	switch {
	case len(names) < 2 || s.to.yes:
		return nil
	case !a.io.InTTY:
		return wrongUse("give --yes if they are what you mean, or name one by --agent", "%d agents would get it, and there is nobody to ask", len(names))
	}
	return a.confirm("Send %s to these %d agents?", s.req.Type, len(names))
}

func (r *recipients) of() string {
	if r.group == "" {
		return ""
	}
	return " of group " + r.group
}

// reach returns the names of those who get the command: the live, active agents
// of the group or of all, and of a type that not every agent knows, those that
// declare it.
func reach(ctx context.Context, c *client.Client, s *sending) ([]string, error) {
	declared := []string{""}
	if !isCommandType(s.req.Type) {
		declared = []string{commandPrefix + s.req.Type, s.req.Type}
	}
	var names []string
	seen := map[string]bool{}
	for _, capability := range declared {
		f := client.AgentFilter{Group: s.to.group, Status: string(api.Live), Capability: capability, Limit: 500}
		for g, err := range c.Agents(ctx, f) {
			if err != nil {
				return nil, err
			}
			if g.Lifecycle == api.LifecycleActive && !seen[g.ID] {
				seen[g.ID] = true
				names = append(names, g.Name)
			}
		}
	}
	return names, nil
}

func isCommandType(kind string) bool {
	for _, known := range commandTypes {
		if name, _, _ := strings.Cut(known, "\t"); name == kind {
			return true
		}
	}
	return false
}

// someOf names the first of many.
func someOf(names []string) string {
	const most = 8
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

func sendTo(ctx context.Context, c *client.Client, s *sending) (*api.Command, error) {
	switch {
	case s.to.agent != "":
		return c.SendCommand(ctx, s.to.agent, s.req)
	case s.to.group != "":
		return c.SendCommandToGroup(ctx, s.to.group, s.req)
	}
	return c.SendCommandToAll(ctx, s.req)
}

// reachedNobody tells of a command that was recorded, and is over.
func (a *app) reachedNobody(sent *api.Command) error {
	if a.format != out.FormatTable {
		if err := a.io.Write(a.format, sent, nil); err != nil {
			return err
		}
	}
	who := "no agent"
	if sent.Scope == api.ScopeGroup {
		who += " of group " + sent.Recipient
	}
	return failed("`stella agent list` shows the agents with their status and group", "nobody got the command: %s is live that could take it", who)
}

func (a *app) completeCommandTypes(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	found, _ := a.completeFrom(1, func(ctx context.Context, c *client.Client) ([]string, error) {
		page, err := c.AgentPage(ctx, client.AgentFilter{Limit: 500})
		if err != nil {
			return nil, err
		}
		declared := map[string]bool{}
		for i := range page.Items {
			for _, kind := range commandsOf(&page.Items[i]) {
				declared[kind] = true
			}
		}
		return keysOf(declared), nil
	})(cmd, args, prefix)
	for _, known := range commandTypes {
		if strings.HasPrefix(known, prefix) {
			found = append(found, known)
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeGroups(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completeFrom(0, func(ctx context.Context, c *client.Client) ([]string, error) {
		page, err := c.AgentPage(ctx, client.AgentFilter{Limit: 500})
		if err != nil {
			return nil, err
		}
		groups := map[string]bool{}
		for i := range page.Items {
			if g := page.Items[i].Group; g != "" {
				groups[g] = true
			}
		}
		return keysOf(groups), nil
	})(cmd, args, prefix)
}

// askAgent sends a command to one agent, waits, and reads its answer into a
// value. It returns the agent's name. When the agent does not answer, or says
// that it failed, the error says what it could not do, and what to do next.
func (a *app) askAgent(ctx context.Context, c *client.Client, agent string, req api.CommandRequest, into any, couldNot, next string) (string, error) {
	sent, err := c.SendCommand(ctx, agent, req)
	if err != nil {
		return "", err
	}
	if _, err := a.untilDone(ctx, c, sent); err != nil {
		return "", err
	}
	answers, err := recipientsOf(ctx, c, sent.ID, "", 1)
	if err != nil {
		return "", err
	}
	if len(answers) == 0 {
		return "", a.reachedNobody(sent)
	}
	d := answers[0]
	if d.State != api.CommandAcknowledged {
		return "", failed(next, "%s %s: %s", d.AgentName, couldNot, first(out.Plain(d.Error), "it did not answer in time"))
	}
	if err := json.Unmarshal(d.Result, into); err != nil {
		return "", fmt.Errorf("the agent's answer: %w", err)
	}
	return d.AgentName, nil
}
