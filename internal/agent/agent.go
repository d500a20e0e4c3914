// Package agent is the agent's program: it registers its host, keeps a link to
// its server, and runs the tasks that come over it. Run shows its whole graph.
//
// It knows the server only by the contract in package api.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent/command"
	"stella-ops.org/stella/internal/agent/journal"
	"stella-ops.org/stella/internal/agent/localapi"
	"stella-ops.org/stella/internal/daemon"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/compose"
	"stella-ops.org/stella/internal/executor/docker"
	"stella-ops.org/stella/internal/executor/host"
	"stella-ops.org/stella/internal/executor/ssh"
	"stella-ops.org/stella/internal/obs"
	"stella-ops.org/stella/internal/obs/metrics"
	"stella-ops.org/stella/internal/privatedir"
)

// Agent is an agent that is to be run.
type Agent struct {
	Config Config
	Log    *slog.Logger
	// Token is the registration token; empty to run from what is registered.
	Token string
	// OnJournal, when set, is called around each write of a task's record;
	// crash tests kill the process there.
	OnJournal func(point string, rec *deploy.Record)
	// OnRunning, when set, is called once, when all that comes before is done and
	// the agent's parts begin: it is registered, and what a crash had left is ended.
	// Whether the server can be reached is not known then.
	OnRunning func()
	// Pace is how patient the agent is with what is between it and its server;
	// tests have less time than the zero value stands for.
	Pace Pace
	// Clock is the machine's clock when it is not time.Now, for tests.
	Clock func() time.Time

	started      time.Time // when Run began
	clock        clock
	capabilities *capabilities
	keys         *encryptionKeys
	boot         *boot
	tail         obs.Tail // of Log, for collect-logs
	meter        meter
	link         linkState
}

// ErrNotRegistered is what Run fails with, among what it says more, when the agent
// has no identity and no token to get one: to start it again is of no use.
var ErrNotRegistered = errors.New("this agent is not registered")

// Run registers the agent when it is not registered yet, and runs it until ctx
// ends. It never gives up on its server; an error means that the agent cannot
// work as it is: it is not registered, or its data folder is of no use.
func (a *Agent) Run(ctx context.Context) error {
	a.started = time.Now()
	p, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	id, err := a.ensureIdentity(ctx, refused)
	if err != nil {
		return err
	}
	cfg, run := &a.Config, p.run
	unwrap, err := newUnwrapper(id, a.keys, a.Log)
	if err != nil {
		return err
	}
	a.Log.InfoContext(ctx, "agent starts", "agent", id.AgentID, "name", cfg.Name, "server", id.ServerURL, "version", obs.BuildVersion(), "boot", a.boot.count, "capabilities", a.capabilities.names())
	if why := a.drained(); why != "" {
		a.Log.WarnContext(ctx, "the agent was drained: it takes no new tasks until it is resumed", "reason", why)
	}

	registry := metrics.New(map[string]string{"agent_id": id.AgentID})
	a.meter.register(registry, a.link.connected, func() (*x509.Certificate, error) { return leafOf(cfg.Data) })
	server, err := newClients(cfg.Data, a.Pace.handshake(), a.clock.now)
	if err != nil {
		return err
	}
	run.calls = &calls{client: server.plain, server: id.ServerURL, agentID: id.AgentID, unwrap: unwrap, log: a.Log}
	unwrap.server.fetch, unwrap.server.keep = run.calls.serverKeys, func(publicKey string) error {
		return changeIdentity(cfg.Data, func(id *identity) { id.ServerPublicKey = publicKey })
	}
	store, err := newArtifactStore(run.calls, server.present)
	if err != nil {
		return err
	}
	run.agentID, run.artifacts, run.unwrap = id.AgentID, store.of, unwrap
	conn, err := newConnector(a, id, server, run, p.commands)
	if err != nil {
		return err
	}
	keep := &keeper{agent: a, calls: run.calls, looked: make(chan struct{}, 1), renewed: func() error {
		defer conn.renewed()
		return server.renew()
	}}
	p.conn, p.keep = conn, keep
	conn.follow = keep.follow
	run.calls.recover = func(ctx context.Context) error {
		_, err := keep.Renew(ctx, true)
		return err
	}
	if err := run.recover(ctx); err != nil {
		return err
	}
	supervised := newSupervision(a, conn)
	defer close(supervised.ended)
	if a.OnRunning != nil {
		a.OnRunning()
	}
	return daemon.Run(ctx,
		daemon.Task{Name: "link", Run: conn.Run},
		daemon.Task{Name: "certificate", Run: keep.Run},
		daemon.Task{Name: "local socket", Run: func(ctx context.Context) error {
			if err := localapi.Serve(ctx, cfg.LocalSocket(), localapi.Agent{Renew: keep.Renew, Status: func() *api.LocalStatus { return a.status(id, run) }}); err != nil {
				// The agent works without it.
				a.Log.WarnContext(ctx, "programs on this host cannot talk to the agent", "error", err)
				<-ctx.Done()
			}
			return nil
		}},
		daemon.Task{Name: "metrics", Run: func(ctx context.Context) error { return a.serveMetrics(ctx, registry) }},
		daemon.Task{Name: "capabilities", Run: func(ctx context.Context) error { return a.watchCapabilities(ctx, conn) }},
		daemon.Task{Name: "service manager", Run: supervised.Run},
	)
}

// parts are what an agent works with, whether it registers or runs.
type parts struct {
	journal  *journal.Journal
	run      *runner
	commands *command.Runner
	// conn and keep are there once the server is known; nothing calls for them before.
	conn *connector
	keep *keeper
}

// begin takes the data folder and looks what the agent can do.
func (a *Agent) begin(ctx context.Context) (_ *parts, err error) {
	cfg := &a.Config
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if err := privatedir.Make(cfg.Data); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if others, err := privatedir.Others(cfg.Data); err != nil {
		a.Log.WarnContext(ctx, "who else may read the agent's keys cannot be found out", "error", err)
	} else if len(others) > 0 {
		a.Log.WarnContext(ctx, "the data folder is open to others, and the agent's keys are in it: let only SYSTEM and Administrators in, as docs/windows.md shows", "folder", cfg.Data, "others", others)
	}
	if cfg.Name == "" {
		cfg.Name = hostname()
	}
	a.clock.machine = a.Clock
	p := &parts{}
	// The journal's lock also keeps a second agent off the folder.
	if p.journal, err = journal.Open(filepath.Join(cfg.Data, journalFile)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	p.journal.OnWrite = a.OnJournal
	if a.boot, err = beginBoot(cfg.Data); err != nil {
		return nil, err
	}
	a.Log = a.tail.Keep(a.Log)
	executors := []executor.Executor{
		docker.New(docker.Options{Host: cfg.DockerHost}), compose.New(compose.Options{Host: cfg.DockerHost}),
		ssh.New(ssh.Options{}), host.New(host.Options{}),
	}
	p.run = newRunner(executors, p.journal, cfg.Data, cfg.MaxConcurrentTasks, a.Log)
	builtins := a.builtins(p.run, func() { p.conn.beatNow() }, func(ctx context.Context, force bool) (*api.CertificateRenewal, error) {
		return p.keep.Renew(ctx, force)
	})
	p.commands = command.NewRunner(cfg.commandsDir(), builtins, p.journal.BeginCommand, a.Log)
	a.capabilities = &capabilities{executors: executors, commands: p.commands.Types, allowed: cfg.Capabilities, log: a.Log}
	a.capabilities.probe(ctx)
	a.keys, err = loadEncryptionKeys(cfg.Data)
	return p, err
}

// close lets the data folder go.
func (p *parts) close() { _ = p.journal.Close() } // every write to it is durable already

// watchCapabilities looks once a minute whether what worked still works.
func (a *Agent) watchCapabilities(ctx context.Context, c *connector) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if a.capabilities.probe(ctx) {
			c.beatNow()
		}
	}
}

func platform() string {
	if runtime.GOOS == "windows" {
		return runtime.GOOS // Windows' containers have no such file
	}
	if _, err := os.Stat("/.dockerenv"); err == nil {
		return "docker"
	}
	return runtime.GOOS
}
