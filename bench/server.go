package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"stella-ops.org/stella/internal/load"
)

// best is the carrier that agents use when they may choose.
const best = load.WebSocket

// load returns what a scenario needs to load a server.
func (c *control) load(agents int, transport string) load.Options {
	return load.Options{
		Connection: load.Connection{URL: c.url, Token: c.token, CA: c.ca},
		Agents:     agents, Transport: transport, Identities: filepath.Join(c.env.dir, c.name+"-identities.json"),
		ConnectRate: 1000, ServerPID: c.cmd.Process.Pid,
	}
}

// whole is an error when a scenario lost something: its figures are none then.
func whole(r *load.Report, err error) error {
	if err == nil && len(r.Failures) > 0 {
		err = fmt.Errorf("%s", strings.Join(r.Failures, "; "))
	}
	return err
}

// enrolment measures registrations a second.
func enrolment(ctx context.Context, e *env) ([]row, error) {
	c, err := e.server(ctx, "enrolment")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	report, err := load.Enrol(ctx, c.load(4000, best), load.EnrolOptions{Concurrency: 16})
	if err := whole(report, err); err != nil {
		return nil, err
	}
	res, err := result[*load.EnrolResult](report)
	if err != nil {
		return nil, err
	}
	return []row{{
		"enrolments a second", fmt.Sprintf("%.0f", res.Rate), ">= 850", res.Rate >= 850,
		fmt.Sprintf("%d agents, one-time token each, new TLS 1.3 connection each, SQLite with durable commits", res.Registered),
	}}, nil
}

// renewals measures renewals of certificates a second.
func renewals(ctx context.Context, e *env) ([]row, error) {
	c, err := e.server(ctx, "renewals")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	report, err := load.Renew(ctx, c.load(400, best), load.RenewOptions{Concurrency: 64, Rounds: 25})
	if err := whole(report, err); err != nil {
		return nil, err
	}
	res, err := result[*load.RenewResult](report)
	if err != nil {
		return nil, err
	}
	return []row{{
		"certificate renewals a second", fmt.Sprintf("%.0f", res.Rate), ">= 1600", res.Rate >= 1600,
		fmt.Sprintf("%d renewals for new keys by 400 agents, 64 at a time, over mTLS connections that stand; audited, SQLite with durable commits; p99 %s", res.Renewed, millis(res.Renewal.P99)),
	}}, nil
}

// revocation measures how soon a revoked agent is cut off.
func revocation(ctx context.Context, e *env) ([]row, error) {
	const agents, goal = 5000, 1000
	c, err := e.server(ctx, "revocation")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	o := c.load(agents, best)
	o.Identities = "" // what is revoked is of no use
	report, err := load.Revoke(ctx, o, load.RevokeOptions{Agents: 500})
	if err := whole(report, err); err != nil {
		return nil, err
	}
	res, err := result[*load.RevokeResult](report)
	if err != nil {
		return nil, err
	}
	return []row{{
		"from a revocation to the cut connection, p99", millis(res.Cut.P99), "< 1 s", res.Cut.P99 < goal,
		fmt.Sprintf("%d of %d connected agents, one after the other; median %s, longest %s", res.Cut.Count, agents, millis(res.Cut.P50), millis(res.Cut.Max)),
	}}, nil
}

// result is the part of a report that is its scenario's own.
func result[T load.Result](r *load.Report) (T, error) {
	res, ok := r.Result.(T)
	if !ok {
		return res, fmt.Errorf("a report of %s holds a %T", r.Scenario, r.Result)
	}
	return res, nil
}

// idle measures what connected agents cost, for each carrier in a server that
// was started anew: what registrations left behind is no agent's cost.
func idle(ctx context.Context, e *env) ([]row, error) {
	const agents, goal = 5000, 32 << 10
	c, err := e.server(ctx, "idle")
	if err != nil {
		return nil, err
	}
	defer func() { c.stop() }()
	if err := whole(load.Enrol(ctx, c.load(agents, best), load.EnrolOptions{Concurrency: 16})); err != nil {
		return nil, err
	}
	var rows []row
	for _, transport := range load.Transports() {
		if err := c.restart(ctx); err != nil {
			return rows, err
		}
		o := c.load(agents, transport)
		o.PollInterval = 10 * time.Second // an agent that asks every two seconds is not idle
		report, err := load.Idle(ctx, o, load.IdleOptions{Settle: 45 * time.Second})
		if err := whole(report, err); err != nil {
			return rows, fmt.Errorf("%s: %w", transport, err)
		}
		res, err := result[*load.IdleResult](report)
		if err != nil {
			return rows, err
		}
		r := row{
			what: "server's memory for each idle agent, " + transport, figure: fmt.Sprintf("%.1f KiB", res.BytesPerAgent/1024),
			note: fmt.Sprintf("%d agents with mTLS, growth of RSS in a fresh server, 45 s after the last connected", agents),
		}
		if transport == load.Poll {
			r.note += ", asking every 10 s"
		}
		if transport == best {
			r.goal, r.met = "<= 32 KiB", res.BytesPerAgent <= goal
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// heartbeats measures how many a second the server takes.
func heartbeats(ctx context.Context, e *env) ([]row, error) {
	const agents, goal = 10_000, 33_000
	c, err := e.server(ctx, "heartbeat")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	report, err := load.Heartbeat(ctx, c.load(agents, best), load.HeartbeatOptions{Rate: goal, Max: true, Duration: 15 * time.Second, Limit: time.Second})
	if err := whole(report, err); err != nil {
		return nil, err
	}
	res, err := result[*load.HeartbeatResult](report)
	if err != nil {
		return nil, err
	}
	how := fmt.Sprintf("%d agents over %s with mTLS, at fixed times, none lost, all in SQLite; p99 from due to answered %s", agents, best, millis(res.Latency.P99))
	if res.ServerUsage != nil && res.Simulation != nil {
		how += fmt.Sprintf("; the server kept %.2f cores busy, the load %.2f", res.ServerUsage.Cores, res.Simulation.Cores)
	}
	return []row{{"heartbeats a second, sustained", fmt.Sprintf("%.0f", res.AskedRate), ">= 33000", res.AskedRate >= goal, how}}, nil
}

// fanout measures one command to all agents.
func fanout(ctx context.Context, e *env) ([]row, error) {
	const agents = 5000
	c, err := e.server(ctx, "fanout")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	report, err := load.Fanout(ctx, c.load(agents, best), load.FanoutOptions{Rounds: 10})
	if err := whole(report, err); err != nil {
		return nil, err
	}
	res, err := result[*load.FanoutResult](report)
	if err != nil {
		return nil, err
	}
	how := fmt.Sprintf("%d agents over %s with mTLS, %d commands", agents, best, len(res.Rounds))
	return []row{
		{"one command to 5000 agents, to receipt, p99", millis(res.Receipt.P99), "< 160 ms", res.Receipt.P99 < 160, how},
		{"one command to 5000 agents, all acknowledged", millis(res.Acknowledged.P50), "", true, how + ", median"},
	}, nil
}

// dispatch measures the time from POST /tasks to the arrival of the task at an
// agent's stream.
func dispatch(ctx context.Context, e *env) ([]row, error) {
	const tasks = 1000
	c, err := e.server(ctx, "dispatch")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	report, err := load.Dispatch(ctx, c.load(1, best), load.DispatchOptions{Tasks: tasks})
	if err := whole(report, err); err != nil {
		return nil, err
	}
	res, err := result[*load.DispatchResult](report)
	if err != nil {
		return nil, err
	}
	how := fmt.Sprintf("%d tasks one after the other, loopback, SQLite with durable commits", tasks)
	return []row{
		{"POST /tasks to the agent's receipt, p50", millis(res.Receipt.P50), "< 2 ms", res.Receipt.P50 < 2, how},
		{"POST /tasks to the agent's receipt, p99", millis(res.Receipt.P99), "", true, how},
	}, nil
}

// reconnect measures how a fleet comes back after its server was restarted.
func reconnect(ctx context.Context, e *env) ([]row, error) {
	const agents = 2000
	c, err := e.server(ctx, "reconnect")
	if err != nil {
		return nil, err
	}
	defer func() { c.stop() }()
	report, err := load.Storm(ctx, c.load(agents, best), load.StormOptions{Restart: c.restart, Wait: time.Minute, Limit: 2 * time.Minute})
	if err != nil {
		return nil, err
	}
	res, err := result[*load.StormResult](report)
	if err != nil {
		return nil, err
	}
	met := res.Back == agents && res.AllBackSeconds < 60 && res.Stale == 0
	return []row{{
		"2000 agents back after a server's restart", fmt.Sprintf("%.1f s", res.AllBackSeconds), "< 60 s, none stale", met,
		fmt.Sprintf("%d back, %d stale; first back after %.1f s, at the most %d a second, %d attempts failed", res.Back, res.Stale, res.FirstBackSeconds, res.PeakPerSecond, res.FailedDials),
	}}, nil
}
