package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) agentCommand() *cobra.Command {
	return noun("agent", "Agents: bootstrap, look at and end them",
		a.agentBootstrapCommand(), a.agentInstallScriptCommand(), a.agentListCommand(), a.agentShowCommand(), a.agentStatusCommand(),
		a.agentCommandShortcut("drain", "Let an agent take no new tasks, until it is resumed", drainHelp, true),
		a.agentCommandShortcut("resume", "Let a drained agent take new tasks again", "", false),
		a.agentRenewCertCommand(),
		a.agentLifecycleCommand("activate", "Let a deactivated agent work again", "is active", false, (*client.Client).ActivateAgent),
		a.agentLifecycleCommand("deactivate", "Give an agent no work, and keep its identity", "is inactive and gets no work", false, (*client.Client).DeactivateAgent),
		a.agentLifecycleCommand("revoke", "End an agent's identity for ever, and keep its record", "is revoked", true, (*client.Client).RevokeAgent),
		a.agentLifecycleCommand("delete", "End an agent's identity and remove its record", "is deleted", true,
			func(c *client.Client, ctx context.Context, name string) (*api.Agent, error) {
				return nil, c.DeleteAgent(ctx, name)
			}))
}

func (a *app) agentListCommand() *cobra.Command {
	var f client.AgentFilter
	var l listFlags
	var labels []string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List agents",
		Example: `  stella agent list --filter 'status=live and env=production and label.tier=web'
  stella agent list --filter 'name ~ "web-*" and lastHeartbeat < -10m' --sort -lastHeartbeat,name`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if f.Labels, err = labelMap(labels); err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			f.Filter, f.Sort, f.Limit = l.filter, l.sort, pageSize(l.limit)
			agents, err := take(c.Agents(cmd.Context(), f), l.limit)
			if err != nil {
				return err
			}
			list := api.AgentList{Items: agents}
			return a.io.Write(a.format, list, func() {
				empty := "There are no agents yet: `stella agent bootstrap` tells how to add one."
				if cmd.Flags().NFlag() > 0 {
					empty = "No agent matches."
				}
				a.io.Table(a.agentTable(list.Items), empty)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Status, "status", "", "only those of this `status`: online, degraded, offline, active, inactive, revoked, live, stale or dead")
	flags.StringVar(&f.Capability, "capability", "", "only those that can do this, as in docker.deploy")
	flags.StringVar(&f.Name, "name", "", "only the one of this name")
	flags.StringVar(&f.Environment, "env", "", "only those of this environment")
	flags.StringVar(&f.Group, "group", "", "only those of this group")
	flags.StringArrayVar(&labels, "label", nil, "only those with this label, as in `key=value`; may be given several times")
	l.add(flags, 0)
	complete(cmd, "status", fixed("online", "degraded", "offline", "active", "inactive", "revoked", "live", "stale", "dead"))
	return cmd
}

func (a *app) agentTable(agents []api.Agent) *out.Table {
	t := out.NewTable("NAME", "STATUS", "HEARTBEAT", "ENVIRONMENT", "GROUP", "PLATFORM", "VERSION", "CAPABILITIES")
	for i := range agents {
		g := &agents[i]
		t.Row(g.Name, a.agentStatus(g), a.ago(g.LastHeartbeat), g.Environment, g.Group, g.Platform, g.Version, capabilities(g.Capabilities))
	}
	return t
}

// agentStatus is the status with the reason for it, where there is one to give.
func (a *app) agentStatus(g *api.Agent) string {
	style, text := a.io.OutStyle, string(g.Status)
	switch {
	case g.Lifecycle != api.LifecycleActive:
		text += " (" + string(g.Lifecycle) + ")"
	case g.Liveness != api.Live:
		text += " (" + string(g.Liveness) + ")"
	case g.NotAccepting != "":
		text += " (no new tasks: " + out.Plain(g.NotAccepting) + ")"
	}
	if g.Clone != nil {
		return style.Bad(text + " (cloned: " + out.Plain(g.Clone.Held) + " uses its identity, too)")
	}
	switch g.Status {
	case api.StatusOnline:
		return style.Good(text)
	case api.StatusDegraded:
		return style.Warn(text)
	case api.StatusOffline:
	}
	return style.Bad(text)
}

func (a *app) ago(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return out.Ago(*t, a.now())
}

// capabilities shortens docker.deploy, docker.rollback … to docker.*
func capabilities(all []string) string {
	var kinds []string
	count := map[string]int{}
	for _, c := range all {
		kind, _, _ := strings.Cut(c, ".")
		if count[kind]++; count[kind] == 1 {
			kinds = append(kinds, kind)
		}
	}
	for i, kind := range kinds {
		if count[kind] > 1 {
			kinds[i] = kind + ".*"
			continue
		}
		for _, c := range all {
			if c == kind || strings.HasPrefix(c, kind+".") {
				kinds[i] = c
			}
		}
	}
	return strings.Join(kinds, ",")
}

func (a *app) agentShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show AGENT",
		Short:             "Show an agent",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeAgents(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			g, err := c.Agent(cmd.Context(), names[0])
			if err != nil {
				return err
			}
			return a.io.Write(a.format, g, func() { a.showAgent(g) })
		},
	}
}

func (a *app) showAgent(g *api.Agent) {
	certificate := ""
	if g.CertificateNotAfter != nil {
		certificate = "valid until " + g.CertificateNotAfter.UTC().Format(time.RFC3339)
		if g.CertificateFingerprint != "" {
			certificate += ", SHA-256 " + g.CertificateFingerprint
		}
	}
	connected := g.Transport
	if connected == "" {
		connected = "not connected"
	}
	a.io.Pairs(
		[2]string{"Name", a.io.OutStyle.Bold(g.Name)},
		[2]string{"Id", g.ID},
		[2]string{"Status", a.agentStatus(g)},
		[2]string{"Life cycle", string(g.Lifecycle)},
		[2]string{"Liveness", string(g.Liveness)},
		[2]string{"Heartbeat", a.ago(g.LastHeartbeat) + map[bool]string{true: ", signed"}[g.SignsHeartbeats]},
		[2]string{"Connection", connected},
		[2]string{"Version", g.Version},
		[2]string{"Platform", g.Platform},
		[2]string{"Environment", g.Environment},
		[2]string{"Group", g.Group},
		[2]string{"Labels", pairs(g.Labels)},
		[2]string{"Capabilities", strings.Join(slices.DeleteFunc(slices.Clone(g.Capabilities), isCommand), ", ")},
		[2]string{"Commands", strings.Join(commandsOf(g), ", ")},
		[2]string{"Routes", strings.Join(g.Routes, ", ")},
		[2]string{"Load", load(g.ResourceUsage)},
		[2]string{"Certificate", certificate},
		[2]string{"Cloned", cloned(g.Clone, a.now())},
		[2]string{"Registered", out.Ago(g.CreatedAt, a.now())},
	)
}

// cloned says what a person is to do about two hosts with one identity.
func cloned(c *api.AgentClone, now time.Time) string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("%s works; %s is held off, last %s. On the one that is the copy, stop the agent, remove its data folder and bootstrap it anew",
		out.Plain(c.Kept), out.Plain(c.Held), out.Ago(c.SeenAt, now))
}

func load(u *api.ResourceUsage) string {
	if u == nil {
		return ""
	}
	return fmt.Sprintf("CPU %.0f%%, memory %.0f%% of %s, disk %.0f%% (%s free)",
		u.CPUPercent, u.MemoryPercent, out.Bytes(u.MemoryTotalBytes), u.DiskPercent, out.Bytes(u.DiskFreeBytes))
}

// fleetStatus counts agents by what a list calls them.
type fleetStatus struct {
	Total        int         `json:"total"`
	Online       int         `json:"online"`
	Degraded     int         `json:"degraded"`
	Offline      int         `json:"offline"`
	NotOnline    []api.Agent `json:"-"`
	NotAccepting int         `json:"notAccepting"`
}

func (s *fleetStatus) add(g *api.Agent) {
	s.Total++
	switch g.Status {
	case api.StatusOnline:
		s.Online++
	case api.StatusDegraded:
		s.Degraded++
	case api.StatusOffline:
		s.Offline++
	}
	if g.NotAccepting != "" {
		s.NotAccepting++
	}
	if g.Status != api.StatusOnline || g.NotAccepting != "" {
		s.NotOnline = append(s.NotOnline, *g)
	}
}

func (a *app) agentStatusCommand() *cobra.Command {
	var local bool
	var socket string
	cmd := &cobra.Command{
		Use:   "status [AGENT]",
		Short: "Sum up the fleet, or say how one agent is, as this host's own",
		Long: `Sum up the fleet, or say how one agent is.

With --local or --socket it is the agent of this host, which is asked by its local
socket, and not through the server: it answers also when the server is out of reach.
So it is without them where no server is known and this host has an agent. The exit
code is 1 when that agent is not connected to its server.`,
		Example: `  stella agent status
  stella agent status prod-01
  stella agent status --local`,
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.completeAgents(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			here := local || socket != ""
			if here && len(names) == 1 {
				return wrongUse("give either", "--local and --socket are for the agent of this host, and not for %s", names[0])
			}
			if here {
				return a.statusHere(cmd.Context(), socket)
			}
			c, err := a.connect()
			if errors.Is(err, errNoServer) && len(names) == 0 {
				if path, none := a.findSocket(""); none == nil {
					return a.statusHere(cmd.Context(), path)
				}
			}
			switch {
			case err != nil:
				return err
			case len(names) == 1:
				return a.statusOf(cmd.Context(), c, names[0])
			}
			return a.statusOfAll(cmd.Context(), c)
		},
	}
	cmd.Flags().BoolVar(&local, "local", false, "the agent of this host, by its local socket")
	cmd.Flags().StringVar(&socket, "socket", "", socketFlag)
	return cmd
}

func (a *app) statusOf(ctx context.Context, c *client.Client, name string) error {
	g, err := c.Agent(ctx, name)
	if err != nil {
		return err
	}
	return a.io.Write(a.format, g, func() {
		a.io.Printf("%s is %s, heartbeat %s\n", g.Name, a.agentStatus(g), a.ago(g.LastHeartbeat))
	})
}

func (a *app) statusOfAll(ctx context.Context, c *client.Client) error {
	var sum fleetStatus
	for g, err := range c.Agents(ctx, client.AgentFilter{}) {
		if err != nil {
			return err
		}
		sum.add(&g)
	}
	return a.io.Write(a.format, sum, func() { a.showFleet(&sum) })
}

func (a *app) showFleet(sum *fleetStatus) {
	style := a.io.OutStyle
	count := func(n int, word string, judge func(string) string) string {
		text := fmt.Sprintf("%d %s", n, word)
		if n == 0 {
			return style.Faint(text)
		}
		return judge(text)
	}
	a.io.Printf("%s: %s, %s, %s\n", plural(sum.Total, "agent"),
		count(sum.Online, "online", style.Good), count(sum.Degraded, "degraded", style.Warn), count(sum.Offline, "offline", style.Bad))
	if len(sum.NotOnline) > 0 {
		a.io.Println()
		a.io.Table(a.agentTable(sum.NotOnline), "")
	}
}

// agentLifecycleCommand is one that changes agents, one after the other. What
// cannot be taken back is asked first.
func (a *app) agentLifecycleCommand(verb, short, done string, ask bool,
	act func(c *client.Client, ctx context.Context, name string) (*api.Agent, error),
) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:               verb + " AGENT…",
		Short:             short,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeAgents(0),
		RunE: func(cmd *cobra.Command, names []string) error {
			if ask && !yes {
				if err := a.confirm("%s %s?", strings.ToUpper(verb[:1])+verb[1:], strings.Join(names, ", ")); err != nil {
					return err
				}
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			changed := api.AgentList{Items: []api.Agent{}}
			for _, name := range names {
				g, err := act(c, cmd.Context(), name)
				if err != nil {
					return err
				}
				if g != nil {
					changed.Items = append(changed.Items, *g)
				}
				a.io.Notef("%s %s", name, done)
			}
			if a.format == out.FormatTable {
				return nil
			}
			return a.io.Write(a.format, changed, nil)
		},
	}
	if ask {
		cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	}
	return cmd
}

// confirm asks a person; without one there must have been --yes.
func (a *app) confirm(format string, values ...any) error {
	if !a.io.InTTY {
		return wrongUse("give --yes if that is what you want", "this cannot be taken back, and there is nobody to ask")
	}
	yes, err := a.io.Ask(format, values...)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if !yes {
		return failed("", "nothing was changed")
	}
	return nil
}
