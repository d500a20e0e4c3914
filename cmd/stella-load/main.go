// Command stella-load simulates agents by the thousand, over real TLS, and
// measures how a server bears them: with it, capacity is planned.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/internal/cli/out"
	"stella-ops.org/stella/internal/daemon"
	"stella-ops.org/stella/internal/load"
	"stella-ops.org/stella/internal/obs"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // it could not be measured, or something was lost
	exitUsage  = 2
)

func main() { os.Exit(run(os.Args[1:], out.System())) }

// errLost ends the program after a report that told of losses.
var errLost = errors.New("something was lost")

// usageError is a mistake on the command line.
type usageError struct{ error }

func run(args []string, streams *out.IO) int {
	root := (&program{io: streams}).root()
	root.SetArgs(args)
	ctx, stop := daemon.SignalContext(context.Background())
	defer stop()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	wrong := usageError{}
	switch {
	case errors.Is(err, errLost): // the report said it
	case errors.Is(err, context.Canceled):
		streams.Notef("stella-load: interrupted")
	case errors.As(err, &wrong):
		streams.Notef("stella-load: %s", out.Plain(err.Error()))
		return exitUsage
	default:
		streams.Notef("stella-load: %s", out.Plain(err.Error()))
	}
	return exitFailed
}

// program is what all commands share.
type program struct {
	io     *out.IO
	format out.Format
	asked  load.Asked
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "stella-load",
		Short: "Simulate agents and measure how a server bears them",
		Long: `Simulate agents by the thousand in one process, each with its own key,
certificate and TLS 1.3 connection, and measure how a server bears them.

The server is that of --server or STELLA_SERVER, or of the context that
` + "`stella login`" + ` has saved; the API token, an admin's, comes from STELLA_TOKEN,
from --token-file, or from the context. Simulated agents are in the group
` + load.Group + `; ` + "`stella-load clean`" + ` removes them from the server.

Exit codes: 0 all is well; 1 something was lost, or could not be measured;
2 wrong use.`,
		Version: obs.BuildVersion(), SilenceErrors: true, SilenceUsage: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(p.io.Out)
	root.SetErr(p.io.Err)
	root.SetVersionTemplate("stella-load {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; `%s --help` shows the flags", err, cmd.CommandPath())}
	})
	p.format = out.FormatTable
	flags := root.PersistentFlags()
	flags.StringVar(&p.asked.Server, "server", "", "the server's `URL`, as in https://stella.example.com:8443")
	flags.StringVar(&p.asked.Token, "token", "", "the API token; other users of this machine can see it, so STELLA_TOKEN is better")
	flags.StringVar(&p.asked.TokenFile, "token-file", "", "`file` with the API token")
	flags.StringVar(&p.asked.CAFile, "ca", "", "`file` with the certificate to trust, in PEM")
	flags.Var(&p.format, "format", "how to write the report")
	root.AddCommand(p.enrol(), p.renew(), p.revoke(), p.idle(), p.heartbeat(), p.fanout(), p.dispatch(), p.storm(), p.clean())
	return root
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("`%s` does not take %q; `%s --help` shows what it takes", cmd.CommandPath(), args[0], cmd.CommandPath())}
	}
	return nil
}

// measurement runs a scenario.
type measurement func(ctx context.Context, o load.Options) (*load.Report, error)

// scenario makes the command of a scenario. connected says that its agents
// are, and so how.
func (p *program) scenario(use, short, long string, agents int, connected bool, measure measurement) *cobra.Command {
	o := load.Options{Transport: load.WebSocket}
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Connection, err = p.asked.Find(os.Getenv); err != nil {
				return err
			}
			progress := p.io.Progress()
			defer progress.Stop()
			began := time.Now()
			o.Progress = func(text string) { progress.Status(text, began) }
			report, err := measure(cmd.Context(), o)
			progress.Stop()
			if err != nil {
				return err
			}
			return p.write(report)
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&o.Agents, "agents", "n", agents, "how many agents")
	flags.StringVar(&o.Identities, "identities", "", "`file` that keeps the agents' identities, to use them again")
	flags.IntVar(&o.ServerPID, "server-pid", 0, "the server's process on this machine, if its port does not tell")
	if connected {
		flags.StringVar(&o.Transport, "transport", o.Transport, "how agents are connected: websocket, grpc or poll")
		flags.Float64Var(&o.ConnectRate, "connect-rate", 1000, "how many agents a second connect at first; 0 for as fast as it goes")
		flags.DurationVar(&o.PollInterval, "poll-interval", 2*time.Second, "how often agents that poll ask")
	}
	return cmd
}

func (p *program) write(r *load.Report) error {
	err := p.io.Write(p.format, r, func() {
		t := out.NewTable("MEASURED", "FIGURE", "")
		for _, row := range r.Result.Rows() {
			t.Row(row.Name, row.Value, p.io.OutStyle.Faint(row.Note))
		}
		carrier := ""
		if r.Transport != "" {
			carrier = " over " + r.Transport
		}
		p.io.Printf("%s: %d agents%s, %s\n%s\n\n", r.Scenario, r.Agents, carrier, r.Server, r.Machine)
		p.io.Table(t, "")
	})
	if err != nil || len(r.Failures) == 0 {
		return err
	}
	for _, f := range r.Failures {
		p.io.Notef("%s %s", p.io.ErrStyle.Bad("lost:"), out.Plain(f))
	}
	return errLost
}
