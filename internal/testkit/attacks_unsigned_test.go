package testkit_test

import (
	"net/http"
	"strings"
	"testing"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// The stream in JSON has no signatures: an agent that signs is told what to use.
func TestAttackUnsignedStream(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := signing(t, cp, "a")
	upgrade := map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
	for _, protocols := range []string{"", "stella.v0.proto", "stella.v1.protos, x"} {
		if upgrade["Sec-WebSocket-Protocol"] = protocols; protocols == "" {
			delete(upgrade, "Sec-WebSocket-Protocol")
		}
		status, body := call(t, h.http1(), http.MethodGet, h.url("/task-stream"), upgrade, nil)
		if p := problem(t, body); status != http.StatusUnauthorized || p.Code != api.CodeHeartbeatUnsigned || !strings.Contains(p.Detail, api.SubprotocolProto) {
			t.Errorf("%q: %d %+v", protocols, status, p)
		}
	}
	l := rawWebSocket(t, h)
	l.connect(1, 1)
	// A link that was opened unsigned does not outlive that its agent signs.
	plain := newHandmade(t, cp, "plain")
	stream := rawWebSocket(t, plain)
	stream.say(plainHello())
	if f, err := stream.recv(); err != nil || f.GetWelcome() == nil {
		t.Fatal(f, err)
	}
	status, body := call(t, plain.http2(), http.MethodPost, plain.url("/certificate"), nil, api.CertificateRequest{CSR: csr(t, newKey(t)), SignsHeartbeats: true})
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	if _, err := stream.end(); err == nil || !strings.Contains(err.Error(), api.CodeHeartbeatUnsigned) {
		t.Errorf("the unsigned link: %v", err)
	}
	if status, body := plain.beat(t, plain.http2()); status != http.StatusUnauthorized || problem(t, body).Code != api.CodeHeartbeatUnsigned {
		t.Errorf("an unsigned heartbeat: %d %s", status, body)
	}
	a, err := cp.Client.Agent(t.Context(), plain.id)
	if err != nil || !a.SignsHeartbeats {
		t.Errorf("%+v, %v", a, err)
	}
}

// Where only what is signed is heard, a plain client is neither heard nor
// registered; everywhere else its certificate is enough.
func TestRequireSignedHeartbeats(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	plain := newHandmade(t, cp, "plain")
	if status, body := plain.beat(t, plain.http2()); status != http.StatusOK {
		t.Fatalf("a plain client is not heard: %d %s", status, body)
	}
	heardLast(t, cp, plain.id, api.StatusOnline)
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	cp.Change(func(c *server.Config) { c.RequireSigned = true })
	cp.Start()
	if status, body := plain.beat(t, plain.http2()); status != http.StatusUnauthorized || problem(t, body).Code != api.CodeHeartbeatUnsigned {
		t.Errorf("an unsigned heartbeat: %d %s", status, body)
	}
	for name, open := range rawCarriers {
		l := open(t, plain)
		l.say(plainHello())
		if _, err := l.end(); err == nil || !strings.Contains(err.Error(), api.CodeHeartbeatUnsigned) {
			t.Errorf("an unsigned link over %s: %v", name, err)
		}
	}
	status, body := register(t, cp, cp.Token(), api.RegisterRequest{Name: "another", CSR: csr(t, newKey(t))})
	if p := problem(t, body); status != http.StatusForbidden || p.Code != api.CodeSigningRequired {
		t.Errorf("a registration: %d %+v", status, p)
	}
	// One that signs although nobody knows it for one is heard; and our agents are.
	if status, p := plain.record(t, plain.key, 1, 1, "online").play(t, plain.http2(), plain.url("/heartbeat")); status != http.StatusOK {
		t.Errorf("a signed heartbeat: %d %+v", status, p)
	}
	cp.StartAgent("ours")
}
