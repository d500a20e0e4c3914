package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) targetCommand() *cobra.Command {
	return noun("target", "Targets: what is deployed to",
		noun("add", "Add a target", a.targetAddCommand("docker"), a.targetAddCommand("compose"), a.targetAddCommand("ssh"), a.targetAddCommand("host")),
		a.targetScanCommand(), a.targetUpdateCommand(), a.targetListCommand(), a.targetShowCommand(), a.targetRemoveCommand())
}

// targetFlags are those that say what a target is.
type targetFlags struct {
	agent, selector, env string
	labels               []string
	config               api.TargetConfig
	ssh                  sshFlags
}

// add defines the flags that fit a kind of target; all for an empty kind.
func (f *targetFlags) add(flags *pflag.FlagSet, kind string) {
	flags.StringVar(&f.agent, "agent", "", "the id or name of the agent that reaches it")
	flags.StringVar(&f.selector, "agent-selector", "", "any agent that matches, as in `group=web,env=production,label.zone=a`")
	flags.StringVar(&f.env, "env", "", "the environment, as in production")
	flags.StringArrayVar(&f.labels, "label", nil, "a label, as in `key=value`; may be given several times")
	if kind != "docker" {
		flags.StringVar(&f.config.Directory, "dir", "", "the absolute `folder` that is deployed to: a project's (compose), one on the remote host (ssh), or the one that holds releases/ and current (host)")
	}
	if kind == "ssh" || kind == "" {
		f.ssh.add(flags)
	}
	if kind == "docker" || kind == "compose" || kind == "" {
		flags.StringVar(&f.config.DockerHost, "docker-host", "", "docker, compose: the engine's `address` as the agent sees it; the agent's own when left out")
	}
	if kind == "compose" || kind == "" {
		flags.StringVar(&f.config.Project, "project", "", "compose: the project's `name`; made of the target's when left out")
	}
	if kind == "docker" || kind == "" {
		flags.StringVar(&f.config.StickerLocation, "sticker-location", "", "docker: where the version sticker is kept: file or volume")
		flags.StringVar(&f.config.StickerVolume, "sticker-volume", "", "docker: the volume that holds the sticker")
	}
	flags.StringVar(&f.config.StickerPath, "sticker-path", "", "the version sticker's absolute `path`; the agent chooses one when left out")
}

func (f *targetFlags) request(name, kind string, flags *pflag.FlagSet) (api.TargetRequest, error) {
	req := api.TargetRequest{Name: name, Kind: kind, Agent: f.agent, Environment: f.env, Config: f.config}
	if (f.agent == "") == (f.selector == "") {
		return req, wrongUse("give --agent NAME, or --agent-selector for any agent that matches", "it is not clear which agent reaches %s", name)
	}
	if kind != "docker" && f.config.Directory == "" {
		return req, wrongUse("give --dir, as in --dir /opt/app", "%s target needs the folder that is deployed to", article(kind))
	}
	var err error
	if kind == "ssh" {
		if req.Config.SSH, err = f.ssh.change(nil, flags); err != nil {
			return req, err
		}
		if err := f.ssh.need(req.Config.SSH); err != nil {
			return req, err
		}
	}
	if f.selector != "" {
		if req.AgentSelector, err = parseSelector(f.selector); err != nil {
			return req, err
		}
	}
	req.Labels, err = labelMap(f.labels)
	return req, err
}

// parseSelector reads group=…,env=…,label.key=value.
func parseSelector(text string) (*api.AgentSelector, error) {
	s := &api.AgentSelector{}
	labels, err := terms("agents", text, map[string]*string{
		"group": &s.Group, "env": &s.Environment, "environment": &s.Environment,
	})
	if err != nil {
		return nil, wrongUse("write it as in --agent-selector group=web,env=production,label.zone=a", "%v", err)
	}
	s.Labels = labels
	return s, nil
}

func (a *app) targetAddCommand(kind string) *cobra.Command {
	var f targetFlags
	short, example := "Add a Docker engine that an agent reaches", "  stella target add docker web --agent prod-01 --env production"
	switch kind {
	case "compose":
		short, example = "Add a Docker Compose project of an engine that an agent reaches", "  stella target add compose shop --agent prod-01 --dir /opt/shop"
	case "host":
		short, example = "Add a folder on an agent's own host", "  stella target add host web --agent prod-01 --dir /opt/web"
	}
	if kind == "ssh" {
		short, example = "Add a folder on a remote host that an agent reaches by SSH", sshAddExample
	}
	cmd := &cobra.Command{
		Use: kind + " NAME", Short: short, Example: example,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			req, err := f.request(names[0], kind, cmd.Flags())
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			t, err := c.CreateTarget(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.io.Write(a.format, t, func() {
				a.io.Notef("target %s is there, reached by %s", t.Name, reachedBy(t))
			})
		},
	}
	f.add(cmd.Flags(), kind)
	complete(cmd, "agent", a.completeAgents(0))
	return cmd
}

func (a *app) targetUpdateCommand() *cobra.Command {
	var f targetFlags
	cmd := &cobra.Command{
		Use:               "update TARGET",
		Short:             "Change a target; what no flag names stays",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeTargets(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			have, err := c.Target(cmd.Context(), names[0])
			if err != nil {
				return err
			}
			req, err := f.change(have, cmd.Flags())
			if err != nil {
				return err
			}
			t, err := c.ReplaceTarget(cmd.Context(), have.ID, req)
			if err != nil {
				return err
			}
			return a.io.Write(a.format, t, func() { a.io.Notef("target %s is changed", t.Name) })
		},
	}
	f.add(cmd.Flags(), "")
	complete(cmd, "agent", a.completeAgents(0))
	return cmd
}

// change is what is there, with the flags that were given over it.
func (f *targetFlags) change(have *api.Target, flags *pflag.FlagSet) (api.TargetRequest, error) {
	req := api.TargetRequest{
		Name: have.Name, Kind: have.Kind, Agent: have.AgentID, AgentSelector: have.AgentSelector,
		Environment: have.Environment, Labels: have.Labels, Config: have.Config,
	}
	if f.agent != "" && f.selector != "" {
		return req, wrongUse("give one of the two", "a target is reached by one agent, or by any that match")
	}
	var err error
	for name, set := range map[string]func(){
		"agent": func() { req.Agent, req.AgentSelector = f.agent, nil },
		"agent-selector": func() {
			req.Agent = ""
			req.AgentSelector, err = parseSelector(f.selector)
		},
		"env":              func() { req.Environment = f.env },
		"dir":              func() { req.Config.Directory = f.config.Directory },
		"project":          func() { req.Config.Project = f.config.Project },
		"docker-host":      func() { req.Config.DockerHost = f.config.DockerHost },
		"sticker-path":     func() { req.Config.StickerPath = f.config.StickerPath },
		"sticker-location": func() { req.Config.StickerLocation = f.config.StickerLocation },
		"sticker-volume":   func() { req.Config.StickerVolume = f.config.StickerVolume },
	} {
		if flags.Changed(name) {
			set()
		}
	}
	if err == nil && flags.Changed("label") {
		req.Labels, err = labelMap(f.labels)
	}
	if err == nil {
		req.Config.SSH, err = f.ssh.change(have.Config.SSH, flags)
	}
	return req, err
}

func reachedBy(t *api.Target) string {
	if s := t.AgentSelector; s != nil {
		var parts []string
		if s.Group != "" {
			parts = append(parts, "group="+s.Group)
		}
		if s.Environment != "" {
			parts = append(parts, "env="+s.Environment)
		}
		if len(s.Labels) > 0 {
			parts = append(parts, "label."+strings.ReplaceAll(pairs(s.Labels), ",", ",label."))
		}
		return "any agent with " + strings.Join(parts, ",")
	}
	return "agent " + first(t.AgentName, t.AgentID)
}

func (a *app) targetListCommand() *cobra.Command {
	var f client.TargetFilter
	var l listFlags
	var labels []string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List targets",
		Example: `  stella target list --filter 'kind=docker and not (env in (dev, test))'
  stella target list --filter agent=prod-01 --sort environment,name`,
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
			targets, err := take(c.Targets(cmd.Context(), f), l.limit)
			if err != nil {
				return err
			}
			list := api.TargetList{Items: targets}
			return a.io.Write(a.format, list, func() { a.showTargets(list.Items) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Kind, "kind", "", "only those of this kind: docker, compose, ssh or host")
	flags.StringVar(&f.Name, "name", "", "only the one of this name")
	flags.StringVar(&f.Environment, "env", "", "only those of this environment")
	flags.StringVar(&f.Agent, "agent", "", "only those that this agent reaches")
	flags.StringArrayVar(&labels, "label", nil, "only those with this label, as in `key=value`; may be given several times")
	l.add(flags, 0)
	complete(cmd, "kind", fixed("docker", "compose", "ssh", "host"))
	complete(cmd, "agent", a.completeAgents(0))
	return cmd
}

func (a *app) showTargets(targets []api.Target) {
	t := out.NewTable("NAME", "KIND", "REACHED BY", "ENVIRONMENT", "LABELS", "WHERE")
	for i := range targets {
		g := &targets[i]
		t.Row(g.Name, g.Kind, reachedBy(g), g.Environment, pairs(g.Labels), targetWhere(&g.Config))
	}
	a.io.Table(t, "There are no targets: `stella target add docker NAME --agent AGENT` adds one.")
}

// targetWhere is a host and a folder, or an engine.
func targetWhere(c *api.TargetConfig) string {
	if c.SSH != nil {
		return sshWhere(c.SSH) + " " + c.Directory
	}
	return first(c.Directory, c.DockerHost)
}

func (a *app) targetShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show TARGET",
		Short:             "Show a target",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeTargets(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			t, err := c.Target(cmd.Context(), names[0])
			if err != nil {
				return err
			}
			return a.io.Write(a.format, t, func() {
				a.io.Pairs(
					[2]string{"Name", a.io.OutStyle.Bold(t.Name)},
					[2]string{"Id", t.ID},
					[2]string{"Kind", t.Kind},
					[2]string{"Reached by", reachedBy(t)},
					[2]string{"Environment", t.Environment},
					[2]string{"Labels", pairs(t.Labels)},
					[2]string{"Host", sshWhere(t.Config.SSH)},
					[2]string{"Through", sshJumps(t.Config.SSH)},
					[2]string{"Host key", sshTrust(t.Config.SSH)},
					[2]string{"Folder", t.Config.Directory},
					[2]string{"Project", t.Config.Project},
					[2]string{"Engine", t.Config.DockerHost},
					[2]string{"Sticker", strings.Join(strings.Fields(t.Config.StickerLocation+" "+t.Config.StickerVolume+" "+t.Config.StickerPath), " ")},
					[2]string{"Created", out.Ago(t.CreatedAt, a.now())},
					[2]string{"Changed", out.Ago(t.UpdatedAt, a.now())},
				)
			})
		},
	}
}

func (a *app) targetRemoveCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:               "remove TARGET…",
		Short:             "Forget targets; what runs there stays as it is",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeTargets(0),
		RunE: func(cmd *cobra.Command, names []string) error {
			if !yes {
				if err := a.confirm("Remove %s?", strings.Join(names, ", ")); err != nil {
					return err
				}
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := c.DeleteTarget(cmd.Context(), name); err != nil {
					return err
				}
				a.io.Notef("target %s is removed", name)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}
