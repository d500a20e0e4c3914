package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/internal/load"
)

func (p *program) enrol() *cobra.Command {
	var e load.EnrolOptions
	cmd := p.scenario("enrol", "Measure registrations", `Register agents, each with a one-time token, a key and a TLS connection of its
own, as new hosts do. Tokens and keys are made before the clock starts.`, 4000, false,
		func(ctx context.Context, o load.Options) (*load.Report, error) {
			return load.Enrol(ctx, o, e)
		})
	cmd.Flags().IntVar(&e.Concurrency, "concurrency", 16, "how many register at a time")
	return cmd
}

func (p *program) renew() *cobra.Command {
	var r load.RenewOptions
	cmd := p.scenario("renew", "Measure renewals of certificates", `Renew the certificates of agents, each for a new key, over connections that stand.
Keys, requests and connections are made before the clock starts. The agents go on
with the certificates that they have.`, 400, true,
		func(ctx context.Context, o load.Options) (*load.Report, error) { return load.Renew(ctx, o, r) })
	cmd.Flags().IntVar(&r.Concurrency, "concurrency", 64, "how many renew at a time")
	cmd.Flags().IntVar(&r.Rounds, "rounds", 10, "how often each agent renews")
	return cmd
}

func (p *program) revoke() *cobra.Command {
	var r load.RevokeOptions
	cmd := p.scenario("revoke", "Measure how soon a revoked agent is cut off", `Connect agents, revoke some of them one after the other, and measure from each
request to the end of that agent's connection. Those are of no use afterwards, so
that identities that are kept in a file are refused.`, 5000, true,
		func(ctx context.Context, o load.Options) (*load.Report, error) { return load.Revoke(ctx, o, r) })
	cmd.Flags().IntVar(&r.Agents, "revoke", 200, "how many of them to revoke")
	return cmd
}

func (p *program) idle() *cobra.Command {
	var i load.IdleOptions
	cmd := p.scenario("idle", "Measure what connected agents cost", `Connect agents, let the server settle, and tell by how much its memory grew for
each. Registrations leave traces in a server's memory: measure a server that
was started anew, with the --identities of an earlier run.`, 5000, true,
		func(ctx context.Context, o load.Options) (*load.Report, error) { return load.Idle(ctx, o, i) })
	cmd.Flags().DurationVar(&i.Settle, "settle", 30*time.Second, "how long to let the server settle")
	return cmd
}

func (p *program) heartbeat() *cobra.Command {
	var h load.HeartbeatOptions
	var rate string
	cmd := p.scenario("heartbeat", "Measure heartbeats", `Send heartbeats at fixed times, whatever the answers do, and measure from when
each was due to its answer. Afterwards the API is asked whether the store knows
the last heartbeat of every agent.

With --rate max, the rate is raised until the server does not keep up, and the
highest that it sustained is told.`, 10000, true,
		func(ctx context.Context, o load.Options) (*load.Report, error) {
			if h.Max = rate == "max"; !h.Max {
				n, err := strconv.ParseFloat(rate, 64)
				if err != nil || n <= 0 {
					return nil, usageError{fmt.Errorf("--rate %q is no rate: give a number above 0, or max", rate)}
				}
				h.Rate = n
			}
			return load.Heartbeat(ctx, o, h)
		})
	flags := cmd.Flags()
	flags.StringVar(&rate, "rate", "1000", "heartbeats a second of the whole fleet, or max")
	flags.Float64Var(&h.Rate, "from", 2000, "with --rate max, the rate to begin with")
	flags.DurationVar(&h.Duration, "duration", 30*time.Second, "how long to hold a rate")
	flags.DurationVar(&h.Limit, "limit", time.Second, "with --rate max, the highest p99 that counts as sustained")
	return cmd
}

func (p *program) fanout() *cobra.Command {
	var f load.FanoutOptions
	cmd := p.scenario("fanout", "Measure a command to all agents", `Send one command to all live agents, and measure from the request to each
agent's receipt, and until all have acknowledged it. Real agents on the same
server get the command too, and refuse it: they do not know its type.`, 5000, true,
		func(ctx context.Context, o load.Options) (*load.Report, error) { return load.Fanout(ctx, o, f) })
	cmd.Flags().IntVar(&f.Rounds, "rounds", 10, "how many commands, one after the other")
	return cmd
}

func (p *program) dispatch() *cobra.Command {
	var d load.DispatchOptions
	cmd := p.scenario("dispatch", "Measure tasks on their way to agents", `Send tasks, and measure from the request to the agent's receipt: one after the
other, or, with --rate, at fixed times. The first 200 agents get a target each.`, 100, true,
		func(ctx context.Context, o load.Options) (*load.Report, error) { return load.Dispatch(ctx, o, d) })
	flags := cmd.Flags()
	flags.IntVar(&d.Tasks, "tasks", 1000, "how many tasks to send one after the other")
	flags.Float64Var(&d.Rate, "rate", 0, "tasks a second; 0 for one after the other")
	flags.DurationVar(&d.Duration, "duration", 30*time.Second, "how long to hold the rate")
	return cmd
}

func (p *program) storm() *cobra.Command {
	var s load.StormOptions
	cmd := p.scenario("storm", "Measure how agents come back", `Connect agents, wait until you restart the server (or break all connections,
with --cut), and measure how long it takes until all are back. Agents do what
the server asks of them: they spread their return over its reconnect window.`, 2000, true,
		func(ctx context.Context, o load.Options) (*load.Report, error) { return load.Storm(ctx, o, s) })
	flags := cmd.Flags()
	flags.BoolVar(&s.Cut, "cut", false, "break all connections instead of waiting for a restart")
	flags.DurationVar(&s.Wait, "wait", 10*time.Minute, "how long to wait for the restart")
	flags.DurationVar(&s.Limit, "limit", 5*time.Minute, "how long the agents may take to come back")
	return cmd
}

func (p *program) clean() *cobra.Command {
	return &cobra.Command{
		Use: "clean", Short: "Remove all simulated agents from the server", Args: noArgs,
		Long: "Remove all agents of the group " + load.Group + ", and their targets. Their --identities\nare worth nothing afterwards.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := p.asked.Find(os.Getenv)
			if err != nil {
				return err
			}
			progress := p.io.Progress()
			defer progress.Stop()
			began := time.Now()
			n, err := load.Clean(cmd.Context(), conn, func(text string) { progress.Status(text, began) })
			progress.Stop()
			if err != nil {
				return err
			}
			p.io.Notef("%d simulated agents are removed from %s", n, conn.URL)
			return nil
		},
	}
}
