package testkit_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/api/stella/v1/stellav1connect"
	"stella-ops.org/stella/internal/httpsig"
	"stella-ops.org/stella/internal/linkauth"
)

// rawLink is an agent's connection over which a test says what it likes, frame by
// frame, signed or not.
type rawLink struct {
	t    *testing.T
	h    *handmade
	tls  *tls.Conn
	send func(*stellav1.ConnectRequest) error
	recv func() (*stellav1.ConnectResponse, error)

	share  *linkauth.Share
	key    linkauth.Key
	number int64
}

// rawCarriers open them, by name.
var rawCarriers = map[string]func(t *testing.T, h *handmade) *rawLink{"websocket": rawWebSocket, "grpc": rawGRPC}

// onEachRawCarrier runs a test over each carrier that holds a connection.
func onEachRawCarrier(t *testing.T, test func(t *testing.T, open func(h *handmade) *rawLink)) {
	t.Helper()
	for name, open := range rawCarriers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, func(h *handmade) *rawLink { return open(t, h) })
		})
	}
}

// rawTLS opens the TLS connection, and a client whose requests all go over it.
func rawTLS(t *testing.T, h *handmade, protocol string) (*rawLink, *http.Client) {
	t.Helper()
	cfg := tlsConfig(h.cp, h.cert)
	cfg.NextProtos = []string{protocol}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", h.cp.Listen)
	if err != nil {
		t.Fatal(err)
	}
	secure, ok := conn.(*tls.Conn)
	if !ok {
		t.Fatalf("a connection of the kind %T", conn)
	}
	t.Cleanup(func() { _ = secure.NetConn().Close() })
	return &rawLink{t: t, h: h, tls: secure}, &http.Client{Transport: &http.Transport{
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return secure, nil },
		ForceAttemptHTTP2: protocol == "h2",
	}}
}

func rawWebSocket(t *testing.T, h *handmade) *rawLink {
	t.Helper()
	l, client := rawTLS(t, h, "http/1.1")
	ws, _, err := websocket.Dial(t.Context(), h.url("/task-stream"), &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{api.SubprotocolProto}}) //nolint:bodyclose // it is the connection's
	if err != nil {
		t.Fatal(err)
	}
	l.send = func(f *stellav1.ConnectRequest) error {
		data, err := proto.Marshal(f)
		if err != nil {
			return err
		}
		return ws.Write(t.Context(), websocket.MessageBinary, data)
	}
	l.recv = func() (*stellav1.ConnectResponse, error) {
		ctx, cancel := context.WithTimeout(t.Context(), linkPatience)
		defer cancel()
		_, data, err := ws.Read(ctx)
		if err != nil {
			return nil, err
		}
		f := new(stellav1.ConnectResponse)
		return f, proto.Unmarshal(data, f)
	}
	return l
}

func rawGRPC(t *testing.T, h *handmade) *rawLink {
	t.Helper()
	l, client := rawTLS(t, h, "h2")
	stream := stellav1connect.NewLinkServiceClient(client, h.cp.URL, connect.WithGRPC()).Connect(t.Context())
	l.send = stream.Send
	l.recv = func() (*stellav1.ConnectResponse, error) {
		patience := time.AfterFunc(linkPatience, func() { _ = l.tls.NetConn().Close() })
		defer patience.Stop()
		f, err := stream.Receive()
		if said, ok := errors.AsType[*connect.Error](err); ok {
			err = fmt.Errorf("%s: %w", said.Meta().Get("Stella-Code"), err)
		}
		return f, err
	}
	return l
}

// exported is what TLS exports for the connection.
func (l *rawLink) exported() []byte {
	l.t.Helper()
	cs := l.tls.ConnectionState()
	out, err := linkauth.Exported(&cs)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// hello is a signed hello for this connection.
func (l *rawLink) hello(boot, number int64) *stellav1.ConnectRequest {
	l.t.Helper()
	var err error
	if l.share, err = linkauth.NewShare(); err != nil {
		l.t.Fatal(err)
	}
	data, err := proto.Marshal(&stellav1.Hello{
		ProtocolVersion: api.ProtocolVersion, Capabilities: []string{"docker"}, MaxConcurrentTasks: 5, Boot: boot, Number: number, KeyShare: l.share.Public(),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	signature, err := httpsig.SignText(l.h.key, api.SignedHelloText(l.exported(), l.h.id, data))
	if err != nil {
		l.t.Fatal(err)
	}
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_SignedHello{SignedHello: &stellav1.SignedHello{Hello: data, Signature: signature}}}
}

// plainHello is one that is not signed.
func plainHello() *stellav1.ConnectRequest {
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Hello{Hello: &stellav1.Hello{
		ProtocolVersion: api.ProtocolVersion, Capabilities: []string{"docker"}, MaxConcurrentTasks: 5,
	}}}
}

// plainBeat is a heartbeat that is not signed.
func plainBeat(status string) *stellav1.ConnectRequest {
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Heartbeat{Heartbeat: &stellav1.Heartbeat{Status: status}}}
}

// connect says a signed hello and makes the key out of the welcome.
func (l *rawLink) connect(boot, number int64) {
	l.t.Helper()
	l.say(l.hello(boot, number))
	f, err := l.recv()
	if err != nil || f.GetWelcome() == nil {
		l.t.Fatalf("instead of a welcome: %v, %v", f, err)
	}
	b := linkauth.Binding{Exported: l.exported(), AgentID: l.h.id}
	if l.key, err = b.AgentKey(l.share, f.GetWelcome().GetKeyShare()); err != nil {
		l.t.Fatal(err)
	}
}

// beat is the next heartbeat, signed.
func (l *rawLink) beat(status string) *stellav1.SignedHeartbeat {
	l.t.Helper()
	data, err := proto.Marshal(&stellav1.Heartbeat{Status: status})
	if err != nil {
		l.t.Fatal(err)
	}
	l.number++
	return &stellav1.SignedHeartbeat{Heartbeat: data, Number: l.number, Mac: l.key.MAC(l.number, data)}
}

func signedFrame(b *stellav1.SignedHeartbeat) *stellav1.ConnectRequest {
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_SignedHeartbeat{SignedHeartbeat: b}}
}

func (l *rawLink) say(f *stellav1.ConnectRequest) {
	l.t.Helper()
	if err := l.send(f); err != nil {
		l.t.Fatal(err)
	}
}

// acked waits for the answer to a heartbeat.
func (l *rawLink) acked() {
	l.t.Helper()
	for {
		f, err := l.recv()
		if err != nil {
			l.t.Fatalf("the link has ended: %v", err)
		}
		if f.GetHeartbeatAck() != nil {
			return
		}
	}
}

// end takes frames until the link ends, and returns them, and how it was said.
func (l *rawLink) end() ([]*stellav1.ConnectResponse, error) {
	l.t.Helper()
	var all []*stellav1.ConnectResponse
	for {
		f, err := l.recv()
		if err != nil {
			return all, err
		}
		all = append(all, f)
	}
}
