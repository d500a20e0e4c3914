package cli

import (
	"encoding/json"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/cli/out"
)

// scanned are the keys that a host showed to an agent.
type scanned struct {
	Host string `json:"host"`
	Port int    `json:"port"`
	Keys []struct {
		Type        string `json:"type"`
		Fingerprint string `json:"fingerprint"`
		Key         string `json:"key"`
	} `json:"keys"`
}

func (a *app) targetScanCommand() *cobra.Command {
	var agent string
	cmd := &cobra.Command{
		Use:   "scan HOST[:PORT]",
		Short: "Show the keys of an SSH server, as an agent sees them",
		Long: `Show the keys of an SSH server, as an agent sees them, without logging in.

A key that came over the network proves nothing: whoever is between could have
sent his own. Compare its fingerprint with what the host's owner says, or with
ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on the host itself; then give
the line to --host-key.`,
		Example: `  stella target scan app-1.example.com --agent prod-01`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			host, port, err := hostPort(names[0])
			if err != nil {
				return err
			}
			if agent == "" {
				return wrongUse("give --agent NAME", "it is not clear which agent is to look at %s", host)
			}
			payload, err := json.Marshal(map[string]any{"host": host, "port": port})
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			var found scanned
			name, err := a.askAgent(cmd.Context(), c, agent, api.CommandRequest{Type: "ssh-scan", Payload: payload, ExpiresIn: 30}, &found,
				"could not look at "+names[0], "is the agent up (`stella agent show "+agent+"`), and is the host reachable from there?")
			if err != nil {
				return err
			}
			return a.io.Write(a.format, &found, func() { a.showScanned(&found, name) })
		},
	}
	cmd.Flags().StringVar(&agent, "agent", "", "the `agent` that looks, by name or id")
	complete(cmd, "agent", a.completeAgents(0))
	return cmd
}

func (a *app) showScanned(s *scanned, agent string) {
	at := s.Host
	if s.Port != 22 {
		at = net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	}
	t := out.NewTable("TYPE", "FINGERPRINT")
	for _, k := range s.Keys {
		t.Row(out.Plain(k.Type), out.Plain(k.Fingerprint))
	}
	a.io.Table(t, at+" showed no key.")
	a.io.Println()
	for _, k := range s.Keys {
		a.io.Println("--host-key '" + out.Plain(k.Key) + "'")
	}
	a.io.Notef("\n%s %s showed these to %s. Compare a fingerprint with what the host's owner says before you trust it; then give that line to `stella target add ssh` or `stella target update`",
		a.io.ErrStyle.Warn("not verified:"), at, agent)
}
