package cli

import (
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/cli/out"
)

// bootstrapFlags are those of `stella agent bootstrap`.
type bootstrapFlags struct {
	name, id, env, group, cluster, platform string
	capability, capabilities                []string
	labels                                  []string
	ttl, certLife                           time.Duration
	uses                                    int
	server                                  string
}

func (f *bootstrapFlags) request() (api.BootstrapRequest, error) {
	req := api.BootstrapRequest{RegistrationTokenRequest: api.RegistrationTokenRequest{
		Name: f.name, AgentID: f.id, Environment: f.env, Group: f.group, Cluster: f.cluster, Platform: f.platform,
		Capabilities: append(slices.Clone(f.capability), f.capabilities...),
		TTLSeconds:   int(seconds(f.ttl)), MaxUses: f.uses, CertificateLifeSeconds: int(seconds(f.certLife)),
	}, ServerURL: f.server}
	if f.ttl < 0 {
		return req, wrongUse("give one as in --ttl 15m", "--ttl %s is no life for a token", f.ttl)
	}
	if f.certLife < 0 {
		return req, wrongUse("give one as in --cert-life 720h", "--cert-life %s is no life for a certificate", f.certLife)
	}
	if f.uses > 1 && (f.name != "" || f.id != "") {
		return req, wrongUse("leave --name and --id out, or --uses", "a token that binds a name is for one agent")
	}
	var err error
	req.Labels, err = labelMap(f.labels)
	return req, err
}

func (a *app) agentBootstrapCommand() *cobra.Command {
	f := bootstrapFlags{platform: "linux"}
	cmd := &cobra.Command{
		Use:   "bootstrap",
		Short: "Make a token for a new agent, and the line that makes a host an agent",
		Long: `Make a token for a new agent, and the line that makes a host an agent.

The line fetches the installer from the server, checks by the pin of the server's
key that it is the server's, and runs it. The token goes through the environment,
so that no list of processes shows it.

What the token binds (name, environment, group, labels …), the agent cannot
override. The token also carries the pin of the server's root, by which the
agent knows the server.`,
		Example: `  stella agent bootstrap --name prod-01 --env production --platform linux
  stella agent bootstrap --env staging --uses 20 --ttl 1h`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := f.request()
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			if req.ServerURL == "" && !isLoopback(hostOf(c.URL())) {
				req.ServerURL = c.URL() // by which it is reached from here, it is from there
			}
			made, err := c.Bootstrap(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.io.Write(a.format, made, func() { a.showBootstrap(made, req.Name) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "the agent's name; its host's name when left out")
	flags.StringVar(&f.id, "id", "", "the agent's persistent `id`; needed to take over an identity that exists")
	flags.StringVar(&f.env, "env", "", "the environment, as in production")
	flags.StringVar(&f.group, "group", "", "the group")
	flags.StringVar(&f.cluster, "cluster", "", "the cluster to join")
	flags.StringVar(&f.server, "server-url", "", "the `URL` by which the agent reaches the server; the one that you reach it by when left out, unless that is this machine's own")
	flags.StringVar(&f.platform, "platform", f.platform, "linux, windows or docker")
	flags.StringArrayVar(&f.capability, "capability", nil, "what the agent may do, as in docker.deploy; may be given several times, all when left out")
	flags.StringSliceVar(&f.capabilities, "capabilities", nil, "the same as a `list`, as in docker,health_check")
	flags.StringArrayVar(&f.labels, "label", nil, "a label, as in `key=value`; may be given several times")
	flags.DurationVar(&f.ttl, "ttl", 15*time.Minute, "how long the token can be used")
	flags.DurationVar(&f.certLife, "cert-life", 0, "how long the agent's certificates are good; as the server says when left out")
	flags.IntVar(&f.uses, "uses", 1, "how many agents can register with it")
	complete(cmd, "platform", fixed("linux", "windows", "docker"))
	return cmd
}

func (a *app) showBootstrap(b *api.Bootstrap, name string) {
	style := a.io.OutStyle
	uses := "used once"
	if b.MaxUses > 1 {
		uses = "used by " + plural(b.MaxUses, "agent")
	}
	whom := "a new agent"
	if name != "" {
		whom = "agent " + name
	}
	a.io.Printf("Token for %s; it can be %s within %s, until %s:\n\n  %s\n\n", whom, uses,
		out.Span(b.TokenExpires.Sub(a.now())), b.TokenExpires.UTC().Format(time.RFC3339), style.Bold(b.Token))
	where := "On the agent's machine, run:"
	if b.Platform == "windows" {
		where = "On the agent's machine, in PowerShell as administrator, run:"
	}
	a.io.Printf("%s\n\n  %s\n\n", where, style.Bold(b.InstallCommand))
	for _, other := range b.Alternatives {
		a.io.Printf("Or, %s:\n\n  %s\n\n", other.When, other.Command)
	}
	if b.Platform == "linux" {
		a.io.Printf("Or take the installer there as a file, with the token in it:\n\n  stella agent install-script --token %s --output install.sh\n\n", b.Token)
	}
	a.io.Printf("%s shows the agent once it is there.\n", style.Bold("stella agent list"))
	if b.Warning != "" {
		a.io.Notef("%s %s", a.io.ErrStyle.Warn("note:"), b.Warning)
	}
	if isLoopback(hostOf(b.ServerURL)) {
		a.io.Notef("%s %s is the server's own address on its own machine: for an agent elsewhere, start the server with --advertise, or give --server-url.",
			a.io.ErrStyle.Warn("note:"), b.ServerURL)
	}
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

func hostOf(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
