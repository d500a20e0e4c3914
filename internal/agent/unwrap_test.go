package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/seal"
)

// wrapper is a server, as far as it wraps tasks.
type wrapper struct {
	*seal.Signer
	t      testing.TB
	public string
}

func newWrapper(t testing.TB, seed byte) *wrapper {
	raw := make([]byte, ed25519.SeedSize)
	raw[0] = seed
	key := ed25519.NewKeyFromSeed(raw)
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		t.Fatal("no key")
	}
	return &wrapper{seal.NewSigner(key), t, base64.StdEncoding.EncodeToString(public)}
}

// wrap makes what the server would send of a task that is for an agent.
func (w *wrapper) wrap(task *api.AgentTask, agentID, publicKey string) (data, signature []byte) {
	w.t.Helper()
	t := *task
	t.AgentID = agentID
	if publicKey != "" {
		plain, err := json.Marshal(api.SealedTask{Payload: t.Payload, Credentials: t.Credentials})
		if err != nil {
			w.t.Fatal(err)
		}
		t.Sealed = sealedTo(w.t, publicKey, api.SealInfo(api.PurposeTask, t.ID, t.Attempt, agentID), string(plain))
		t.Payload, t.Credentials = nil, nil
	}
	data, err := json.Marshal(&t)
	if err != nil {
		w.t.Fatal(err)
	}
	return data, w.Sign(api.PurposeTask, data)
}

func newTestUnwrapper(t testing.TB, w *wrapper) *unwrapper {
	t.Helper()
	u, err := newUnwrapper(&identity{AgentID: "agent-1", ServerPublicKey: w.public}, encryptionFolder(t, t.TempDir()), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUnwrapTask(t *testing.T) {
	t.Parallel()
	w := newWrapper(t, 1)
	u := newTestUnwrapper(t, w)
	for _, key := range []string{u.keys.public(), ""} {
		data, signature := w.wrap(aTask("t1"), "agent-1", key)
		if sealed := bytes.Contains(data, []byte("payload-secret")); sealed == (key != "") {
			t.Errorf("on the wire: %s", data)
		}
		got, err := u.task(t.Context(), data, signature)
		if err != nil || got.Sealed != nil || !strings.Contains(string(got.Payload), "payload-secret") {
			t.Fatalf("%+v, %v", got, err)
		}
		if key != "" && got.Credentials.Registry.Password != "registry-secret" {
			t.Errorf("credentials: %+v", got.Credentials)
		}
	}
}

func TestUnwrapRefuses(t *testing.T) {
	t.Parallel()
	w, stranger := newWrapper(t, 1), newWrapper(t, 2)
	u, other := newTestUnwrapper(t, w), encryptionFolder(t, t.TempDir())
	// resigned changes a task before it is signed: what a server with a fault
	// would send.
	resigned := func(change func(*api.AgentTask)) (data, signature []byte) {
		data, _ = w.wrap(aTask("t1"), "agent-1", u.keys.public())
		var k api.AgentTask
		if err := json.Unmarshal(data, &k); err != nil {
			t.Fatal(err)
		}
		change(&k)
		data, err := json.Marshal(&k)
		if err != nil {
			t.Fatal(err)
		}
		return data, w.Sign(api.PurposeTask, data)
	}
	for what, c := range map[string]struct {
		errType string
		send    func() (data, signature []byte)
	}{
		"altered ciphertext": {api.ErrUntrusted, func() ([]byte, []byte) {
			data, sig := w.wrap(aTask("t1"), "agent-1", u.keys.public())
			at := bytes.Index(data, []byte(`"data":"`)) + 100
			data[at] ^= 1
			return data, sig
		}},
		"altered attempt": {api.ErrUntrusted, func() ([]byte, []byte) {
			data, sig := w.wrap(aTask("t1"), "agent-1", u.keys.public())
			return bytes.Replace(data, []byte(`"attempt":1`), []byte(`"attempt":2`), 1), sig
		}},
		"another task's signature": {api.ErrUntrusted, func() ([]byte, []byte) {
			data, _ := w.wrap(aTask("t1"), "agent-1", u.keys.public())
			_, sig := w.wrap(aTask("t2"), "agent-1", u.keys.public())
			return data, sig
		}},
		"no signature": {api.ErrUntrusted, func() ([]byte, []byte) {
			data, _ := w.wrap(aTask("t1"), "agent-1", u.keys.public())
			return data, nil
		}},
		"somebody else's signature": {api.ErrUntrusted, func() ([]byte, []byte) { return stranger.wrap(aTask("t1"), "agent-1", u.keys.public()) }},
		"a signature on something else": {api.ErrUntrusted, func() ([]byte, []byte) {
			data, _ := w.wrap(aTask("t1"), "agent-1", u.keys.public())
			return data, w.Sign(api.PurposeCredentials, data)
		}},
		"in the clear, and not signed": {api.ErrUntrusted, func() ([]byte, []byte) {
			data, _ := w.wrap(aTask("t1"), "agent-1", "")
			return data, nil
		}},
		"another agent's task":  {api.ErrUntrusted, func() ([]byte, []byte) { return w.wrap(aTask("t1"), "agent-2", other.public()) }},
		"sealed to another key": {api.ErrUnreadable, func() ([]byte, []byte) { return w.wrap(aTask("t1"), "agent-1", other.public()) }},
		"sealed for another attempt": {api.ErrUnreadable, func() ([]byte, []byte) {
			return resigned(func(k *api.AgentTask) { k.Attempt = 2 })
		}},
		"sealed for another task": {api.ErrUnreadable, func() ([]byte, []byte) { return resigned(func(k *api.AgentTask) { k.ID = "t2" }) }},
		"sealed, and no JSON": {api.ErrUnreadable, func() ([]byte, []byte) {
			return resigned(func(k *api.AgentTask) {
				k.Sealed = sealedTo(t, u.keys.public(), api.SealInfo(api.PurposeTask, "t1", 1, "agent-1"), "{")
			})
		}},
	} {
		data, signature := c.send()
		k, err := u.task(t.Context(), data, signature)
		f, ok := errors.AsType[*deploy.Error](err)
		if !ok || f.Type != c.errType || k == nil || k.ID == "" {
			t.Errorf("%s: %+v, %v", what, k, err)
		} else if k.Payload != nil && k.Sealed == nil && what != "in the clear, and not signed" || k.Credentials != nil {
			t.Errorf("%s: it was opened: %+v", what, k)
		}
	}
	if k, err := u.task(t.Context(), []byte("nothing"), nil); k != nil || err == nil {
		t.Errorf("no JSON: %+v, %v", k, err)
	}
	if _, err := newUnwrapper(&identity{ServerPublicKey: "AAAA"}, nil, nil); err == nil {
		t.Error("a server's key of 3 bytes is taken")
	}
}

func TestUnwrapCredentials(t *testing.T) {
	t.Parallel()
	w := newWrapper(t, 1)
	u := newTestUnwrapper(t, w)
	answer := func(attempt int64) *api.TaskCredentials {
		info := api.SealInfo(api.PurposeCredentials, "t1", attempt, "agent-1")
		s := sealedTo(t, u.keys.public(), info, `{"secrets":{"a":"b"}}`)
		return &api.TaskCredentials{Attempt: attempt, Sealed: s, Signature: w.Sign(api.PurposeCredentials, append(info, s.Data...))}
	}
	if c, err := u.credentials(t.Context(), "t1", 3, answer(3)); err != nil || c.Secrets["a"] != "b" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := u.credentials(t.Context(), "t1", 0, answer(3)); err != nil || c.Secrets["a"] != "b" {
		t.Errorf("of the current attempt: %+v, %v", c, err)
	}
	if c, err := u.credentials(t.Context(), "t1", 3, &api.TaskCredentials{Attempt: 3}); err != nil || c == nil {
		t.Errorf("none: %v", err)
	}
	unsigned, altered, renamed := answer(3), answer(3), answer(3)
	unsigned.Signature = nil
	altered.Sealed.Data[1130] ^= 1
	renamed.Attempt = 4
	for what, err := range map[string]error{
		"another attempt": second(u.credentials(t.Context(), "t1", 3, answer(4))), "another task": second(u.credentials(t.Context(), "t2", 3, answer(3))),
		"not signed": second(u.credentials(t.Context(), "t1", 3, unsigned)), "altered": second(u.credentials(t.Context(), "t1", 3, altered)),
		"renamed": second(u.credentials(t.Context(), "t1", 0, renamed)),
	} {
		if err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// A task that is refused is reported, leaves nothing behind, and runs when it
// comes as it should.
func TestRefusedTaskIsReported(t *testing.T) {
	t.Parallel()
	w := newWrapper(t, 1)
	ran := 0
	b := newBench(t, &doer{run: func(_ context.Context, _ *api.AgentTask, _ executor.Env) *api.TaskResult {
		ran++
		return &api.TaskResult{Success: true}
	}})
	b.unwrap = newTestUnwrapper(t, w)
	data, signature := w.wrap(aTask("t1"), "agent-1", b.unwrap.keys.public())
	b.must(b.take(t.Context(), data, nil))
	b.must(b.take(t.Context(), data, nil)) // again, before the first was reported
	res, ref := b.result("t1")
	if res.Success || res.ErrorType != api.ErrUntrusted || !strings.Contains(res.Error, "it is not signed") || ref.GetAttempt() != 0 {
		t.Errorf("%+v of %v", res, ref)
	}
	for _, f := range b.frames {
		if f.GetTaskAccepted() != nil {
			t.Errorf("it is said to run: %v", f)
		}
	}
	if len(b.held()) != 0 || len(b.entries()) != 0 || b.busyWith() != 0 || ran != 0 {
		t.Errorf("held %v, journal %v, ran %d", b.held(), b.entries(), ran)
	}
	b.acked(t.Context(), &stellav1.TaskRef{TaskId: "t1"}, false, "the attempt is over")
	b.must(b.take(t.Context(), data, signature))
	b.results = map[string]*stellav1.TaskResult{}
	if res, ref = b.result("t1"); !res.Success || ref.GetAttempt() != 1 || ran != 1 {
		t.Errorf("as it should: %+v of %v", res, ref)
	}
	// While it is at work, or waits to be reported, a forged copy changes nothing.
	b.must(b.take(t.Context(), bytes.Replace(data, []byte(`"attempt":1`), []byte(`"attempt":9`), 1), signature))
	if got := b.entries(); len(got) != 1 || got[0].Task.Attempt != 1 || got[0].Result == nil || !got[0].Result.Success {
		t.Errorf("journal: %+v", got)
	}
	if b.active["t1"].refused {
		t.Error("a forged copy has replaced the task")
	}
}

// What the journal keeps of a sealed task has neither what was sealed, nor what
// would open with the key that lies beside it.
func TestJournalKeepsNothingSealed(t *testing.T) {
	t.Parallel()
	w := newWrapper(t, 1)
	b := newBench(t, &doer{run: func(_ context.Context, _ *api.AgentTask, _ executor.Env) *api.TaskResult {
		return &api.TaskResult{Success: true}
	}})
	b.unwrap = newTestUnwrapper(t, w)
	data, signature := w.wrap(aTask("t1"), "agent-1", b.unwrap.keys.public())
	b.must(b.take(t.Context(), data, signature))
	kept, err := json.Marshal(b.entries())
	b.must(err)
	if k := b.entries()[0].Task; k.Sealed != nil || k.Payload != nil || k.Token != "" || bytes.Contains(kept, []byte("secret")) {
		t.Errorf("%s", kept)
	}
	b.result("t1")
}

// FuzzUnwrapTask: nothing but what the server signed becomes a task.
func FuzzUnwrapTask(f *testing.F) {
	w := newWrapper(f, 1)
	u := newTestUnwrapper(f, w)
	good, signature := w.wrap(aTask("t1"), "agent-1", u.keys.public())
	f.Add(good, signature)
	f.Add([]byte(`{"id":"t1","agentId":"agent-1","payload":{}}`), []byte{})
	f.Fuzz(func(t *testing.T, data, sig []byte) {
		if k, err := u.task(t.Context(), data, sig); err == nil && !bytes.Equal(data, good) {
			t.Fatalf("taken: %+v", k)
		}
	})
}
