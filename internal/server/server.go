// Package server is the control plane: Run shows its whole graph, from the
// data folder to the listener.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/artifact"
	"stella-ops.org/stella/internal/atomicfile"
	"stella-ops.org/stella/internal/bus"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/daemon"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/event"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/obs"
	"stella-ops.org/stella/internal/obs/metrics"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/rollout"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/server/install"
	"stella-ops.org/stella/internal/server/limit"
	"stella-ops.org/stella/internal/server/link"
	"stella-ops.org/stella/internal/server/rest"
	"stella-ops.org/stella/internal/server/revoked"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/postgres"
	"stella-ops.org/stella/internal/store/sqlite"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

// Server is a control plane that is to be run.
type Server struct {
	Config Config
	Log    *slog.Logger
	// Out gets the one line that says that the server is ready.
	Out io.Writer
	// Ready, when set, is called with the base URL once the server listens.
	Ready func(baseURL string)
	// CASettle is how long a step of the authority's rotation waits after the
	// one before; zero is long enough for all servers. Tests have less time.
	CASettle time.Duration
}

func now() time.Time { return time.Now().UTC() }

// Run runs the server until ctx ends, and stops within ten seconds then.
func (s *Server) Run(ctx context.Context) error {
	cfg, log := &s.Config, s.Log
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	maxArtifact, err := cfg.maxArtifactBytes()
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	certificates, err := cfg.certificatePolicy()
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	st, err := openStore(ctx, cfg)
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	defer func() { _ = st.Close() }() // everything committed is durable already
	keyring, err := seal.OpenKeyring(ctx, st, cfg.masterKeyFile(), log)
	if err != nil {
		return err
	}
	ca, err := pki.Load(ctx, st, keyring, pki.Options{TrustDomain: cfg.TrustDomain, Settle: s.CASettle}, now)
	if err != nil {
		return err
	}
	signing, err := seal.LoadSigningKeys(ctx, st, keyring, s.CASettle, now)
	if err != nil {
		return err
	}
	auditKey, err := access.LoadKey(ctx, st, keyring)
	if err != nil {
		return err
	}
	audit := access.NewLog(st, auditKey, access.LogOptions{Retention: cfg.AuditRetention}, now, log)
	// Before anybody is let in: the database may be an older one, put back.
	record, recorded, err := revoked.Open(cfg.revokedFile(), now().Add(-certificates.Recovery))
	if err != nil {
		return err
	}
	guard := revoked.NewGuard(record, st, audit, certificates.Recovery, now, log)
	if err := guard.Start(ctx, recorded); err != nil {
		return err
	}
	accounts := access.NewService(st, now)
	if err := s.firstStart(ctx, accounts, ca); err != nil {
		return err
	}
	wake, err := bus.Open(cfg.NATS, log)
	if err != nil {
		return err
	}
	defer wake.Close()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	base := cfg.baseURL(listener.Addr())
	var scraped net.Listener
	if cfg.MetricsAddr != "" {
		if scraped, err = metrics.Listen(ctx, cfg.MetricsAddr); err != nil {
			return fmt.Errorf("metrics-addr: %w", err)
		}
		defer scraped.Close()
	}

	registry := metrics.New(nil)
	meter := newMeter(registry)
	agents := fleet.NewService(guard.Agents(st), &agentNews{Notifier: wake, meter: meter}, now)
	monitor := fleet.NewMonitor(st, cfg.thresholds(), now, log, func(t fleet.Transition) { wake.Publish(t.TenantID, t.Event()) })
	enrolment := enroll.NewService(guard.Enrolments(st), ca, certificates, audit, wake, meter, now, log)
	targets := target.NewService(st, agents, now)
	secrets := secret.NewService(st, keyring, targets.UsersOfSecret, now)
	news := &taskNews{Bus: wake}
	signer, tokens := signing.Signer(), signing.Tokens(ca.TrustDomain())
	tasks := task.NewService(st, news, keyring, secrets, tokens, signer, audit, task.Options{Lease: cfg.TaskLease}, now, log)
	rollouts := rollout.NewService(st, targets, tasks, keyring, wake, now, log)
	news.ended = rollouts.Nudge
	commands := command.NewService(st, wake, wake, signer, command.Options{}, now, log)
	artifacts := artifact.NewService(st, artifact.Options{MaxBytes: maxArtifact, Grace: cfg.ArtifactGrace}, now, log)
	hub := link.NewHub(agents, monitor, tasks, commands, wake, link.Options{
		HeartbeatInterval: cfg.HeartbeatInterval, ServerName: base, ReconnectRate: cfg.ReconnectRate, ReconnectMost: cfg.StaleAfter / 2, Trust: ca.Trust, SignedOnly: cfg.RequireSigned,
	}, now, log)
	wake.Handle(hub.Handlers())
	ready := &readiness{check: func(ctx context.Context) error {
		if err := st.Ping(ctx); err != nil {
			return err
		}
		return keyring.Check(ctx)
	}}
	strangers := limit.NewStrangers(cfg.strangers(), time.Now)

	installers := &install.Installers{Agents: install.NewAgents(cfg.agentsFolders()...), Version: obs.BuildVersion(), Pins: ca.ServerPins, Names: cfg.names()}

	api := rest.New(rest.Deps{
		Access: accounts, Audit: audit, Names: ca, Enroll: enrolment, Fleet: agents, Monitor: monitor,
		Targets: targets, Tasks: tasks, Commands: commands, Artifacts: artifacts, Secrets: secrets, Rollouts: rollouts, Tokens: tokens, Links: hub, Followers: wake, Ready: ready.Check,
		Listen: func(tenant string, f event.Filter) rest.Listener { return wake.Listen(tenant, f) },
		CA:     ca, Rotation: enroll.NewRotation(ca, st), CRL: pki.NewLists(ca, guard.Ended).CRL, Signing: signing, Installers: installers, HeartbeatInterval: cfg.HeartbeatInterval, SignedOnly: cfg.RequireSigned,
		BaseURL: func() string { return base }, Version: obs.BuildVersion(), Stopping: ctx.Done(), Now: now, Log: log,
		Strangers: strangers, BodyTimeout: cfg.bodyTimeout(), Metrics: registry.Handler(log), RenewalRefused: meter.renewalRefused,
	})
	api.Handle(hub.GRPC(api.IdentifySelf))
	api.Handle("GET /api/v1/agents/{id}/task-stream", hub.WebSocket(api.IdentifySelf, api.Refuse))

	secure := limit.NewHandshakes(listener, limit.HandshakeOptions{
		Config: s.tls(ca), Timeout: cfg.handshakeTimeout(), Most: cfg.MaxHandshakes,
	}, log)
	(&measured{
		ca: ca, names: cfg.names(), agents: &agentCounts{read: st.CertificateCounts, now: time.Now, log: log},
		hub: hub, strangers: strangers, handshakes: secure,
	}).register(registry) //nolint:contextcheck // a scrape has none; what it waits for has an end of its own
	return daemon.Run(ctx,
		daemon.Task{Name: "http", Run: func(ctx context.Context) error {
			return s.serve(ctx, secure, api, base)
		}},
		daemon.Task{Name: "authority", Run: func(ctx context.Context) error {
			return ca.Run(ctx, log, func() {
				if err := s.writeRoots(ca); err != nil {
					log.ErrorContext(ctx, "the file with the roots was not written", "error", err)
				}
			})
		}},
		daemon.Task{Name: "keyring", Run: keyring.Run},
		daemon.Task{Name: "signing keys", Run: func(ctx context.Context) error { return signing.Run(ctx, log) }},
		daemon.Task{Name: "limits", Run: func(ctx context.Context) error { return s.reportLimits(ctx, strangers, secure) }},
		daemon.Task{Name: "metrics", Run: func(ctx context.Context) error {
			if scraped == nil {
				<-ctx.Done()
				return nil
			}
			return metrics.Serve(ctx, scraped, registry.Handler(log), log)
		}},
		daemon.Task{Name: "links", Run: hub.Run},
		daemon.Task{Name: "changes of agents", Run: fleet.NewWatch(st, log, hub, guard).Run},
		daemon.Task{Name: "liveness", Run: monitor.Run},
		daemon.Task{Name: "tasks", Run: tasks.Run},
		daemon.Task{Name: "rollouts", Run: rollouts.Run},
		daemon.Task{Name: "commands", Run: commands.Run},
		daemon.Task{Name: "artifacts", Run: artifacts.Run},
		daemon.Task{Name: "audit log", Run: audit.Run},
	)
}

func openStore(ctx context.Context, cfg *Config) (*store.Store, error) {
	if cfg.Database == "" {
		return sqlite.Open(ctx, filepath.Join(cfg.Data, "stella.db"))
	}
	if strings.HasPrefix(cfg.Database, "postgres://") || strings.HasPrefix(cfg.Database, "postgresql://") {
		return postgres.Open(ctx, cfg.Database)
	}
	return nil, errors.New("its URL must begin with postgres://")
}

// firstStart leaves the root certificate and, the first time, the admin token
// where the local CLI finds them.
func (s *Server) firstStart(ctx context.Context, accounts *access.Service, ca *pki.Authority) error {
	if err := s.writeRoots(ca); err != nil {
		return err
	}
	token, err := accounts.First(ctx)
	if err != nil {
		return fmt.Errorf("first admin token: %w", err)
	}
	if token == "" {
		return nil
	}
	path := filepath.Join(s.Config.Data, "admin.token")
	if err := atomicfile.Write(path, []byte(token+"\n"), 0o600); err != nil {
		return fmt.Errorf("first admin token: %w", err)
	}
	if obs.IsTerminal(s.Out) {
		// Only where a person reads it: elsewhere it would stay in a log.
		fmt.Fprintf(s.Out, "First start: the admin token is %s\nIt is not shown again; it is also in %s.\n", token, path)
	} else {
		fmt.Fprintf(s.Out, "First start: the admin token is in %s.\n", path)
	}
	fmt.Fprintf(s.Out, "The root certificate's pin, to compare with at `stella login`, is %x.\n", ca.Pin())
	return nil
}

// writeRoots leaves what is to be trusted where the local CLI finds it.
func (s *Server) writeRoots(ca *pki.Authority) error {
	return atomicfile.Write(filepath.Join(s.Config.Data, "ca.pem"), []byte(ca.RootsPEM()), 0o644)
}

// protocols are what is agreed on by TLS (RFC 7301).
var protocols = []string{"h2", "http/1.1"}

// tls is how the port speaks TLS: agents show a certificate, people do not.
func (s *Server) tls(ca *pki.Authority) *tls.Config {
	names := s.Config.names()
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protocols,
		// Whose certificate has ended is told so in words, and may recover.
		ClientAuth:       tls.RequestClientCert,
		VerifyConnection: ca.VerifyAgent,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return ca.ServerCertificate(names)
		},
	}
	cfg.GetConfigForClient = withIssuers(cfg.Clone(), ca)
	return cfg
}

// reportLimits says once a minute in the log whom limits have turned away: each
// by itself would fill it.
func (s *Server) reportLimits(ctx context.Context, strangers *limit.Strangers, handshakes *limit.Handshakes) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for requests, displaced := int64(0), int64(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		refused, anonymous := strangers.TurnedAway()
		r, d := refused+anonymous, handshakes.Displaced()
		if r != requests || d != displaced {
			s.Log.WarnContext(ctx, "somebody asks more than strangers may: see docs/limits.md", "requests_refused", r-requests, "handshakes_displaced", d-displaced, "handshakes_failed", handshakes.Failed())
		}
		requests, displaced = r, d
	}
}

// serve answers requests until ctx ends, then lets those under way finish.
func (s *Server) serve(ctx context.Context, l net.Listener, h http.Handler, base string) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: s.Config.handshakeTimeout(),
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: protocols}, // the listener has spoken it
		// A peer that is gone without a word is noticed by pings, so that
		// its link ends and its tasks are not sent into the void.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 20 * time.Second, PingTimeout: 15 * time.Second, MaxConcurrentStreams: 100},
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 8*time.Second)
		defer cancel()
		err := srv.Shutdown(grace)
		if err != nil {
			err = srv.Close()
		}
		stopped <- err
	}()
	fmt.Fprintf(s.Out, "Stella %s is ready at %s (data in %s)\n", obs.BuildVersion(), base, s.Config.Data)
	s.Log.InfoContext(ctx, "ready", "url", base, "listen", l.Addr().String(), "version", obs.BuildVersion())
	if s.Ready != nil {
		s.Ready(base)
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// withIssuers tells clients which issuers are known, which may change.
func withIssuers(base *tls.Config, ca *pki.Authority) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	var mu sync.Mutex
	var last *tls.Config // one for all connections: each keeps its own
	return func(*tls.ClientHelloInfo) (*tls.Config, error) {
		known := ca.ClientCAs()
		mu.Lock()
		defer mu.Unlock()
		if last == nil || last.ClientCAs != known {
			last = base.Clone()
			last.ClientCAs = known
		}
		return last, nil
	}
}
