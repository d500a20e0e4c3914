package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/cli/out"
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
			req := api.RenewalRequest{Force: force}
			if agent != "" && socket != "" {
				return wrongUse("give either", "--socket is for the agent of this host, and not for %s", agent)
			}
			var done *api.CertificateRenewal
			var err error
			who := "this host's agent"
			if agent == "" {
				done, err = a.renewHere(cmd.Context(), socket, req)
			} else {
				done, who, err = a.renewThere(cmd.Context(), agent, req)
			}
			if err != nil {
				return err
			}
			return a.io.Write(a.format, done, func() { a.showRenewal(done, who) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&agent, "agent-id", "", "the `agent` to renew, by name or id, instead of this host's")
	flags.StringVar(&socket, "socket", "", "the local socket of this host's agent, as a `path`; $STELLA_AGENT_SOCKET, or where agents have it")
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

// agentSockets are where agents have their local socket when nothing is said.
var agentSockets = []string{"/run/stella-agent/agent.sock", "/var/lib/stella-agent/agent.sock", "stella-agent-data/agent.sock"}

// findSocket is the local socket of this host's agent.
func (a *app) findSocket(said string) (string, error) {
	if path := first(said, a.getenv("STELLA_AGENT_SOCKET")); path != "" {
		return path, nil
	}
	for _, path := range agentSockets {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, nil
		}
	}
	return "", failed("name the agent, to reach it through the server, or its socket by --socket (agent.sock in its data folder)",
		"no agent's local socket was found on this host")
}

func (a *app) renewHere(ctx context.Context, said string, req api.RenewalRequest) (*api.CertificateRenewal, error) {
	path, err := a.findSocket(said)
	if err != nil {
		return nil, err
	}
	var done api.CertificateRenewal
	return &done, askLocal(ctx, path, "/v1/renew-certificate", req, &done)
}

// askLocal asks the agent of this host, by its local socket.
func askLocal(ctx context.Context, socket, path string, in, into any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := (&http.Client{Transport: tr}).Do(r)
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err // without an address that means nothing
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return failed("run it as root, or as the agent's user", "the agent's socket %s may not be opened by you", socket)
	case err != nil:
		return failed("is the agent running? `systemctl status stella-agent` tells where it is a service", "the agent does not answer at %s: %v", socket, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	if res.StatusCode >= http.StatusMultipleChoices {
		var p api.Problem
		if json.Unmarshal(data, &p) != nil || p.Detail == "" {
			return fmt.Errorf("the agent answered %s", res.Status)
		}
		return failed("its log says more", "%s", out.Plain(p.Detail))
	}
	return json.Unmarshal(data, into)
}
