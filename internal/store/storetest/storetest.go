// Package storetest is the one suite that every engine of the store passes:
// each method with its contract, also when many call it at once, from several
// servers. The engines' packages run it in their tests.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

// Database is one that is empty and the test's own.
type Database interface {
	// Open opens a store on it, as another server would.
	Open(ctx context.Context) (*store.Store, error)
	// Exec runs a statement behind the store's back.
	Exec(ctx context.Context, statement string) error
}

// Run runs the suite. fresh makes an empty database, which goes with the test.
func Run(t *testing.T, fresh func(t testing.TB) Database) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *bench)
	}{
		{"Agents/Lookup", testAgentLookup},
		{"Agents/Clones", testClones},
		{"Agents/Filters", testAgentFilters},
		{"Agents/Pages", testAgentPages},
		{"Agents/Update", testAgentUpdate},
		{"Agents/Lifecycle", testLifecycle},
		{"Agents/Delete", testAgentDelete},
		{"Agents/StatusColumn", testStatusColumn},
		{"Agents/Changes", testAgentChanges},
		{"Heartbeats/Record", testHeartbeats},
		{"Heartbeats/Batch", testHeartbeatBatch},
		{"Heartbeats/Signed", testSignedHeartbeats},
		{"Heartbeats/Sweep", testSweep},
		{"Heartbeats/SweepFromTwoServers", testSweepTwoServers},
		{"Heartbeats/BatchesFromTwoServers", testBatchesTwoServers},
		{"Tokens", testTokens},
		{"Enrol/RoundTrip", testEnrolRoundTrip},
		{"Enrol/Refusals", testEnrolRefusals},
		{"Enrol/OneTokenManyAgents", testEnrolOneToken},
		{"Enrol/ManyUses", testEnrolManyUses},
		{"Enrol/Resume", testResume},
		{"Enrol/Renew", testRenew},
		{"Enrol/Signing", testSigning},
		{"Enrol/ResumeKeepsWhatPeopleDecided", testResumeKeeps},
		{"Enrol/SameKeyTwice", testSameKeyTwice},
		{"Certificates/Counts", testCertificateCounts},
		{"Enrol/AdoptUnknown", testAdoptUnknown},
		{"Enrol/Ended", testEnded},
		{"APITokens", testAPITokens},
		{"Targets/CRUD", testTargets},
		{"Targets/Filters", testTargetFilters},
		{"Targets/Delete", testTargetDelete},
		{"Targets/DeleteRacesInsert", testTargetDeleteRace},
		{"Tasks/RoundTrip", testTaskRoundTrip},
		{"Tasks/Lists", testTaskLists},
		{"Tasks/Idempotency", testIdempotency},
		{"Tasks/Cancel", testCancel},
		{"Tasks/Expire", testExpire},
		{"Tasks/Waiting", testWaiting},
		{"Tasks/Missing", testMissingTask},
		{"Tasks/Model", testTaskModel},
		{"Claims/Queued", testQueued},
		{"Claims/Refusals", testClaimRefusals},
		{"Claims/Many", testManyClaims},
		{"Claims/Fencing", testFencing},
		{"Claims/Assigned", testAssigned},
		{"Claims/Leases", testLeases},
		{"Claims/LostOnce", testLostOnce},
		{"Deployments", testDeployments},
		{"Logs/Append", testLogAppend},
		{"Logs/Limit", testLogLimit},
		{"Logs/Attempts", testLogAttempts},
		{"Logs/Concurrent", testLogConcurrent},
		{"Logs/AnyText", testLogAnyText},
		{"Commands/Pick", testCommandPick},
		{"Commands/Capable", testCommandCapable},
		{"Commands/Lists", testCommandLists},
		{"Commands/Unsent", testCommandUnsent},
		{"Commands/Reports", testReports},
		{"Commands/AnyAnswer", testReportsAnyAnswer},
		{"Commands/Expire", testExpireCommands},
		{"Commands/ReportsToTwoServers", testReportsTwoServers},
		{"Commands/DeleteEnded", testDeleteEnded},
		{"Secrets", testSecrets},
		{"Rollouts", testRollouts},
		{"Artifacts/Upload", testArtifactUpload},
		{"Artifacts/Mismatch", testArtifactMismatch},
		{"Artifacts/Limits", testArtifactLimits},
		{"Artifacts/Overtaken", testArtifactOvertaken},
		{"Artifacts/Together", testArtifactTogether},
		{"Artifacts/Tenants", testArtifactTenants},
		{"Artifacts/Uses", testArtifactUses},
		{"Artifacts/Collect", testArtifactCollect},
		{"Artifacts/CollectRacesTasks", testArtifactCollectRace},
		{"Artifacts/GoneWhileRead", testArtifactGone},
		{"Audit/Lines", testAudit},
		{"Audit/Before", testAuditBefore},
		{"Audit/Together", testAuditTogether},
		{"Audit/Whole", testAuditWhole},
		{"Audit/Parts", testAuditParts},
		{"Audit/Tampering", testAuditTampering},
		{"Audit/PutBack", testAuditPutBack},
		{"Audit/Retention", testAuditRetention},
		{"Audit/RetentionHidesNothing", testAuditRetentionHides},
		{"Audit/VerifyMeanwhile", testAuditMeanwhile},
		{"Lists/Agents", testAgentList},
		{"Lists/Targets", testTargetList},
		{"Lists/Tasks", testTaskList},
		{"Lists/Tokens", testTokenLists},
		{"Lists/Audit", testAuditList},
		{"Lists/Secrets", testSecretList},
		{"Lists/Rollouts", testRolloutList},
		{"Lists/Commands", testCommandListings},
		{"Lists/Artifacts", testArtifactList},
		{"Lists/WhileRowsMove", testPagesWhileRowsMove},
		{"Lists/Plans", testPlans},
		{"Keys", testKeys},
		{"Sealed/Replace", testReplaceTexts},
		{"Sealed/Rotation", testRotation},
		{"Sealed/RotationKilled", testRotationKilled},
		{"Readiness", testPing},
		{"Reopen", testReopen},
		{"OpenTogether", testOpenTogether},
		{"Errors/Closed", testClosed},
		{"Errors/Cancelled", testCancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, fresh(t))
			b.fresh = func() Database { return fresh(t) }
			c.test(t, b)
		})
	}
}

// bench is a store with the helpers that tests need.
type bench struct {
	*store.Store
	ctx context.Context
	db  Database
	now time.Time
	// fresh makes one more empty database.
	fresh func() Database
}

func newBench(t testing.TB, d Database) *bench {
	b := &bench{ctx: t.Context(), db: d, now: time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)}
	b.Store = b.open(t)
	return b
}

// open opens one more store on the database.
func (b *bench) open(t testing.TB) *store.Store {
	t.Helper()
	s, err := b.db.Open(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

const tenant = "default"

// agent returns an agent that is well, with everything filled in.
func (b *bench) agent(name string) *fleet.Agent {
	return &fleet.Agent{
		ID: "id-" + name, TenantID: tenant, Name: name, Version: "1.2.3",
		Lifecycle: api.LifecycleActive, Liveness: api.Live,
		Group: "web", Environment: "prod", Platform: "linux/amd64", Cluster: "c1",
		Labels: map[string]string{"zone": "a", "name": name}, Capabilities: []string{"docker", "docker.deploy"}, Routes: []string{"https://10.0.0.1:8443"},
		EncryptionKey: "a2V5", PublicKeyHash: hash("key-" + name), CertificateLife: 36 * time.Hour,
		CertificateFingerprint: hash("cert-" + name), CertificateNotAfter: b.now.Add(24 * time.Hour),
		LastHeartbeat: b.now, CreatedAt: b.now, UpdatedAt: b.now,
	}
}

// enrolment makes one for an agent, by key proof.
func (b *bench) enrolment(a *fleet.Agent) *enroll.Enrolment {
	return &enroll.Enrolment{
		Agent: a, At: b.now,
		Cert: enroll.Issued{
			ChainPEM: "chain of " + a.CertificateFingerprint, Fingerprint: a.CertificateFingerprint, Serial: "1",
			NotBefore: b.now.Add(-time.Minute), NotAfter: a.CertificateNotAfter,
		},
	}
}

// enrol adds agents and returns them.
func (b *bench) enrol(t testing.TB, agents ...*fleet.Agent) {
	t.Helper()
	for _, a := range agents {
		must(t, b.Enrol(b.ctx, b.enrolment(a)))
	}
}

// token adds a registration token.
func (b *bench) token(t testing.TB, id string, uses int) *enroll.Token {
	t.Helper()
	tok := &enroll.Token{
		ID: id, TenantID: tenant, Hash: hash(id), Name: "n", AgentID: "a", Environment: "e", Group: "g", Cluster: "c", Platform: "p",
		Capabilities: []string{"docker"}, Labels: map[string]string{"k": "v"},
		MaxUses: uses, CreatedBy: "me", CreatedAt: b.now, ExpiresAt: b.now.Add(time.Hour), CertificateLife: time.Hour,
	}
	must(t, b.InsertToken(b.ctx, tok))
	return tok
}

// target adds a target that one agent reaches; without an agent, any of the
// group web.
func (b *bench) target(t testing.TB, name, agentID string) *target.Target {
	t.Helper()
	tgt := &target.Target{
		ID: "target-" + name, TenantID: tenant, Name: name, Kind: "docker", AgentID: agentID, Environment: "prod",
		Labels: map[string]string{"tier": "front"}, Config: api.TargetConfig{Directory: "/srv/app"}, CreatedAt: b.now, UpdatedAt: b.now,
	}
	if agentID == "" {
		tgt.Selector = &api.AgentSelector{Group: "web"}
	}
	must(t, b.InsertTarget(b.ctx, tgt))
	return tgt
}

// queued returns a changing task for a target, not yet inserted.
func (b *bench) queued(targetID string) *task.Task {
	return &task.Task{
		ID: newID(), TenantID: tenant, Type: api.TaskDeploy, TargetID: targetID, State: api.TaskQueued, Changing: true,
		Capability: "docker.deploy", Payload: []byte(`{"image": "app"}`), Sealed: []byte{0, 1, 2}, Timeout: 90 * time.Second,
		CreatedBy: "me", CreatedAt: b.now, ExpiresAt: b.now.Add(time.Hour),
	}
}

// insert adds a task for a target, changed by the functions.
func (b *bench) insert(t testing.TB, targetID string, change ...func(*task.Task)) *task.Task {
	t.Helper()
	k := b.queued(targetID)
	for _, f := range change {
		f(k)
	}
	first, err := b.InsertTask(b.ctx, k)
	must(t, err)
	if first != nil {
		t.Fatalf("InsertTask returned task %s, which had its key", first.ID)
	}
	return k
}

// unchanging is for insert.
func unchanging(k *task.Task) { k.Changing = false }

// claim returns a claim of a task by an agent.
func (b *bench) claim(k *task.Task, agentID string) task.Claim {
	return task.Claim{Ref: task.Ref{ID: k.ID, Attempt: k.Attempt}, AgentID: agentID, MaxActive: 5, LeaseUntil: b.now.Add(time.Minute), At: b.now}
}

// claimed claims a task that is to be had.
func (b *bench) claimed(t testing.TB, k *task.Task, agentID string) *task.Task {
	t.Helper()
	got, err := b.ClaimTask(b.ctx, b.claim(k, agentID))
	must(t, err)
	if got == nil {
		t.Fatalf("task %s was not to be had by %s", k.ID, agentID)
	}
	return got
}

// state returns a task as it is now.
func (b *bench) state(t testing.TB, id string) *task.Task {
	t.Helper()
	k, err := b.Task(b.ctx, tenant, id)
	must(t, err)
	return k
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func hash(s string) string { return enroll.Hash("reg_" + s) }

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
		t.Fatalf("error %v, want a fault of kind %d with code %s", err, kind, code)
	}
}

// wantError checks an error by errors.Is.
func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

// same compares; empty and nil are equal.
func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// together runs n functions at the same time and waits for them.
func together(t testing.TB, n int, f func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	must(t, errors.Join(errs...))
}

// names returns the names of agents.
func names(agents []*fleet.Agent) []string {
	var list []string
	for _, a := range agents {
		list = append(list, a.Name)
	}
	return list
}

func numbered(prefix string, i int) string { return fmt.Sprintf("%s-%05d", prefix, i) }
