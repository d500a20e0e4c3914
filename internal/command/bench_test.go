package command_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/sqlite"
)

const tenant = "default"

// bench is a real store with services over it. Its clock is the bubble's.
type bench struct {
	t     testing.TB
	ctx   context.Context
	store *store.Store
	told  *told
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, ctx: t.Context(), told: &told{}}
	var err error
	b.store, err = sqlite.Open(b.ctx, filepath.Join(t.TempDir(), "stella.db"))
	must(t, err)
	t.Cleanup(func() { _ = b.store.Close() })
	return b
}

// server is a service whose Run runs.
type server struct {
	*command.Service
	stop func()
	// since is when it began to run.
	since time.Time
}

// serve starts a service over a store, which may be the bench's own.
func (b *bench) serve(s command.Store) *server {
	return b.run(b.service(s, command.Options{}))
}

func (b *bench) service(s command.Store, opts command.Options) *command.Service {
	return command.NewService(s, b.told, b.told, nil, opts, time.Now, slog.New(slog.DiscardHandler))
}

// run has a service run; it may have run before.
func (b *bench) run(s *command.Service) *server {
	srv := &server{Service: s, since: time.Now()}
	ctx, cancel := context.WithCancel(b.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := srv.Run(ctx); err != nil {
			b.t.Errorf("run: %v", err)
		}
	}()
	srv.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	b.t.Cleanup(srv.stop)
	return srv
}

// agent enrols an agent that is live.
func (b *bench) agent(name string, change ...func(*fleet.Agent)) *fleet.Agent {
	b.t.Helper()
	now := time.Now()
	a := &fleet.Agent{
		ID: "id-" + name, TenantID: tenant, Name: name, Lifecycle: api.LifecycleActive, Liveness: api.Live, Group: "web",
		PublicKeyHash: sum("key " + name), CertificateFingerprint: sum("cert " + name), CertificateNotAfter: now.Add(time.Hour),
		LastHeartbeat: now, CreatedAt: now, UpdatedAt: now,
	}
	for _, c := range change {
		c(a)
	}
	must(b.t, b.store.Enrol(b.ctx, &enroll.Enrolment{Agent: a, At: now, Cert: enroll.Issued{
		ChainPEM: "pem", Fingerprint: a.CertificateFingerprint, Serial: "1", NotBefore: now, NotAfter: a.CertificateNotAfter,
	}}))
	return a
}

// send sends a command that is good.
func (b *bench) send(s *server, to command.Recipient, req api.CommandRequest) *command.Command {
	b.t.Helper()
	c, err := s.Send(b.ctx, tenant, "tester", to, req)
	must(b.t, err)
	return c
}

// deliveries returns a command's recipients by their ids.
func (b *bench) deliveries(id string) map[string]*command.Delivery {
	b.t.Helper()
	list, err := b.store.Deliveries(b.ctx, tenant, id, command.DeliveryFilter{})
	must(b.t, err)
	m := make(map[string]*command.Delivery, len(list))
	for _, d := range list {
		m[d.AgentID] = d
	}
	return m
}

var (
	toAll = command.Recipient{Scope: api.ScopeAll}
	toWeb = command.Recipient{Scope: api.ScopeGroup, Name: "web"}
)

func toAgent(idOrName string) command.Recipient {
	return command.Recipient{Scope: api.ScopeAgent, Name: idOrName}
}

// told keeps what servers and followers were told.
type told struct {
	mu     sync.Mutex
	events []api.Event
	sent   []string
}

// Publish implements event.Publisher.
func (w *told) Publish(t string, events ...api.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t != tenant {
		panic("events of tenant " + t)
	}
	w.events = append(w.events, events...)
}

// CommandSent implements command.Waker.
func (w *told) CommandSent(_, id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, id)
}

func (w *told) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events, w.sent = nil, nil
}

// of returns the events about a command, and forgets none.
func (w *told) of(id string) (list []api.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.CommandID == id {
			list = append(list, e)
		}
	}
	return list
}

// flaky is a store that fails when it is told to, and counts its batches.
type flaky struct {
	command.Store
	mu      sync.Mutex
	err     error
	hold    chan struct{} // batches wait for it, when it is there
	batches [][]command.Report
}

// RecordReports implements command.Store.
func (f *flaky) RecordReports(ctx context.Context, reports []command.Report) ([]command.Outcome, []command.Transition, error) {
	f.mu.Lock()
	f.batches = append(f.batches, reports)
	err, hold := f.err, f.hold
	f.mu.Unlock()
	if hold != nil {
		<-hold
	}
	if err != nil {
		return nil, nil, err
	}
	return f.Store.RecordReports(ctx, reports)
}

func (f *flaky) set(err error, hold chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.hold = err, hold
}

func (f *flaky) sizes() (list []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.batches {
		list = append(list, len(b))
	}
	return list
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantFault checks an error's kind and code.
func wantFault(t testing.TB, err error, kind fault.Kind, code string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind || fault.CodeOf(err) != code {
		t.Fatalf("error %v (kind %d, code %s), want kind %d, code %s", err, fault.KindOf(err), fault.CodeOf(err), kind, code)
	}
}
