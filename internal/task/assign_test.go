package task_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/task"
)

// withLogin is a deploy on target d that logs in to a registry.
func withLogin() api.TaskRequest {
	req := deploy("d", "r1", digest("r1"))
	req.Credentials = &api.Credentials{Registry: &api.RegistryAuth{Username: "ci", Password: "registry-password"}}
	return req
}

// What an agent with a key gets says nothing of what is in it, is signed as it
// is written, and opens with that agent's key for that attempt alone.
func TestAssignmentIsSealedAndSigned(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a, other := b.agent("a"), b.agent("b")
	b.target("d", a.ID)
	req := withLogin()
	req.Payload = bytes.Replace(req.Payload, []byte("value of r1"), []byte(`<marker> & `+"\u2028"), 1)
	b.submit(req)
	k, err := b.Next(b.ctx, a, 0)
	must(t, err)
	data, signature, err := b.Signed(k)
	must(t, err)
	for _, word := range []string{"marker", "registry-password", `"payload"`, `"credentials"`} {
		if bytes.Contains(data, []byte(word)) {
			t.Errorf("%s is in %s", word, data)
		}
	}
	server := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey) //nolint:errcheck // it is one
	must(t, seal.Verify(server, api.PurposeTask, data, signature))
	if bytes.Contains(data, []byte("\n")) || !json.Valid(data) {
		t.Errorf("%q", data)
	}
	if k.AgentID != a.ID || k.Sealed.KeyID != b.keys[a.ID].Public().ID() {
		t.Errorf("%+v", k)
	}
	opened := b.opened(a, k)
	if !strings.Contains(string(opened.Payload), "marker") || opened.Credentials.Registry.Password != "registry-password" {
		t.Errorf("%s, %+v", opened.Payload, opened.Credentials)
	}
	for what, c := range map[string]struct {
		key  *seal.PrivateKey
		info []byte
	}{
		"another agent's key": {b.keys[other.ID], api.SealInfo(api.PurposeTask, k.ID, k.Attempt, a.ID)},
		"another attempt":     {b.keys[a.ID], api.SealInfo(api.PurposeTask, k.ID, k.Attempt+1, a.ID)},
		"another task":        {b.keys[a.ID], api.SealInfo(api.PurposeTask, "x", k.Attempt, a.ID)},
		"another agent":       {b.keys[a.ID], api.SealInfo(api.PurposeTask, k.ID, k.Attempt, other.ID)},
		"another purpose":     {b.keys[a.ID], api.SealInfo(api.PurposeCredentials, k.ID, k.Attempt, a.ID)},
	} {
		if _, err := c.key.Open(c.info, k.Sealed.Data); err == nil {
			t.Errorf("%s opens it", what)
		}
	}
}

// The key is the one that was registered last, whatever a link remembers.
func TestAssignmentIsSealedToTheKeyOfNow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	remembered := *a
	remembered.EncryptionKey = "of long ago"
	b.submit(deploy("d", "r1", digest("r1")))
	k, err := b.Next(b.ctx, &remembered, 0)
	must(t, err)
	if got := b.opened(a, k); got.Payload == nil {
		t.Errorf("%+v", got)
	}
}

func TestAgentWithoutAKeyGetsThePayloadAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a", keyless)
	b.target("d", a.ID)
	b.submit(deploy("d", "r1", digest("r1")))
	k, err := b.Next(b.ctx, a, 0)
	must(t, err)
	if k.Sealed != nil || !strings.Contains(string(k.Payload), "value of r1") || k.Credentials != nil {
		t.Errorf("%+v", k)
	}
	if c, err := b.Credentials(b.ctx, a, task.Ref{ID: k.ID}); err != nil || c.Sealed != nil || c.Attempt != 1 {
		t.Errorf("credentials, of which there are none: %+v, %v", c, err)
	}
}

// What has credentials is refused at once where only an agent without a key
// could run it, and says what to do.
func TestNoCredentialsForAnAgentWithoutAKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a", keyless, everything)
	b.secret("db", "value")
	b.target("d", a.ID)
	b.remote("by-ssh", a.ID, "db")
	for what, req := range map[string]api.TaskRequest{
		"a registry login": withLogin(), "a secret in the task": withSecret("secret://db"),
		"a secret in the target": {Type: api.TaskInspect, Target: "by-ssh"},
	} {
		_, _, err := b.Submit(b.ctx, tenant, "tester", req)
		if fault.CodeOf(err) != "encryption_key_missing" || fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "agent a has registered no encryption key") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := b.count(); n != 0 {
		t.Errorf("%d tasks", n)
	}
}

// A key that is lost while a task waits, or that is none, ends the task with
// the reason; what stands behind it is handed out.
func TestTaskFailsWhenItsAgentHasNoKeyAnyMore(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]string{"none": "", "no key": "a2V5"} {
		b := newBench(t)
		a := b.agent("a", func(a *fleet.Agent) { a.EncryptionKey = key })
		b.target("d", "", shared("web"))
		b.target("e", a.ID)
		lost := b.submit(withLogin())
		good := b.submit(deploy("e", "r1", digest("r1")))
		k, err := b.Next(b.ctx, a, 0)
		must(t, err)
		if key == "" && (k == nil || k.ID != good.ID) {
			t.Errorf("%s: handed out: %+v", name, k)
		}
		got := b.state(lost.ID)
		if got.State != api.TaskFailed || got.Result == nil || got.Result.ErrorType != api.ErrKeyMissing || !strings.Contains(got.Reason, "agent a") {
			t.Errorf("%s: %s: %s, %+v", name, got.State, got.Reason, got.Result)
		}
	}
}

// A shared target's task with credentials waits for an agent that can get them,
// although one that cannot asks first.
func TestSharedTaskIsLeftToAnAgentWithAKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	poor, rich := b.agent("poor", keyless), b.agent("rich")
	b.target("d", "", shared("web"))
	k := b.submit(withLogin())
	if got, err := b.Next(b.ctx, poor, 0); err != nil || got != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	if got := b.next(rich); got.ID != k.ID || got.Credentials == nil {
		t.Errorf("%+v", got)
	}
	// And when nobody has a key, nobody waits in vain.
	b.finish(rich, b.opened(rich, &api.AgentTask{ID: k.ID, Attempt: 1}), &api.TaskResult{Success: true})
	if _, err := b.fleet.Revoke(b.ctx, tenant, rich.ID); err != nil {
		t.Fatal(err)
	}
	lost := b.submit(withLogin())
	if got, err := b.Next(b.ctx, poor, 0); err != nil || got != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if got := b.state(lost.ID); got.State != api.TaskFailed || got.Result.ErrorType != api.ErrKeyMissing {
		t.Errorf("%s %+v", got.State, got.Result)
	}
}
