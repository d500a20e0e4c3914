package testkit_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/testkit"
)

// awkward is what encoders of JSON write in more than one way.
const awkward = "<b>&amp; 'quoted\" \u2028 é 😀 \\ / \x7f"

func newPrivateKey(t testing.TB) *seal.PrivateKey {
	t.Helper()
	key, err := seal.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signedTask verifies a task as it came, and returns it.
func (h *handmade) signedTask(t testing.TB, data, signature []byte) *api.AgentTask {
	t.Helper()
	server, err := seal.ParseServerKey(h.server)
	if err != nil {
		t.Fatal(err)
	}
	if err := seal.Verify(server, api.PurposeTask, data, signature); err != nil {
		t.Errorf("%v: %s", err, data)
	}
	var k api.AgentTask
	if err := json.Unmarshal(data, &k); err != nil {
		t.Fatal(err)
	}
	if k.AgentID != h.id {
		t.Errorf("it is for %s", k.AgentID)
	}
	return &k
}

// opened opens what is sealed of a task.
func opened(t testing.TB, key *seal.PrivateKey, k *api.AgentTask, agentID string) (*api.SealedTask, error) {
	t.Helper()
	if k.Sealed == nil || k.Payload != nil {
		t.Fatalf("it is not sealed: %+v", k)
	}
	plain, err := key.Open(api.SealInfo(api.PurposeTask, k.ID, k.Attempt, agentID), k.Sealed.Data)
	if err != nil {
		return nil, err
	}
	var content api.SealedTask
	return &content, json.Unmarshal(plain, &content)
}

// withSecret is a task for a docker target that has a secret and awkward text in
// it.
func withSecret(t testing.TB, cp *testkit.ControlPlane, target string) api.TaskRequest {
	t.Helper()
	if _, err := cp.Client.SetSecret(t.Context(), "db", "the value "+awkward); err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(api.CommandPayload{Command: []string{"true", awkward}, Environment: map[string]string{"DB": "secret://db", "PLAIN": "marker-of-the-payload"}})
	if err != nil {
		t.Fatal(err)
	}
	return api.TaskRequest{Type: api.TaskExecuteCommand, Target: target, Payload: payload, IdempotencyKey: awkward + time.Now().String()}
}

func TestCarriersBringASealedTask(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		key, other := newPrivateKey(t), newPrivateKey(t)
		l.handmade = registered(t, l.cp, l.cp.Token(), api.RegisterRequest{Name: "sealing", Capabilities: []string{"docker"}, EncryptionPublicKey: key.Public().Text()})
		if _, err := l.cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "sealed-box", Kind: "docker", Agent: l.id}); err != nil {
			t.Fatal(err)
		}
		l.connect()
		sent, err := l.cp.Client.SubmitTask(t.Context(), withSecret(t, l.cp, "sealed-box"))
		if err != nil {
			t.Fatal(err)
		}
		f := l.next(isTask).GetTask()
		k := l.signedTask(t, f.GetTaskJson(), f.GetSignature())
		if k.ID != sent.ID || k.Sealed.KeyID != key.Public().ID() || bytes.Contains(f.GetTaskJson(), []byte("marker-of-the-payload")) || bytes.Contains(f.GetTaskJson(), []byte("the value")) {
			t.Errorf("%s", f.GetTaskJson())
		}
		content, err := opened(t, key, k, l.id)
		if err != nil || content.Credentials.Secrets["db"] != "the value "+awkward || !bytes.Contains(content.Payload, []byte("marker-of-the-payload")) {
			t.Errorf("%+v, %v", content, err)
		}
		if _, err := opened(t, other, k, l.id); err == nil {
			t.Error("another agent's key opens it")
		}
		if _, err := opened(t, key, k, "another-agent"); err == nil {
			t.Error("it opens as another agent's")
		}
		// Its credentials again, sealed in the same way.
		l.send(accepted(&stellav1.TaskRef{TaskId: k.ID, Attempt: k.Attempt}))
		status, body := call(t, l.http2(), http.MethodPost, l.url("/tasks/"+k.ID+"/credentials"), nil, api.CredentialsRequest{Attempt: 1})
		var c api.TaskCredentials
		if err := json.Unmarshal(body, &c); err != nil || status != http.StatusOK || c.Attempt != 1 || bytes.Contains(body, []byte("the value")) {
			t.Fatalf("%d %s", status, body)
		}
		info := api.SealInfo(api.PurposeCredentials, k.ID, 1, l.id)
		plain, err := key.Open(info, c.Sealed.Data)
		if err != nil || !strings.Contains(string(plain), "the value") {
			t.Errorf("%q, %v", plain, err)
		}
		if _, err := key.Open(api.SealInfo(api.PurposeTask, k.ID, 1, l.id), c.Sealed.Data); err == nil {
			t.Error("they open as a task")
		}
		l.send(resultOf(&stellav1.TaskRef{TaskId: k.ID, Attempt: k.Attempt}, `{"success":true}`))
		l.next(func(f *stellav1.ConnectResponse) bool { return f.GetResultAck().GetAccepted() })
	})
}

// The JSON that agents of other makers get is, byte for byte, what was signed:
// over the stream and in a heartbeat's answer.
func TestSignedBytesInJSON(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	// With a name and a label of the target that are written in several ways.
	for _, sealing := range []bool{true, false} {
		name := map[bool]string{true: "sealing", false: "plain"}[sealing]
		req := api.RegisterRequest{Name: name, Capabilities: []string{"docker"}}
		key := newPrivateKey(t)
		if sealing {
			req.EncryptionPublicKey = key.Public().Text()
		}
		h := registered(t, cp, cp.Token(), req)
		if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{
			Name: "box-" + name, Kind: "docker", Agent: h.id, Environment: "<prod> & é \u2028",
		}); err != nil {
			t.Fatal(err)
		}
		task := withSecret(t, cp, "box-"+name)
		if !sealing {
			task.Payload = bytes.Replace(task.Payload, []byte("secret://db"), []byte("nothing"), 1)
		}
		submit := func() {
			t.Helper()
			task.IdempotencyKey += "+"
			if _, err := cp.Client.SubmitTask(t.Context(), task); err != nil {
				t.Fatal(err)
			}
		}
		check := func(where string, data, signature []byte) {
			t.Helper()
			if !bytes.Contains(data, []byte("<prod>")) {
				t.Errorf("%s: %s", where, data)
			}
			k := h.signedTask(t, data, signature)
			if sealing {
				if _, err := opened(t, key, k, h.id); err != nil {
					t.Errorf("%s: %v", where, err)
				}
			} else if !bytes.Contains(k.Payload, []byte("marker-of-the-payload")) || k.Sealed != nil {
				t.Errorf("%s: %+v", where, k)
			}
		}
		submit()
		submit()
		_, body := h.beat(t, h.http2())
		var answer struct {
			Tasks      []json.RawMessage `json:"tasks"`
			Signatures [][]byte          `json:"signatures"`
		}
		if err := json.Unmarshal(body, &answer); err != nil || len(answer.Tasks) != 2 || len(answer.Signatures) != 2 {
			t.Fatalf("%s", body)
		}
		for i, data := range answer.Tasks {
			check("heartbeat", data, answer.Signatures[i])
		}
		conn, _, err := websocket.Dial(t.Context(), h.url("/task-stream"), &websocket.DialOptions{HTTPClient: h.http1()}) //nolint:bodyclose // it is the connection's
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow() //nolint:errcheck // the test is over
		conn.SetReadLimit(1 << 20)
		for {
			_, data, err := conn.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var m struct {
				Type      string          `json:"type"`
				Task      json.RawMessage `json:"task"`
				Signature []byte          `json:"signature"`
			}
			if err := json.Unmarshal(data, &m); err != nil {
				t.Fatal(err)
			}
			if m.Type == api.StreamTaskAssigned {
				check("stream", m.Task, m.Signature)
				break
			}
		}
	}
}

// Our agents run sealed tasks over each transport, after restarts and with a
// key that was made anew.
func TestAgentsRunSealedTasks(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	if _, err := cp.Client.SetSecret(t.Context(), "db", "first-value"); err != nil {
		t.Fatal(err)
	}
	for _, transport := range []string{"websocket", "grpc", "poll"} {
		t.Run(transport, func(t *testing.T) {
			a := cp.StartAgent(transport, func(c *agent.Config) { c.Transport, c.Capabilities = transport, []string{"host"} })
			dir := filepath.Join(t.TempDir(), "app")
			if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "app-" + transport, Kind: "host", Agent: transport, Config: api.TargetConfig{Directory: dir}}); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "said")
			run := func() {
				t.Helper()
				k := submit(t, cp, api.TaskExecuteCommand, "app-"+transport, api.CommandPayload{
					Command: []string{"/bin/sh", "-c", `printf %s "$DB" >` + file}, Environment: map[string]string{"DB": "secret://db"},
				}, nil)
				if k.State != api.TaskSucceeded {
					t.Fatalf("%s %s", k.State, k.Reason)
				}
				if said, err := os.ReadFile(file); err != nil || string(said) != "first-value" {
					t.Errorf("%q, %v", said, err)
				}
			}
			run()
			if err := a.Stop(); err != nil {
				t.Fatal(err)
			}
			// A key that was lost is made anew, and registered.
			if err := os.Remove(filepath.Join(a.Config.Data, "encryption.key")); err != nil {
				t.Fatal(err)
			}
			a.Start("")
			run()
		})
	}
}

func TestRegistrationRefusesWhatIsNoEncryptionKey(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	token := cp.Token()
	for what, text := range map[string]string{
		"no base64": "not a key", "31 bytes": base64.StdEncoding.EncodeToString(make([]byte, 31)),
		"a point that is none": base64.StdEncoding.EncodeToString(make([]byte, 32)),
	} {
		status, body := register(t, cp, token, api.RegisterRequest{Name: "web", CSR: csr(t, newKey(t)), EncryptionPublicKey: text})
		if p := problem(t, body); status != http.StatusUnprocessableEntity || len(p.Errors) != 1 || p.Errors[0].Location != "body.encryptionPublicKey" || !strings.Contains(p.Errors[0].Message, "RFC 9180") {
			t.Errorf("%s: %d %s", what, status, body)
		}
	}
	// The token is as good as before, and an agent need not have a key.
	if status, body := register(t, cp, token, api.RegisterRequest{Name: "web", CSR: csr(t, newKey(t))}); status != http.StatusOK {
		t.Errorf("without one: %d %s", status, body)
	}
}

// An agent without a key works, and gets nothing that has credentials.
func TestAgentWithoutAKey(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		l.connect()
		_, err := l.cp.Client.SubmitTask(t.Context(), withSecret(t, l.cp, "box"))
		if p, ok := errors.AsType[*api.Problem](err); !ok || p.Code != "encryption_key_missing" || p.Status != http.StatusConflict {
			t.Errorf("%v", err)
		}
		sent := l.submit()
		f := l.next(isTask).GetTask()
		if k := l.signedTask(t, f.GetTaskJson(), f.GetSignature()); k.ID != sent.ID || k.Sealed != nil || k.Payload == nil {
			t.Errorf("%+v", k)
		}
	})
}
