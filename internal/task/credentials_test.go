package task_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

func (b *bench) secret(name, value string) {
	b.t.Helper()
	_, err := b.secrets.Set(b.ctx, tenant, "tester", name, value)
	must(b.t, err)
}

// withSecret is a deploy on target d that refers to a secret in a variable.
func withSecret(ref string) api.TaskRequest {
	req := deploy("d", "r1", digest("r1"))
	p := api.DeployPayload{Image: "reg.test/app", Digest: digest("r1"), Config: api.DeployConfig{
		ReleaseID: "r1", Environment: map[string]string{"DB": ref, "PLAIN": "hunter22"},
	}}
	req.Payload, _ = json.Marshal(p)
	return req
}

// remote is an ssh target that logs in with a secret.
func (b *bench) remote(name, agent, key string) {
	b.t.Helper()
	b.target(name, agent, func(r *api.TargetRequest) {
		r.Kind = "ssh"
		r.Config = api.TargetConfig{Directory: "/srv/app", SSH: &api.SSHConfig{SSHHop: api.SSHHop{Host: "h", Username: "u", PrivateKeyRef: "secret://" + key}}}
	})
}

func everything(a *fleet.Agent) { a.Capabilities = []string{"docker", "host", "ssh"} }

func TestSecretsGoToTheAgentAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a", everything)
	b.secret("db-password", "first-value")
	b.secret("login", "the-key")
	b.target("d", a.ID)
	b.remote("s", a.ID, "login")
	k := b.submit(withSecret("secret://db-password"))
	if text := string(k.Payload); !strings.Contains(text, "secret://db-password") || strings.Contains(text, "hunter22") || strings.Contains(text, "first-value") {
		t.Errorf("people see %s", text)
	}
	// What is given out is what the secret is when it is given out.
	b.secret("db-password", "second-value")
	got := b.next(a)
	if diff := cmp.Diff(&api.Credentials{Secrets: map[string]string{"db-password": "second-value"}}, got.Credentials); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(got.Payload), "secret://db-password") || strings.Contains(string(got.Payload), "second-value") {
		t.Errorf("the payload is %s", got.Payload)
	}
	b.submit(api.TaskRequest{Type: api.TaskInspect, Target: "s"})
	if got = b.next(a); got.Credentials == nil || got.Credentials.Secrets["login"] != "the-key" || len(got.Credentials.Secrets) != 1 {
		t.Errorf("the target's credentials: %+v", got.Credentials)
	}
}

func TestRegistryPasswordFromASecret(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	b.secret("registry", "pull-password")
	req := deploy("d", "r1", digest("r1"))
	req.Credentials = &api.Credentials{Registry: &api.RegistryAuth{Username: "ci", Password: "secret://registry"}}
	b.submit(req)
	got := b.next(a)
	if c := got.Credentials; c == nil || c.Registry == nil || c.Registry.Password != "pull-password" || c.Registry.Username != "ci" {
		t.Errorf("%+v", c)
	}
}

func TestUnknownSecretsAreRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a", everything)
	b.target("d", a.ID)
	b.remote("s", a.ID, "nobody")
	given := deploy("d", "r1", digest("r1"))
	given.Credentials = &api.Credentials{Secrets: map[string]string{"x": "y"}}
	for want, req := range map[string]api.TaskRequest{
		"body.payload":             withSecret("secret://nobody"),
		"body.target":              {Type: api.TaskInspect, Target: "s"},
		"body.credentials.secrets": given,
	} {
		_, _, err := b.Submit(b.ctx, tenant, "tester", req)
		if f := fault.As(err); f == nil || f.Kind != fault.Invalid || f.Fields[0].Location != want {
			t.Errorf("%s: %v", want, err)
		} else if want != "body.credentials.secrets" && !strings.Contains(f.Message, "stella secret set nobody") {
			t.Errorf("it does not say what to do: %v", f)
		}
	}
	if n := b.count(); n != 0 {
		t.Errorf("%d tasks", n)
	}
}

// A secret that is removed while a task waits ends the task; what stands behind
// it is handed out.
func TestRemovedSecretFailsTheTask(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	b.target("e", a.ID)
	b.secret("short-lived", "value")
	lost := b.submit(withSecret("secret://short-lived"))
	b.pass(time.Second)
	good := b.submit(deploy("e", "r1", digest("r1")))
	must(t, b.secrets.Remove(b.ctx, tenant, "short-lived", false))
	if got := b.next(a); got == nil || got.ID != good.ID {
		t.Errorf("handed out: %+v", got)
	}
	k := b.state(lost.ID)
	if k.State != api.TaskFailed || k.Result == nil || k.Result.ErrorType != api.ErrSecretMissing || !strings.Contains(k.Reason, `there is no secret "short-lived"`) {
		t.Errorf("%s: %s, %+v", k.State, k.Reason, k.Result)
	}
}

// An assignment that was lost on the way comes again, and then the secret may be
// gone.
func TestRemovedSecretFailsTheTaskThatIsAskedForAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	b.secret("short-lived", "value")
	k := b.submit(withSecret("secret://short-lived"))
	b.next(a)
	must(t, b.secrets.Remove(b.ctx, tenant, "short-lived", false))
	again, _, err := b.Pending(b.ctx, a, nil)
	if err != nil || len(again) != 0 {
		t.Errorf("%v, %v", again, err)
	}
	if got := b.state(k.ID); got.State != api.TaskFailed {
		t.Errorf("%s", got.State)
	}
}

func TestCredentialsAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a, other := b.agent("a", everything), b.agent("b", everything)
	b.secret("login", "the-key")
	b.remote("s", a.ID, "login")
	b.submit(api.TaskRequest{Type: api.TaskReadSticker, Target: "s"})
	k := b.next(a)
	ref := task.Ref{ID: k.ID, Attempt: k.Attempt}
	want := &api.Credentials{Secrets: map[string]string{"login": "the-key"}}
	got, err := b.credentials(a, ref)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	refused := func(what string, a *fleet.Agent, ref task.Ref, code string) {
		t.Helper()
		if c, err := b.credentials(a, ref); fault.CodeOf(err) != code || c != nil {
			t.Errorf("%s: %+v, %v", what, c, err)
		}
	}
	refused("another agent", other, ref, "attempt_replaced")
	refused("another attempt", a, task.Ref{ID: k.ID, Attempt: k.Attempt + 1}, "attempt_replaced")
	refused("no task", a, task.Ref{ID: "nothing"}, "task_not_found")
	// Over, and nobody has been at the target since: it may still undo.
	b.finish(a, k, &api.TaskResult{Success: true})
	if _, err := b.credentials(a, ref); err != nil {
		t.Error(err)
	}
}

// Once another agent has changed the target, the one that had it first must
// leave it alone.
func TestNoCredentialsForATargetThatOthersChanged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a, other := b.agent("a", everything), b.agent("b", everything)
	b.secret("registry", "pull-password")
	b.target("d", "", func(r *api.TargetRequest) { r.Agent, r.AgentSelector = "", &api.AgentSelector{Group: "web"} })
	req := deploy("d", "r1", digest("r1"))
	req.Credentials = &api.Credentials{Registry: &api.RegistryAuth{Username: "ci", Password: "secret://registry"}}
	b.submit(req)
	first := b.next(a)
	b.finish(a, first, &api.TaskResult{Error: "no", ErrorType: api.ErrAgentLost})
	ref := task.Ref{ID: first.ID, Attempt: first.Attempt}
	if _, err := b.credentials(a, ref); err != nil {
		t.Fatal(err)
	}
	b.pass(time.Second)
	b.submit(api.TaskRequest{Type: api.TaskInspect, Target: "d"})
	b.next(other)
	if _, err := b.credentials(a, ref); err != nil {
		t.Errorf("a look of another agent's: %v", err)
	}
	b.pass(time.Second)
	b.submit(deploy("d", "r2", digest("r2")))
	second := b.next(other)
	if c, err := b.credentials(a, ref); fault.CodeOf(err) != "target_changed" || c != nil {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := b.credentials(other, task.Ref{ID: second.ID, Attempt: second.Attempt}); err != nil {
		t.Errorf("the one that has it: %v", err)
	}
}
