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
	"slices"
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
	// Pace is how patient the agent is with what is between it and its server;
	// tests have less time than the zero value stands for.
	Pace Pace
	// Clock is the machine's clock when it is not time.Now, for tests.
	Clock func() time.Time

	clock        clock
	capabilities *capabilities
	keys         *encryptionKeys
	boot         *boot
	tail         obs.Tail // of Log, for collect-logs
	meter        meter
}

// Run registers the agent when it is not registered yet, and runs it until ctx
// ends. It never gives up on its server; an error means that the agent cannot
// work as it is: it is not registered, or its data folder is of no use.
func (a *Agent) Run(ctx context.Context) error {
	cfg := &a.Config
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if cfg.Name == "" {
		cfg.Name, _ = os.Hostname()
	}
	a.clock.machine = a.Clock
	// The journal's lock also keeps a second agent off the folder.
	j, err := journal.Open(filepath.Join(cfg.Data, journalFile))
	if err != nil {
		return err
	}
	defer func() { _ = j.Close() }() // every write to it is durable already
	j.OnWrite = a.OnJournal

	if a.boot, err = beginBoot(cfg.Data); err != nil {
		return err
	}
	a.Log = a.tail.Keep(a.Log)
	executors := []executor.Executor{
		docker.New(docker.Options{Host: cfg.DockerHost}), compose.New(compose.Options{Host: cfg.DockerHost}),
		ssh.New(ssh.Options{}), host.New(host.Options{}),
	}
	var conn *connector
	var keep *keeper
	run := newRunner(executors, j, cfg.Data, cfg.MaxConcurrentTasks, a.Log)
	commands := command.NewRunner(cfg.commandsDir(), a.builtins(run, func() { conn.beatNow() }, func(ctx context.Context, force bool) (*api.CertificateRenewal, error) { return keep.Renew(ctx, force) }), j.BeginCommand, a.Log)
	a.capabilities = &capabilities{executors: executors, commands: commands.Types, allowed: cfg.Capabilities, log: a.Log}
	a.capabilities.probe(ctx)

	if a.keys, err = loadEncryptionKeys(cfg.Data); err != nil {
		return err
	}
	id, err := a.ensureIdentity(ctx)
	if err != nil {
		return err
	}
	unwrap, err := newUnwrapper(id, a.keys, a.Log)
	if err != nil {
		return err
	}
	a.Log.InfoContext(ctx, "agent starts", "agent", id.AgentID, "name", cfg.Name, "server", id.ServerURL, "version", obs.BuildVersion(), "boot", a.boot.count, "capabilities", a.capabilities.names())
	if why := a.drained(); why != "" {
		a.Log.WarnContext(ctx, "the agent was drained: it takes no new tasks until it is resumed", "reason", why)
	}

	registry := metrics.New(map[string]string{"agent_id": id.AgentID})
	a.meter.register(registry, func() (*x509.Certificate, error) { return leafOf(cfg.Data) })
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
	if conn, err = newConnector(a, id, server, run, commands); err != nil {
		return err
	}
	keep = &keeper{agent: a, calls: run.calls, looked: make(chan struct{}, 1), renewed: func() error {
		defer conn.renewed()
		return server.renew()
	}}
	conn.follow = keep.follow
	run.calls.recover = func(ctx context.Context) error {
		_, err := keep.Renew(ctx, true)
		return err
	}
	if err := run.recover(ctx); err != nil {
		return err
	}
	return daemon.Run(ctx,
		daemon.Task{Name: "link", Run: conn.Run},
		daemon.Task{Name: "certificate", Run: keep.Run},
		daemon.Task{Name: "local socket", Run: func(ctx context.Context) error {
			if err := localapi.Serve(ctx, cfg.socket(), localapi.Agent{Renew: keep.Renew}); err != nil {
				// The agent works without it.
				a.Log.WarnContext(ctx, "programs on this host cannot talk to the agent", "error", err)
				<-ctx.Done()
			}
			return nil
		}},
		daemon.Task{Name: "metrics", Run: func(ctx context.Context) error { return a.serveMetrics(ctx, registry) }},
		daemon.Task{Name: "capabilities", Run: func(ctx context.Context) error { return a.watchCapabilities(ctx, conn) }},
	)
}

// ensureIdentity returns the agent's identity: the one it has, brought up to
// date with the server if the agent has changed since, or a new one by token.
func (a *Agent) ensureIdentity(ctx context.Context) (*identity, error) {
	id, err := loadIdentity(a.Config.Data)
	if err != nil {
		return nil, err
	}
	if id == nil {
		if a.Token == "" {
			return nil, fmt.Errorf("this agent is not registered: %s holds no identity; make a token with `stella agent bootstrap` and start it with --register", a.Config.Data)
		}
		return a.register(ctx, a.Token, nil)
	}
	a.inherit(id)
	if err := a.keys.registered(id.Registered.EncryptionPublicKey); err != nil {
		return nil, err
	}
	if !a.changed(id) {
		return id, nil
	}
	// The key that the agent has proves who it is; no token is spent. A
	// server that is away now will learn of the change at the next start.
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := a.recoverCertificate(short, id); err != nil {
		a.Log.WarnContext(ctx, "the certificate ended while the agent was off, and there is no new one yet", "error", explain(err))
	}
	anew, err := a.register(short, "", id)
	if err != nil {
		a.Log.WarnContext(ctx, "what has changed about this agent could not be registered", "error", err)
		return id, nil
	}
	return anew, nil
}

// inherit fills what the command line leaves out from the last registration.
func (a *Agent) inherit(id *identity) {
	c, was := &a.Config, id.Registered
	if c.ID == "" {
		c.ID = id.AgentID
	}
	if c.Group == "" {
		c.Group = was.Group
	}
	if c.Environment == "" {
		c.Environment = was.Environment
	}
	if c.Labels == nil {
		c.Labels = was.Labels
	}
	if was.Name != "" {
		c.Name = was.Name
	}
}

func (a *Agent) changed(id *identity) bool {
	now, was := a.describe(), id.Registered
	if now.Version != was.Version || now.Group != was.Group || len(now.Labels) != len(was.Labels) || !was.SignsHeartbeats || !slices.Equal(now.Capabilities, was.Capabilities) {
		return true
	}
	if was.EncryptionPublicKey != a.keys.public() {
		return true // the file was lost, and made anew: what is sealed to the old one cannot be read
	}
	for k, v := range now.Labels {
		if was.Labels[k] != v {
			return true
		}
	}
	return false
}

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
	if _, err := os.Stat("/.dockerenv"); err == nil {
		return "docker"
	}
	return runtime.GOOS
}

// explain adds what a person should look at to errors of the network.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: the server did not answer in time; is the address right, and does a firewall let the port through?", err)
	}
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok && bad.Reason == x509.Expired && bad.Cert != nil {
		return fmt.Errorf("%w: the server's certificate is good from %s to %s; set this machine's clock right, or the server's",
			err, bad.Cert.NotBefore.UTC().Format(time.RFC3339), bad.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return err
}
