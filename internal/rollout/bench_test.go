package rollout_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/rollout"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/sqlite"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

const tenant = "default"

// bench is the real services over a real store, with a clock that the test
// turns.
type bench struct {
	t     testing.TB
	ctx   context.Context
	store *store.Store
	box   *seal.Box
	tgts  *target.Service
	tasks *task.Service
	now   time.Time
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, ctx: t.Context(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	var err error
	b.store, err = sqlite.Open(b.ctx, filepath.Join(t.TempDir(), "stella.db"))
	must(t, err)
	t.Cleanup(func() { _ = b.store.Close() })
	b.box, err = seal.NewBox(make([]byte, seal.KeySize))
	must(t, err)
	tokens, err := seal.NewTokenSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), "stella.test", b.clock)
	must(t, err)
	b.tgts = target.NewService(b.store, fleet.NewService(b.store, quiet{}, b.clock), b.clock)
	secrets := secret.NewService(b.store, b.box, b.tgts.UsersOfSecret, b.clock)
	log := slog.New(slog.DiscardHandler)
	b.tasks = task.NewService(b.store, quiet{}, b.box, secrets, tokens, seal.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))), quiet{}, task.Options{}, b.clock, log)
	return b
}

// service is another server's.
func (b *bench) service(s rollout.Store) *rollout.Service {
	return rollout.NewService(s, b.tgts, b.tasks, b.box, quiet{}, b.clock, slog.New(slog.DiscardHandler))
}

func (b *bench) clock() time.Time { return b.now }

func (b *bench) pass(d time.Duration) { b.now = b.now.Add(d) }

func (b *bench) agent(name string) *fleet.Agent {
	b.t.Helper()
	a := &fleet.Agent{
		ID: "id-" + name, TenantID: tenant, Name: name, Lifecycle: api.LifecycleActive, Liveness: api.Live,
		Capabilities: []string{"docker"}, PublicKeyHash: sum("key " + name), CertificateFingerprint: sum("cert " + name),
		CertificateNotAfter: b.now.Add(time.Hour), LastHeartbeat: b.now, CreatedAt: b.now, UpdatedAt: b.now,
	}
	must(b.t, b.store.Enrol(b.ctx, &enroll.Enrolment{Agent: a, At: b.now, Cert: enroll.Issued{
		ChainPEM: "pem", Fingerprint: a.CertificateFingerprint, Serial: "1", NotBefore: b.now, NotAfter: a.CertificateNotAfter,
	}}))
	return a
}

func (b *bench) agentNamed(name string) *fleet.Agent {
	b.t.Helper()
	a, err := b.store.Agent(b.ctx, tenant, "id-"+name)
	must(b.t, err)
	return a
}

func (b *bench) target(name, agent string) *target.Target {
	b.t.Helper()
	tgt, err := b.tgts.Create(b.ctx, tenant, api.TargetRequest{Name: name, Kind: "docker", Agent: agent, Labels: map[string]string{"tier": "web"}})
	must(b.t, err)
	return tgt
}

// deployed gives a target a history.
func (b *bench) deployed(a *fleet.Agent, name, release string) {
	b.t.Helper()
	_, _, err := b.tasks.Submit(b.ctx, tenant, "history", api.TaskRequest{Type: api.TaskDeploy, Target: name, Payload: payload(release)})
	must(b.t, err)
	b.finish(a, &api.TaskResult{Success: true, Outputs: map[string]any{"releaseId": release}})
}

// finish has an agent take a task and end it; it returns the task.
func (b *bench) finish(a *fleet.Agent, res *api.TaskResult) *api.AgentTask {
	b.t.Helper()
	k, err := b.tasks.Next(b.ctx, a, 100)
	must(b.t, err)
	if k == nil {
		b.t.Fatal("there is no task")
	}
	ok, why, err := b.tasks.Finish(b.ctx, a, task.Ref{ID: k.ID, Attempt: k.Attempt}, res)
	must(b.t, err)
	if !ok {
		b.t.Fatal(why)
	}
	return k
}

func payload(release string) json.RawMessage {
	data, _ := json.Marshal(api.DeployPayload{
		Image: "registry.test/app", Digest: "sha256:" + sum(release),
		Config: api.DeployConfig{ReleaseID: release, Environment: map[string]string{"PASSWORD": "hunter22-" + release}},
	})
	return data
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

// quiet hears nothing and audits nothing.
type quiet struct{}

// AgentChanged implements fleet.Notifier.
func (quiet) AgentChanged(string, string) {}

// TaskQueued implements task.Waker.
func (quiet) TaskQueued(string, string) {}

// TaskCancel implements task.Waker.
func (quiet) TaskCancel(string, task.Ref, string) {}

// TaskChanged implements task.Waker.
func (quiet) TaskChanged(string, string) {}

// Publish implements event.Publisher.
func (quiet) Publish(string, ...api.Event) {}

// Audit implements access.Auditor.
func (quiet) Audit(context.Context, access.Event) {}
