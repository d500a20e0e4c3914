package task_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/sqlite"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

const (
	tenant = "default"
	lease  = 2 * time.Minute
)

// bench is the service over a real store, with a clock that the test turns.
type bench struct {
	*task.Service
	t     testing.TB
	ctx   context.Context
	store *store.Store
	fleet *fleet.Service
	tgts  *target.Service
	now   time.Time
	wakes *wakes
	audit *auditLog
	// secrets are those that tasks may refer to.
	secrets *secret.Service
	// keys are the agents' own, by their ids.
	keys map[string]*seal.PrivateKey
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, ctx: t.Context(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), wakes: &wakes{}, audit: &auditLog{}, keys: map[string]*seal.PrivateKey{}}
	var err error
	b.store, err = sqlite.Open(b.ctx, filepath.Join(t.TempDir(), "stella.db"))
	must(t, err)
	t.Cleanup(func() { _ = b.store.Close() })
	box, err := seal.NewBox(make([]byte, seal.KeySize))
	must(t, err)
	tokens, err := seal.NewTokenSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), "stella.test", b.clock)
	must(t, err)
	b.fleet = fleet.NewService(b.store, quiet{}, b.clock)
	b.tgts = target.NewService(b.store, b.fleet, b.clock)
	b.secrets = secret.NewService(b.store, box, b.tgts.UsersOfSecret, b.clock)
	b.Service = task.NewService(b.store, b.wakes, box, b.secrets, tokens, seal.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))), b.audit, task.Options{Lease: lease}, b.clock, slog.New(slog.DiscardHandler))
	return b
}

func (b *bench) clock() time.Time { return b.now }

func (b *bench) pass(d time.Duration) { b.now = b.now.Add(d) }

// agent enrols an agent that can do everything there is.
func (b *bench) agent(name string, change ...func(*fleet.Agent)) *fleet.Agent {
	b.t.Helper()
	a := &fleet.Agent{
		ID: "id-" + name, TenantID: tenant, Name: name, Lifecycle: api.LifecycleActive, Liveness: api.Live, Group: "web",
		Capabilities: []string{"docker", "host"}, PublicKeyHash: sum("key " + name), CertificateFingerprint: sum("cert " + name),
		CertificateNotAfter: b.now.Add(time.Hour), LastHeartbeat: b.now, CreatedAt: b.now, UpdatedAt: b.now,
	}
	key, err := seal.NewPrivateKey()
	must(b.t, err)
	b.keys[a.ID], a.EncryptionKey = key, key.Public().Text()
	for _, c := range change {
		c(a)
	}
	must(b.t, b.store.Enrol(b.ctx, &enroll.Enrolment{Agent: a, At: b.now, Cert: enroll.Issued{
		ChainPEM: "pem", Fingerprint: a.CertificateFingerprint, Serial: "1", NotBefore: b.now, NotAfter: a.CertificateNotAfter,
	}}))
	return a
}

// keyless is for agent: it has registered no key to seal to.
func keyless(a *fleet.Agent) { a.EncryptionKey = "" }

// target adds a docker target that one agent reaches.
func (b *bench) target(name, agent string, change ...func(*api.TargetRequest)) *target.Target {
	b.t.Helper()
	req := api.TargetRequest{Name: name, Kind: "docker", Agent: agent}
	for _, c := range change {
		c(&req)
	}
	tgt, err := b.tgts.Create(b.ctx, tenant, req)
	must(b.t, err)
	return tgt
}

// shared is for target: any agent of the group reaches it.
func shared(group string) func(*api.TargetRequest) {
	return func(r *api.TargetRequest) { r.Agent, r.AgentSelector = "", &api.AgentSelector{Group: group} }
}

// submit queues a task that is good.
func (b *bench) submit(req api.TaskRequest) *task.Task {
	b.t.Helper()
	k, existed, err := b.Submit(b.ctx, tenant, "tester", req)
	must(b.t, err)
	if existed {
		b.t.Fatalf("task %s existed", k.ID)
	}
	return k
}

// deploy is a deployment of a release.
func deploy(tgt, release, digest string) api.TaskRequest {
	return api.TaskRequest{Type: api.TaskDeploy, Target: tgt, Payload: encode(api.DeployPayload{
		Image: "registry.test/app", Digest: digest,
		Config: api.DeployConfig{ReleaseID: release, Environment: map[string]string{"DB": "value of " + release}},
	})}
}

// next has an agent claim a task that must be there.
func (b *bench) next(a *fleet.Agent) *api.AgentTask {
	b.t.Helper()
	k, err := b.Next(b.ctx, a, 0)
	must(b.t, err)
	if k == nil {
		b.t.Fatalf("there is no task for %s", a.Name)
	}
	return b.opened(a, k)
}

// opened opens what is sealed of a task, as its agent does.
func (b *bench) opened(a *fleet.Agent, k *api.AgentTask) *api.AgentTask {
	b.t.Helper()
	if k.Sealed == nil {
		return k
	}
	if k.Payload != nil || k.Credentials != nil {
		b.t.Fatalf("beside what is sealed it says %s, %+v", k.Payload, k.Credentials)
	}
	plain, err := b.keys[a.ID].Open(api.SealInfo(api.PurposeTask, k.ID, k.Attempt, a.ID), k.Sealed.Data)
	must(b.t, err)
	var content api.SealedTask
	must(b.t, json.Unmarshal(plain, &content))
	out := *k
	out.Payload, out.Credentials = content.Payload, content.Credentials
	return &out
}

// credentials asks for a task's credentials again, and opens them.
func (b *bench) credentials(a *fleet.Agent, ref task.Ref) (*api.Credentials, error) {
	b.t.Helper()
	c, err := b.Credentials(b.ctx, a, ref)
	if err != nil {
		return nil, err
	}
	info := api.SealInfo(api.PurposeCredentials, ref.ID, c.Attempt, a.ID)
	plain, err := b.keys[a.ID].Open(info, c.Sealed.Data)
	must(b.t, err)
	server := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey) //nolint:errcheck // it is one
	must(b.t, seal.Verify(server, api.PurposeCredentials, append(info, c.Sealed.Data...), c.Signature))
	out := &api.Credentials{}
	return out, json.Unmarshal(plain, out)
}

// run claims and ends a task well, as its agent does.
func (b *bench) run(a *fleet.Agent, outputs map[string]any) *api.AgentTask {
	b.t.Helper()
	k := b.next(a)
	b.finish(a, k, &api.TaskResult{Success: true, Outputs: outputs})
	return k
}

func (b *bench) finish(a *fleet.Agent, k *api.AgentTask, r *api.TaskResult) {
	b.t.Helper()
	ok, reason, err := b.Finish(b.ctx, a, task.Ref{ID: k.ID, Attempt: k.Attempt}, r)
	must(b.t, err)
	if !ok {
		b.t.Fatalf("the result of task %s was refused: %s", k.ID, reason)
	}
}

// state returns a task as it is now.
func (b *bench) state(id string) *task.Task {
	b.t.Helper()
	k, err := b.Get(b.ctx, tenant, id)
	must(b.t, err)
	return k
}

// queue is how many tasks there are in all.
func (b *bench) count() int {
	b.t.Helper()
	all, err := b.List(b.ctx, tenant, task.Filter{Limit: 1000})
	must(b.t, err)
	return len(all)
}

// auditLog keeps what was audited.
type auditLog struct {
	mu     sync.Mutex
	events []access.Event
}

// Audit implements access.Auditor.
func (l *auditLog) Audit(_ context.Context, e access.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *auditLog) of(action string) (out []access.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.Action == action {
			out = append(out, e)
		}
	}
	return out
}

// wakes counts wake-ups.
type wakes struct {
	mu        sync.Mutex
	queued    []string // the agents
	cancelled []task.Ref
}

// TaskQueued implements task.Waker.
func (w *wakes) TaskQueued(_, agentID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queued = append(w.queued, agentID)
}

// TaskCancel implements task.Waker.
func (w *wakes) TaskCancel(_ string, ref task.Ref, _ string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancelled = append(w.cancelled, ref)
}

// TaskChanged implements task.Waker.
func (*wakes) TaskChanged(string, string) {}

// Publish implements event.Publisher.
func (*wakes) Publish(string, ...api.Event) {}

type quiet struct{}

// AgentChanged implements fleet.Notifier.
func (quiet) AgentChanged(string, string) {}

// Publish implements event.Publisher.
func (quiet) Publish(string, ...api.Event) {}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func digest(s string) string { return "sha256:" + sum(s) }

func encode(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return data
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
