package task_test

import (
	"encoding/json"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// rollbackBench is a target with a history.
type rollbackBench struct {
	*bench
	a *fleet.Agent
}

func newRollbackBench(t *testing.T) *rollbackBench {
	b := newBench(t)
	r := &rollbackBench{bench: b, a: b.agent("a")}
	b.target("d", r.a.ID)
	return r
}

// deployed deploys releases, one after the other.
func (b *rollbackBench) deployed(releases ...string) {
	b.t.Helper()
	for _, r := range releases {
		b.pass(time.Minute)
		req := deploy("d", r, digest(r))
		req.Credentials = &api.Credentials{Registry: &api.RegistryAuth{Password: "password of " + r}}
		b.submit(req)
		b.run(b.a, map[string]any{"releaseId": r, "digest": digest(r)})
	}
}

func rollback(p api.RollbackPayload) api.TaskRequest {
	return api.TaskRequest{Type: api.TaskRollback, Target: "d", Payload: encode(p)}
}

// rolled rolls back, as the agent does when it repeats what the server says,
// and returns which release that was; empty for none.
func (b *rollbackBench) rolled(p api.RollbackPayload) (release string) {
	b.t.Helper()
	b.pass(time.Minute)
	k := b.submit(rollback(p))
	var public api.RollbackPayload
	must(b.t, json.Unmarshal(k.Payload, &public))
	got := b.next(b.a)
	var whole api.RollbackPayload
	must(b.t, json.Unmarshal(got.Payload, &whole))
	if whole.Deploy == nil {
		b.finish(b.a, got, &api.TaskResult{Success: true})
		return ""
	}
	release = whole.Deploy.Config.ReleaseID
	if v := whole.Deploy.Config.Environment["DB"]; v != "value of "+release {
		b.t.Errorf("the agent gets DB=%q with release %s", v, release)
	}
	if v := public.Deploy.Config.Environment["DB"]; v != "***" {
		b.t.Errorf("people see DB=%q", v)
	}
	if got.Credentials == nil || got.Credentials.Registry.Password != "password of "+release {
		b.t.Errorf("release %s comes with the credentials %+v", release, got.Credentials)
	}
	b.finish(b.a, got, &api.TaskResult{Success: true, Outputs: map[string]any{"releaseId": release, "digest": whole.Deploy.Digest}})
	return release
}

func (b *rollbackBench) wantRolled(p api.RollbackPayload, want string) {
	b.t.Helper()
	if got := b.rolled(p); got != want {
		b.t.Fatalf("rollback %+v repeats %q, want %q", p, got, want)
	}
}

func TestRollbackRepeatsThePreviousRelease(t *testing.T) {
	t.Parallel()
	b := newRollbackBench(t)
	b.deployed("r1", "r2", "r3")
	b.wantRolled(api.RollbackPayload{}, "r2")
}

// Going back twice is going forth again: the previous release is the one that
// ran before this one, not the one that is older.
func TestRollbackToggles(t *testing.T) {
	t.Parallel()
	b := newRollbackBench(t)
	b.deployed("r1", "r2")
	b.wantRolled(api.RollbackPayload{}, "r1")
	b.wantRolled(api.RollbackPayload{}, "r2")
	b.wantRolled(api.RollbackPayload{}, "r1")
}

// The same release twice is no previous release.
func TestRollbackPassesOverTheSameRelease(t *testing.T) {
	t.Parallel()
	b := newRollbackBench(t)
	b.deployed("r1", "r2", "r2")
	b.wantRolled(api.RollbackPayload{}, "r1")
}

func TestRollbackToWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	b := newRollbackBench(t)
	b.deployed("r1", "r2", "r3", "r4")
	b.wantRolled(api.RollbackPayload{TargetDigest: digest("r2")}, "r2")
	b.wantRolled(api.RollbackPayload{ReleaseID: "r1"}, "r1")
	for _, p := range []api.RollbackPayload{{TargetDigest: digest("never")}, {ReleaseID: "never"}} {
		n := b.count()
		_, _, err := b.Submit(b.ctx, tenant, "tester", rollback(p))
		wantFault(t, err, fault.Conflict, "release_unknown")
		if b.count() != n {
			t.Error("a task that can never run was queued")
		}
	}
}

// Without a history the target itself may have kept something to restore; and
// what it restored has no payload, so it is never repeated.
func TestRollbackWithoutPayload(t *testing.T) {
	t.Parallel()
	b := newRollbackBench(t)
	b.wantRolled(api.RollbackPayload{}, "") // restored by the target
	b.deployed("r1")
	b.wantRolled(api.RollbackPayload{}, "")
	b.deployed("r2")
	b.wantRolled(api.RollbackPayload{}, "r1")
}

// A deployment that failed is no part of the history.
func TestRollbackPassesOverFailures(t *testing.T) {
	t.Parallel()
	b := newRollbackBench(t)
	b.deployed("r1", "r2")
	b.submit(deploy("d", "bad", digest("bad")))
	b.finish(b.a, b.next(b.a), &api.TaskResult{Error: "unhealthy", ErrorType: api.ErrHealthCheckFailed})
	b.wantRolled(api.RollbackPayload{}, "r1")
	_, _, err := b.Submit(b.ctx, tenant, "tester", rollback(api.RollbackPayload{ReleaseID: "bad"}))
	wantFault(t, err, fault.Conflict, "release_unknown")
}

// A deployment without a release id has its task's.
func TestRollbackToANamelessRelease(t *testing.T) {
	t.Parallel()
	b := newRollbackBench(t)
	first := b.submit(deploy("d", "", digest("x")))
	b.run(b.a, nil)
	b.pass(time.Minute)
	b.deployed("r2")
	k := b.submit(rollback(api.RollbackPayload{}))
	var p api.RollbackPayload
	must(t, json.Unmarshal(k.Payload, &p))
	if p.Deploy == nil || p.Deploy.Config.ReleaseID != first.ID || p.Deploy.Digest != digest("x") {
		t.Fatalf("it repeats %+v, want release %s", p.Deploy, first.ID)
	}
}
