package cli

import (
	"net"
	"net/url"
	"slices"
	"strings"
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
}

func (f *bootstrapFlags) request() (api.RegistrationTokenRequest, error) {
	req := api.RegistrationTokenRequest{
		Name: f.name, AgentID: f.id, Environment: f.env, Group: f.group, Cluster: f.cluster, Platform: f.platform,
		Capabilities: append(slices.Clone(f.capability), f.capabilities...),
		TTLSeconds:   int(seconds(f.ttl)), MaxUses: f.uses, CertificateLifeSeconds: int(seconds(f.certLife)),
	}
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
		Short: "Make a token for a new agent, and say how to start the agent with it",
		Long: `Make a token for a new agent, and say how to start the agent with it.

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
			token, err := c.CreateRegistrationToken(cmd.Context(), req)
			if err != nil {
				return err
			}
			server := c.URL()
			if token.ServerURL != "" && hostOf(server) != hostOf(token.ServerURL) && isLoopback(hostOf(server)) {
				server = token.ServerURL // what the server calls itself is good elsewhere too
			}
			return a.io.Write(a.format, token, func() { a.showBootstrap(token, server, f.platform) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "the agent's name; its host's name when left out")
	flags.StringVar(&f.id, "id", "", "the agent's persistent `id`; needed to take over an identity that exists")
	flags.StringVar(&f.env, "env", "", "the environment, as in production")
	flags.StringVar(&f.group, "group", "", "the group")
	flags.StringVar(&f.cluster, "cluster", "", "the cluster to join")
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

func (a *app) showBootstrap(t *api.RegistrationToken, server, platform string) {
	style := a.io.OutStyle
	uses := "used once"
	if t.MaxUses > 1 {
		uses = "used by " + plural(t.MaxUses, "agent")
	}
	whom := "a new agent"
	if t.Name != "" {
		whom = "agent " + t.Name
	}
	a.io.Printf("Token for %s; it can be %s within %s, until %s:\n\n  %s\n\n", whom, uses,
		out.Span(t.ExpiresAt.Sub(a.now())), t.ExpiresAt.UTC().Format(time.RFC3339), style.Bold(t.Token))
	where := "On the agent's machine, run:"
	if platform == "docker" {
		where = "In the agent's container, which needs the engine's socket, run:"
	}
	a.io.Printf("%s\n\n  %s\n\n", where, style.Bold(registerCommand(t.Token, server, platform)))
	a.io.Printf("To keep the token out of the process list, leave --token out and put it into\n"+
		"STELLA_BOOTSTRAP_TOKEN. %s shows the agent once it is there.\n", style.Bold("stella agent list"))
	if isLoopback(hostOf(server)) {
		a.io.Notef("%s %s is this machine's own address: for an agent elsewhere, put the server's own name there.",
			a.io.ErrStyle.Warn("note:"), server)
	}
}

// registerCommand is what starts the agent. It is not dressed up as an
// installer: there is none to fetch.
func registerCommand(token, server, platform string) string {
	program, dir := "stella-agent", "/var/lib/stella-agent"
	if platform == "windows" {
		program, dir = "stella-agent.exe", `C:\ProgramData\stella-agent`
	}
	return strings.Join([]string{program, "--register", "--token=" + token, "--server", server, "--data", dir}, " ")
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
