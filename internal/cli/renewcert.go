package cli

import (
	"context"
	"encoding/json"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

func (a *app) agentRenewCertCommand() *cobra.Command {
	var agent, socket string
	var force bool
	cmd := &cobra.Command{
		Use:   "renew-cert [AGENT]",
		Short: "Have an agent get its next certificate now",
		Long: `Have an agent get its next certificate now: the agent of this host, by its local
socket, or another one, through the server. Agents do so by themselves, before
two thirds of a certificate's life are over; one whose certificate has ended while
it was off does it at its next start. Tasks and the link go on meanwhile.

What is not due is left as it is, unless --force says otherwise.`,
		Example: `  stella agent renew-cert
  stella agent renew-cert prod-01 --force`,
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.completeAgents(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			if len(names) == 1 {
				if agent != "" && agent != names[0] {
					return wrongUse("name one agent", "%s and --agent-id %s are two", names[0], agent)
				}
				agent = names[0]
			}
			if agent != "" && socket != "" {
				return wrongUse("give either", "--socket is for the agent of this host, and not for %s", agent)
			}
			var done *api.CertificateRenewal
			var err error
			who := "this host's agent"
			if agent == "" {
				done, err = a.renewHere(cmd.Context(), socket, force)
			} else {
				done, who, err = a.renewThere(cmd.Context(), agent, api.RenewalRequest{Force: force})
			}
			if err != nil {
				return err
			}
			return a.io.Write(a.format, done, func() { a.showRenewal(done, who) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&agent, "agent-id", "", "the `agent` to renew, by name or id, instead of this host's")
	flags.StringVar(&socket, "socket", "", socketFlag)
	flags.BoolVar(&force, "force", false, "renew also what is not due")
	complete(cmd, "agent-id", a.completeAgents(0))
	return cmd
}

func (a *app) showRenewal(r *api.CertificateRenewal, who string) {
	until := r.NotAfter.UTC().Format(time.RFC3339)
	if r.Renewed {
		a.io.Printf("%s %s has a new certificate, valid until %s\n", a.io.OutStyle.Good("✓"), who, until)
	} else {
		a.io.Printf("The certificate of %s is not due: it is valid until %s\n", who, until)
	}
	a.io.Pairs([2]string{"Renews by itself", r.RenewsAt.UTC().Format(time.RFC3339)}, [2]string{"Serial", r.Serial})
	if !r.Renewed {
		a.io.Notef("`--force` renews it all the same")
	}
}

func (a *app) renewThere(ctx context.Context, agent string, req api.RenewalRequest) (*api.CertificateRenewal, string, error) {
	payload, err := json.Marshal(req)
	if err != nil {
		return nil, "", err
	}
	c, err := a.connect()
	if err != nil {
		return nil, "", err
	}
	var done api.CertificateRenewal
	name, err := a.askAgent(ctx, c, agent, api.CommandRequest{Type: "renew-certificate", Payload: payload, ExpiresIn: 30}, &done,
		"did not renew its certificate", "is the agent up? `stella agent show "+agent+"` tells; on its host, its log says more")
	return &done, name, err
}

func (a *app) renewHere(ctx context.Context, said string, force bool) (*api.CertificateRenewal, error) {
	path, err := a.findSocket(said)
	if err != nil {
		return nil, err
	}
	done, err := client.NewLocal(path).RenewCertificate(ctx, force)
	if err != nil {
		return nil, explainLocal(err)
	}
	return done, nil
}
