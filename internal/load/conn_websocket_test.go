package load

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/httpsig"
	"stella-ops.org/stella/internal/linkauth"
)

// newTestIdentity is one that nobody signed.
func newTestIdentity(t *testing.T, name string) *Identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	id, err := newIdentity(name, key, &api.RegisterResponse{AgentID: "id-of-" + name, Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// dialWebSocket connects an agent to a server of the test's own, over TLS with
// client certificates, that answers by handler.
func dialWebSocket(t *testing.T, handler http.HandlerFunc) (conn, error) {
	t.Helper()
	srv := httptest.NewUnstartedServer(handler)
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	c, err := newCarrier(&Options{Connection: Connection{URL: srv.URL, CA: root}, Transport: WebSocket})
	if err != nil {
		t.Fatal(err)
	}
	link, err := c.dial(t.Context(), newTestIdentity(t, "a"))
	if err == nil {
		t.Cleanup(link.close)
	}
	return link, err
}

// speak upgrades a request and hands its connection over.
func speak(t *testing.T, talk func(conn net.Conn, next func() *stellav1.ConnectRequest) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/agents/id-of-a/task-stream" {
			t.Errorf("path %s", r.URL.Path)
		}
		up := ws.HTTPUpgrader{Protocol: func(p string) bool { return p == api.SubprotocolProto }}
		conn, _, _, err := up.Upgrade(r, w)
		if err != nil {
			t.Errorf("upgrade: %v", err)
			return
		}
		defer conn.Close()
		next := func() *stellav1.ConnectRequest {
			head, err := ws.ReadFrame(conn)
			if err != nil || !head.Header.Masked || !head.Header.Fin || head.Header.OpCode != ws.OpBinary {
				t.Errorf("frame %+v: %v", head.Header, err)
				return nil
			}
			f := &stellav1.ConnectRequest{}
			if err := proto.Unmarshal(ws.UnmaskFrame(head).Payload, f); err != nil {
				t.Errorf("frame: %v", err)
			}
			return f
		}
		if err := talk(conn, next); err != nil {
			t.Errorf("the server's side: %v", err)
		}
	}
}

func encoded(t *testing.T, f *stellav1.ConnectResponse) []byte {
	t.Helper()
	data, err := proto.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// greet is the server's side of a signed hello, by the server's own code.
func greet(t *testing.T, conn net.Conn, f *stellav1.SignedHello) (hello *stellav1.Hello, share []byte, key linkauth.Key) {
	t.Helper()
	secure, ok := conn.(*tls.Conn)
	if !ok {
		t.Fatalf("a connection of the kind %T", conn)
	}
	cs := secure.ConnectionState()
	exported, err := linkauth.Exported(&cs)
	if err != nil {
		t.Fatal(err)
	}
	if err := httpsig.VerifyText(cs.PeerCertificates[0].PublicKey, api.SignedHelloText(exported, "id-of-a", f.GetHello()), f.GetSignature()); err != nil {
		t.Error(err)
	}
	hello = new(stellav1.Hello)
	if err := proto.Unmarshal(f.GetHello(), hello); err != nil {
		t.Error(err)
	}
	own, err := linkauth.NewShare()
	if err != nil {
		t.Fatal(err)
	}
	b := linkauth.Binding{Exported: exported, AgentID: "id-of-a"}
	if key, err = b.ServerKey(own, hello.GetKeyShare()); err != nil {
		t.Error(err)
	}
	return hello, own.Public(), key
}

func TestWebSocketSpeaksFrames(t *testing.T) {
	t.Parallel()
	ack := encoded(t, &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_HeartbeatAck{HeartbeatAck: &stellav1.HeartbeatAck{ReconnectWindowMs: 7}}})
	link, err := dialWebSocket(t, speak(t, func(conn net.Conn, next func() *stellav1.ConnectRequest) error {
		h, share, key := greet(t, conn, next().GetSignedHello())
		if h.GetProtocolVersion() != api.ProtocolVersion || !slices.Contains(h.GetCapabilities(), commandCapability) || h.GetBoot() < 1 || h.GetNumber() != 1 {
			t.Errorf("hello %v", h)
		}
		welcome := encoded(t, &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Welcome{Welcome: &stellav1.Welcome{
			Server: strings.Repeat("long ", 100), KeyShare: share,
		}}})
		// In parts, with a ping between them.
		err := errors.Join(
			ws.WriteFrame(conn, ws.NewFrame(ws.OpBinary, false, welcome[:3])),
			ws.WriteFrame(conn, ws.NewPingFrame([]byte("there?"))),
			ws.WriteFrame(conn, ws.NewFrame(ws.OpContinuation, true, welcome[3:])),
		)
		pong, readErr := ws.ReadFrame(conn)
		if readErr != nil || pong.Header.OpCode != ws.OpPong || string(ws.UnmaskFrame(pong).Payload) != "there?" {
			t.Errorf("pong %+v: %v", pong, readErr)
		}
		for i := range int64(2) {
			f, b := next().GetSignedHeartbeat(), new(stellav1.Heartbeat)
			if f.GetNumber() != i+1 || !key.Check(i+1, f.GetHeartbeat(), f.GetMac()) {
				t.Errorf("heartbeat %d: number and MAC %v", i+1, f)
			}
			if err := proto.Unmarshal(f.GetHeartbeat(), b); err != nil || b.GetStatus() != "online" || len(b.GetResourceUsageJson()) == 0 {
				t.Errorf("heartbeat %v", b)
			}
			err = errors.Join(err, ws.WriteFrame(conn, ws.NewBinaryFrame(ack)))
		}
		if r := next().GetTaskResult(); r.GetRef().GetTaskId() != "t1" {
			t.Errorf("result %v", r)
		}
		return errors.Join(err, ws.WriteFrame(conn, ws.NewCloseFrame(ws.NewCloseFrameBody(4403, "agent_revoked: agent a is revoked"))))
	}))
	if err != nil {
		t.Fatal(err)
	}
	f, err := link.recv()
	if err != nil || len(f.GetWelcome().GetServer()) != 500 {
		t.Fatalf("welcome %v, %v", f, err)
	}
	for range 2 {
		if err := link.beat(); err != nil {
			t.Fatal(err)
		}
		if f, err = link.recv(); err != nil || f.GetHeartbeatAck().GetReconnectWindowMs() != 7 {
			t.Fatalf("ack %v, %v", f, err)
		}
	}
	if err := link.send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskResult{TaskResult: &stellav1.TaskResult{Ref: &stellav1.TaskRef{TaskId: "t1"}}}}); err != nil {
		t.Fatal(err)
	}
	_, err = link.recv()
	if p, ok := errors.AsType[*api.Problem](err); !ok || p.Status != http.StatusForbidden || !strings.Contains(err.Error(), "is revoked") || !hopeless(err) {
		t.Errorf("the server's goodbye: %v", err)
	}
}

// What the server answers instead of a WebSocket is what the user is told.
func TestWebSocketRefused(t *testing.T) {
	t.Parallel()
	_, err := dialWebSocket(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"title":"Forbidden","status":403,"detail":"agent a is revoked","code":"agent_revoked"}`)
	})
	if p, ok := errors.AsType[*api.Problem](err); !ok || p.Code != "agent_revoked" || !hopeless(err) {
		t.Errorf("%v", err)
	}
	if _, err := dialWebSocket(t, http.NotFound); err == nil || !hopeless(err) || !strings.Contains(err.Error(), "not as a Stella server does") {
		t.Errorf("%v", err)
	}
}

// A server that breaks the protocol, or sends what no frame is that long, ends
// the connection and no more.
func TestWebSocketGarbage(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string][]byte{
		"masked":        {0x82, 0x81, 1, 2, 3, 4, 5},
		"reserved bits": {0xF2, 0x01, 0},
		"huge":          {0x82, 0x7F, 0, 0, 1, 0, 0, 0, 0, 0},
		"long control":  {0x89, 0x7E, 1, 0},
		"no frame":      {0x82, 0x02, 0xFF, 0xFF},
	} {
		link, err := dialWebSocket(t, speak(t, func(conn net.Conn, next func() *stellav1.ConnectRequest) error {
			next()
			_, err := conn.Write(raw)
			return err
		}))
		if err != nil {
			t.Fatal(err)
		}
		if f, err := link.recv(); err == nil {
			t.Errorf("%s: taken as %v", name, f)
		}
	}
}
