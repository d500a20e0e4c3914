package testkit_test

import (
	"encoding/json"
	"errors"
	"fmt"
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

// signedCommand verifies a command as it came, and returns it.
func (h *handmade) signedCommand(t testing.TB, data []byte) *api.AgentCommand {
	t.Helper()
	server, err := seal.ParseServerKey(h.server)
	if err != nil {
		t.Fatal(err)
	}
	var c api.AgentCommand
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	if err := seal.Verify(server, api.PurposeCommand, api.CommandText(h.id, &c), c.Signature); err != nil {
		t.Errorf("%v: %s", err, data)
	}
	if seal.Verify(server, api.PurposeCommand, api.CommandText("another-agent", &c), c.Signature) == nil {
		t.Error("it is good for another agent, too")
	}
	return &c
}

// knownKey is the server's key as an agent's disk has it.
func knownKey(t *testing.T, a *testkit.Agent) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(a.Config.Data, "identity.json"))
	var id struct{ ServerPublicKey string }
	if err := errors.Join(err, json.Unmarshal(data, &id)); err != nil {
		t.Fatal(err)
	}
	return id.ServerPublicKey
}

// To register anew by its certificate teaches an agent no other key: whoever sits
// within TLS could give it one of his own.
func TestServerKeyIsKept(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	a := cp.StartAgent("web")
	first := knownKey(t, a)
	if _, err := cp.Client.RotateSigningKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	a.Config.Group = "moved"
	a.Start("")
	testkit.Eventually(t, 20*time.Second, "the agent to register anew", func() (bool, string) {
		v, err := cp.Client.Agent(t.Context(), "web")
		return err == nil && v.Group == "moved", fmt.Sprintf("%+v, %v", v, err)
	})
	cp.WaitOnline("web")
	if got := knownKey(t, a); got != first {
		t.Errorf("it took %s for %s unvouched", got, first)
	}
	// By the chain it follows.
	sent, err := cp.Client.SendCommand(t.Context(), "web", api.CommandRequest{Type: "collect-logs"})
	if p := over(t, cp, sent, err); p.Counts.Acknowledged != 1 || knownKey(t, a) == first {
		t.Errorf("%+v; it knows %s", p.Deliveries, knownKey(t, a))
	}
}

// awkwardPayload is one that encoders of JSON write in more than one way, with
// spaces that are not kept.
const awkwardPayload = `{ "b": "<b>&amp; é \u2028 / \\ \u007f",  "a" : 1.0 }`

func TestCarriersBringSignedCommands(t *testing.T) {
	t.Parallel()
	onEachCarrier(t, func(t *testing.T, l *linked) {
		l.connect()
		sent := send(t, l.cp, "web", "doctor", awkwardPayload)
		data := l.next(func(f *stellav1.ConnectResponse) bool { return f.GetCommand() != nil }).GetCommand().GetCommandJson()
		if c := l.signedCommand(t, data); c.ID != sent.ID || !strings.Contains(string(c.Payload), `,"a":1.0`) {
			t.Errorf("%s", data)
		}
	})
}

// The JSON that agents of other makers get carries the same signature: over the
// stream, as an event, in a list, and in a heartbeat's answer. People get none.
func TestSignedCommandsInJSON(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := newHandmade(t, cp, "web", "docker")
	one := func(where string, items ...json.RawMessage) {
		t.Helper()
		if len(items) != 1 {
			t.Fatalf("%s: %d commands", where, len(items))
		}
		h.signedCommand(t, items[0])
	}
	send(t, cp, "web", "doctor", awkwardPayload)
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	_, body := call(t, h.http2(), http.MethodGet, h.url("/commands?state=pending"), nil, nil)
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatal(err)
	}
	one("list", list.Items...)
	_, body = call(t, httpClient(tlsConfig(cp)), http.MethodGet, h.url("/commands?state=pending"), map[string]string{"Authorization": "Bearer " + cp.AdminToken}, nil)
	if !strings.Contains(string(body), "doctor") || strings.Contains(string(body), "signature") {
		t.Errorf("a person gets %s", body)
	}
	_, body = h.beat(t, h.http2())
	var answer struct {
		Commands []json.RawMessage `json:"commands"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	one("heartbeat", answer.Commands...)

	events := h.listen(t, nil)
	send(t, cp, "web", "doctor", awkwardPayload)
	one("event", events.next().data)

	conn, _, err := websocket.Dial(t.Context(), h.url("/task-stream"), &websocket.DialOptions{HTTPClient: h.http1()}) //nolint:bodyclose // it is the connection's
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow() //nolint:errcheck // the test is over
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"type":"hello","commands":true}`)); err != nil {
		t.Fatal(err)
	}
	send(t, cp, "web", "doctor", awkwardPayload)
	for {
		_, data, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Type    string          `json:"type"`
			Command json.RawMessage `json:"command"`
		}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		if m.Type == api.StreamCommand {
			one("stream", m.Command)
			return
		}
	}
}

// Whoever sits within TLS can keep a command from being run, and no more: what
// they alter or say again is not run, and the sender is told.
func TestAlteredCommandsAreRefused(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	data, ran := t.TempDir(), filepath.Join(t.TempDir(), "ran")
	r := startRelay(t, cp, data)
	a := cp.StartAgent("web", func(c *agent.Config) {
		c.Data, c.Server, c.Transport = data, r.url, "poll"
	}, taught(t, map[string]string{"write": "#!/bin/sh\ncat >>" + ran + "\n"}))
	order := func(payload string) *api.CommandProgress {
		t.Helper()
		sent, err := cp.Client.SendCommand(t.Context(), "web", api.CommandRequest{Type: "write", Payload: json.RawMessage(payload), ExpiresIn: 600})
		return over(t, cp, sent, err)
	}
	wrote := func() string {
		t.Helper()
		data, err := os.ReadFile(ran)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return string(data)
	}
	testkit.Eventually(t, 20*time.Second, "the agent to declare its command", func() (bool, string) {
		v, err := cp.Client.Agent(t.Context(), "web")
		return err == nil && strings.Contains(fmt.Sprint(v.Capabilities), "command.write"), fmt.Sprintf("%+v", v)
	})
	if p := order(`"as it is"`); p.Counts.Acknowledged != 1 || strings.Count(wrote(), "as it is") != 1 {
		t.Fatalf("as it is: %+v, %q", p, wrote())
	}
	first := r.commands()[0]
	for name, alter := range map[string]func(*tasksOf){
		"another payload": func(o *tasksOf) {
			o.Commands[0] = json.RawMessage(strings.Replace(string(o.Commands[0]), "another payload", "evil", 1))
		},
		"good for longer": func(o *tasksOf) {
			o.Commands[0] = json.RawMessage(strings.Replace(string(o.Commands[0]), `"expiresAt":"2`, `"expiresAt":"3`, 1))
		},
		"an old one's signature": func(o *tasksOf) {
			var old, c api.AgentCommand
			if err := errors.Join(json.Unmarshal(first, &old), json.Unmarshal(o.Commands[0], &c)); err != nil {
				t.Error(err)
			}
			c.Signature = old.Signature
			o.Commands[0], _ = json.Marshal(c)
		},
		"no signature": func(o *tasksOf) {
			before, _, _ := strings.Cut(string(o.Commands[0]), `,"signature"`)
			o.Commands[0] = json.RawMessage(before + "}")
		},
	} {
		r.does(func(o *tasksOf) {
			if len(o.Commands) > 0 {
				alter(o)
			}
		})
		p := order(fmt.Sprintf("%q", name))
		if p.Counts.Failed != 1 || !strings.Contains(p.Deliveries[0].Error, "it was not run: it") {
			t.Errorf("%s: %+v", name, p.Deliveries)
		}
	}
	if said := wrote(); strings.Count(said, `"payload"`) != 1 {
		t.Errorf("what ran: %s", said)
	}
	// An old command is not run again, while the agent runs and after a restart.
	r.does(func(o *tasksOf) { o.Commands = append(o.Commands, first) })
	order(`"beside a replay"`)
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	a.Start("")
	if p := order(`"after a restart"`); p.Counts.Acknowledged != 1 {
		t.Errorf("after a restart: %+v", p.Deliveries)
	}
	if said := wrote(); strings.Count(said, "as it is") != 1 || strings.Count(said, `"payload"`) != 3 {
		t.Errorf("what ran: %s", said)
	}
}

// The key that signs is replaced under agents that work: they follow, also one
// that was away for two of them, and nothing is lost.
func TestSigningKeyRotation(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	agents := map[string]*testkit.Agent{}
	for _, carrier := range []string{"websocket", "grpc", "poll"} {
		agents[carrier] = cp.StartAgent(carrier, func(c *agent.Config) { c.Transport = carrier })
		if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "box-" + carrier, Kind: "host", Agent: carrier, Config: api.TargetConfig{Directory: t.TempDir()}}); err != nil {
			t.Fatal(err)
		}
	}
	work := func(when string, carriers ...string) {
		t.Helper()
		for _, carrier := range carriers {
			if k := submit(t, cp, api.TaskExecuteCommand, "box-"+carrier, api.CommandPayload{Command: []string{"true"}}, nil); k.State != api.TaskSucceeded {
				t.Errorf("%s, %s: %s %s", when, carrier, k.State, k.Reason)
			}
			sent, err := cp.Client.SendCommand(t.Context(), carrier, api.CommandRequest{Type: "collect-logs", Payload: json.RawMessage(`{"lines":1}`)})
			if p := over(t, cp, sent, err); p.Counts.Acknowledged != 1 {
				t.Errorf("%s, %s: %+v", when, carrier, p.Deliveries)
			}
		}
	}
	rotate := func(keys int) {
		t.Helper()
		testkit.Eventually(t, 20*time.Second, "the next key", func() (bool, string) {
			s, err := cp.Client.RotateSigningKey(t.Context())
			if err != nil {
				return false, err.Error()
			}
			return len(s.SigningKeys) == keys, fmt.Sprintf("%+v", s.SigningKeys)
		})
	}
	work("at first", "websocket", "grpc", "poll")
	if err := agents["grpc"].Stop(); err != nil {
		t.Fatal(err)
	}
	rotate(2)
	work("after one", "websocket", "poll")
	rotate(3)
	work("after two", "websocket", "poll")
	agents["grpc"].Start("")
	cp.WaitOnline("grpc")
	work("come back", "grpc")
	// What an agent has followed stands on its disk, and a server that starts
	// signs with the newest key.
	if err := errors.Join(agents["poll"].Stop(), cp.Stop()); err != nil {
		t.Fatal(err)
	}
	cp.Start()
	agents["poll"].Start("")
	cp.WaitOnline("poll")
	work("after restarts", "websocket", "grpc", "poll")
	s, err := cp.Client.CA(t.Context())
	if err != nil || len(s.SigningKeys) != 3 || s.SigningKeys[2].State != "active" || s.SigningKeys[1].State != "before" {
		t.Errorf("%+v, %v", s, err)
	}
	for carrier, a := range agents {
		if h := newHandmade(t, cp, "new-"+carrier, "docker"); knownKey(t, a) != h.server {
			t.Errorf("%s knows %s, and the server signs with %s", carrier, knownKey(t, a), h.server)
		}
	}
}
