package link

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// webBench serves a hub's WebSockets over real TLS; the path names the agent.
type webBench struct {
	*bench
	srv    *httptest.Server
	byPath map[string]*fleet.Agent
}

func newWebBench(t *testing.T, agents ...string) *webBench {
	t.Helper()
	b := &webBench{bench: newBench(t), byPath: map[string]*fleet.Agent{}}
	for _, name := range agents {
		b.byPath["/"+name] = b.agent(name)
	}
	handler := b.WebSocket(func(r *http.Request) (*fleet.Agent, error) { return b.byPath[r.URL.Path], nil }, func(w http.ResponseWriter, _ *http.Request, err error) {
		status := http.StatusForbidden
		if fault.KindOf(err) == fault.UpgradeRequired {
			status = http.StatusUpgradeRequired
		}
		http.Error(w, fault.CodeOf(err), status)
	})
	b.srv = httptest.NewUnstartedServer(handler)
	b.srv.EnableHTTP2 = true
	b.srv.StartTLS()
	t.Cleanup(b.srv.Close)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		cancel()
		_ = b.Run(ctx) // ends what the test has left open
	})
	return b
}

// web is an agent's end of a WebSocket, down to its bytes.
type web struct {
	t    testing.TB
	conn *tls.Conn
	r    *bufio.Reader
	text bool
}

// tls trusts the server, and speaks HTTP/1.1.
func (b *webBench) tls() *tls.Config {
	b.t.Helper()
	tr, ok := b.srv.Client().Transport.(*http.Transport)
	if !ok {
		b.t.Fatal("httptest has changed")
	}
	cfg := tr.TLSClientConfig.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	return cfg
}

// request opens a connection and sends a request for an upgrade, and what
// follows right behind it. It returns the answer's status and subprotocol.
func (b *webBench) request(name string, binary bool, more string, header ...string) (w *web, status int, protocol string) {
	b.t.Helper()
	conn, err := tls.Dial("tcp", b.srv.Listener.Addr().String(), b.tls())
	b.must(err)
	b.t.Cleanup(func() { _ = conn.Close() })
	lines := append([]string{
		"GET /" + name + " HTTP/1.1", "Host: example.com", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}, header...)
	if binary {
		lines = append(lines, "Sec-WebSocket-Protocol: "+api.SubprotocolProto)
	}
	_, err = io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"+more)
	b.must(err)
	w = &web{t: b.t, conn: conn, r: bufio.NewReader(conn), text: !binary}
	b.must(conn.SetDeadline(time.Now().Add(patience)))
	res, err := http.ReadResponse(w.r, nil)
	b.must(err)
	_ = res.Body.Close() // what follows an upgrade is not the body's
	return w, res.StatusCode, res.Header.Get("Sec-WebSocket-Protocol")
}

// open opens a WebSocket and takes the welcome.
func (b *webBench) open(name string, binary bool) *web {
	b.t.Helper()
	w, status, protocol := b.request(name, binary, "")
	if want := map[bool]string{true: api.SubprotocolProto}[binary]; status != http.StatusSwitchingProtocols || protocol != want {
		b.t.Fatalf("the answer to an upgrade: %d %q", status, protocol)
	}
	if binary {
		data, err := proto.Marshal(hello())
		b.must(err)
		w.frame(ws.NewBinaryFrame(data))
	}
	op, data := w.read()
	if !binary {
		if op != ws.OpText || !bytes.Contains(data, []byte(`"type":"welcome"`)) {
			b.t.Fatalf("instead of a welcome: %v %s", op, data)
		}
		return w
	}
	f := new(stellav1.ConnectResponse)
	if err := proto.Unmarshal(data, f); op != ws.OpBinary || err != nil || f.GetWelcome() == nil {
		b.t.Fatalf("instead of a welcome: %v %v %v", op, f, err)
	}
	return w
}

func (w *web) write(data []byte) {
	w.t.Helper()
	if _, err := w.conn.Write(data); err != nil {
		w.t.Fatal(err)
	}
}

// bytesOf is a frame on the wire, masked as a client must.
func bytesOf(f ws.Frame) []byte { return ws.MustCompileFrame(ws.MaskFrame(f)) }

func (w *web) frame(f ws.Frame) {
	w.t.Helper()
	w.write(bytesOf(f))
}

// beat is a heartbeat as the stream carries it.
func (w *web) beat() ws.Frame {
	w.t.Helper()
	if w.text {
		return ws.NewTextFrame([]byte(`{"type":"heartbeat","status":"online"}`))
	}
	data, err := proto.Marshal(beat(&stellav1.Heartbeat{Status: "online"}))
	if err != nil {
		w.t.Fatal(err)
	}
	return ws.NewBinaryFrame(data)
}

// read takes a frame from the server.
func (w *web) read() (ws.OpCode, []byte) {
	w.t.Helper()
	f, err := ws.ReadFrame(w.r)
	if err != nil {
		w.t.Fatalf("read a frame: %v", err)
	}
	if f.Header.Masked || f.Header.Rsv != 0 || !f.Header.Fin {
		w.t.Fatalf("the server's frame: %+v", f.Header)
	}
	return f.Header.OpCode, f.Payload
}

// acked waits until the server has answered a heartbeat.
func (w *web) acked() {
	w.t.Helper()
	op, data := w.read()
	if w.text {
		var m api.StreamMessage
		if err := json.Unmarshal(data, &m); err != nil || m.Type != api.StreamHeartbeatAck {
			w.t.Fatalf("instead of an acknowledgement: %v %s", op, data)
		}
		return
	}
	f := new(stellav1.ConnectResponse)
	if err := proto.Unmarshal(data, f); err != nil || f.GetHeartbeatAck() == nil {
		w.t.Fatalf("instead of an acknowledgement: %v %v", op, f)
	}
}

// wantClose waits for the server's close frame, and for the end of the
// connection behind it.
func (w *web) wantClose(code ws.StatusCode, reason string) {
	w.t.Helper()
	op, data := w.read()
	if op != ws.OpClose {
		w.t.Fatalf("instead of a close frame: %v %s", op, data)
	}
	if gotCode, got := ws.ParseCloseFrameData(data); gotCode != code || !strings.Contains(got, reason) || (reason == "") != (got == "") {
		w.t.Fatalf("closed with %d %q, want %d %q", gotCode, got, code, reason)
	}
	_ = w.conn.CloseWrite() // the server waits for that, a second at the most
	rest, err := io.ReadAll(w.r)
	if len(rest) > 0 {
		w.t.Fatalf("after the close frame: %d bytes, %v", len(rest), err)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		w.t.Fatal("the connection stays open behind the close frame")
	}
}

// What RFC 6455 does not allow, and what is not for this stream, ends that one
// connection and says why.
func TestWebSocketBadFrames(t *testing.T) {
	t.Parallel()
	const binary, text = true, false
	frame := func(change func(*ws.Header), payload string) []byte {
		f := ws.MaskFrame(ws.NewTextFrame([]byte(payload)))
		change(&f.Header)
		return ws.MustCompileFrame(f)
	}
	// header is a frame's begin that claims what does not follow.
	header := func(op ws.OpCode, fin bool, length int64) []byte {
		var b bytes.Buffer
		_ = ws.WriteHeader(&b, ws.Header{Fin: fin, OpCode: op, Masked: true, Length: length}) // into memory
		return b.Bytes()
	}
	part := bytesOf(ws.NewFrame(ws.OpText, false, []byte("{")))
	for name, c := range map[string]struct {
		binary bool
		send   []byte
		code   ws.StatusCode
		reason string
	}{
		"unmasked":                      {text, ws.MustCompileFrame(ws.NewTextFrame([]byte("{}"))), ws.StatusProtocolError, "must mask"},
		"unmasked, of frames":           {binary, ws.MustCompileFrame(ws.NewBinaryFrame(nil)), ws.StatusProtocolError, "must mask"},
		"compressed":                    {text, frame(func(h *ws.Header) { h.Rsv = ws.Rsv(true, false, false) }, "{}"), ws.StatusProtocolError, "extension"},
		"second reserved bit":           {text, frame(func(h *ws.Header) { h.Rsv = ws.Rsv(false, true, false) }, "{}"), ws.StatusProtocolError, "extension"},
		"third reserved bit":            {text, frame(func(h *ws.Header) { h.Rsv = ws.Rsv(false, false, true) }, "{}"), ws.StatusProtocolError, "extension"},
		"reserved kind of data":         {text, frame(func(h *ws.Header) { h.OpCode = 3 }, "{}"), ws.StatusProtocolError, "of a kind"},
		"reserved kind of control":      {text, frame(func(h *ws.Header) { h.OpCode = 11 }, "{}"), ws.StatusProtocolError, "of a kind"},
		"text among frames":             {binary, bytesOf(ws.NewTextFrame([]byte("{}"))), ws.StatusUnsupportedData, "are binary"},
		"a frame among text":            {text, bytesOf(ws.NewBinaryFrame([]byte("{}"))), ws.StatusUnsupportedData, "are text"},
		"no UTF-8":                      {text, bytesOf(ws.NewTextFrame([]byte("{\"type\":\"\xff\"}"))), ws.StatusInvalidFramePayloadData, "not UTF-8"},
		"a part of nothing":             {text, bytesOf(ws.NewFrame(ws.OpContinuation, true, []byte("{}"))), ws.StatusProtocolError, "mixed up"},
		"a message within a message":    {text, append(bytes.Clone(part), bytesOf(ws.NewTextFrame([]byte("{}")))...), ws.StatusProtocolError, "mixed up"},
		"long ping":                     {text, header(ws.OpPing, true, 126), ws.StatusProtocolError, "control frame"},
		"ping in parts":                 {text, header(ws.OpPing, false, 1), ws.StatusProtocolError, "control frame"},
		"endless close":                 {text, header(ws.OpClose, true, 1<<62), ws.StatusProtocolError, "control frame"},
		"too long":                      {text, header(ws.OpText, true, maxFrame+1), ws.StatusMessageTooBig, "4194304 bytes"},
		"too long, of frames":           {binary, header(ws.OpBinary, true, maxFrame+1), ws.StatusMessageTooBig, "4194304 bytes"},
		"too long in parts":             {text, append(bytes.Clone(part), header(ws.OpContinuation, true, maxFrame)...), ws.StatusMessageTooBig, "4194304 bytes"},
		"a sum that overflows":          {text, append(bytes.Clone(part), header(ws.OpContinuation, true, 1<<63-1)...), ws.StatusMessageTooBig, "4194304 bytes"},
		"a length below nothing":        {text, []byte{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4}, ws.StatusProtocolError, "length is none"},
		"garbage":                       {text, []byte("GET / HTTP/1.1\r\n\r\n"), ws.StatusProtocolError, "must mask"},
		"half a code":                   {text, bytesOf(ws.NewCloseFrame([]byte{3})), ws.StatusProtocolError, "half a code"},
		"a code that stands for none":   {text, bytesOf(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNoStatusRcvd, ""))), ws.StatusProtocolError, "code 1005"},
		"a code of another protocol":    {text, bytesOf(ws.NewCloseFrame(ws.NewCloseFrameBody(999, ""))), ws.StatusProtocolError, "code 999"},
		"a goodbye that is not UTF-8":   {text, bytesOf(ws.NewCloseFrame([]byte{3, 232, 0xff})), ws.StatusInvalidFramePayloadData, "not UTF-8"},
		"no JSON":                       {text, bytesOf(ws.NewTextFrame([]byte("hello"))), 4422, "frame_malformed"},
		"no object":                     {text, bytesOf(ws.NewTextFrame([]byte(`["type"]`))), 4422, "frame_malformed"},
		"a list that is none":           {text, bytesOf(ws.NewTextFrame([]byte(`{"type":"task_log","entries":{}}`))), 4422, "frame_malformed"},
		"an endless list":               {text, bytesOf(ws.NewTextFrame([]byte(`{"type":"task_log","entries":[{}` + strings.Repeat(",{}", maxList) + `]}`))), 4422, "10000 items"},
		"no frame":                      {binary, bytesOf(ws.NewBinaryFrame([]byte{0x0a, 0xff})), 4422, "frame_malformed"},
		"a result that does not parse":  {text, bytesOf(ws.NewTextFrame([]byte(`{"type":"task_result","taskId":"t","result":[]}`))), 4422, "result_malformed"},
		"capabilities that are nothing": {text, bytesOf(ws.NewTextFrame([]byte(`{"type":"hello","capabilities":["rm -rf /"]}`))), 4422, "hello.capabilities"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newWebBench(t, "a", "bystander")
			other := b.open("bystander", !c.binary)
			w := b.open("a", c.binary)
			w.write(c.send)
			w.wantClose(c.code, c.reason)
			other.frame(other.beat())
			other.acked()
		})
	}
}

// Messages come in one piece or in many, with control frames in between,
// however TCP and TLS cut them.
func TestWebSocketFraming(t *testing.T) {
	t.Parallel()
	for _, binary := range []bool{false, true} {
		b := newWebBench(t, "a")
		w := b.open("a", binary)
		message := w.beat()
		first, last := ws.NewFrame(message.Header.OpCode, false, message.Payload[:3]), ws.NewFrame(ws.OpContinuation, true, message.Payload[5:])
		// In parts, one of them empty, with a ping in between, which is
		// answered first.
		w.frame(first)
		w.frame(ws.NewFrame(ws.OpContinuation, false, message.Payload[3:5]))
		w.frame(ws.NewPingFrame([]byte("are you there?")))
		w.frame(ws.NewFrame(ws.OpContinuation, false, nil))
		w.frame(last)
		if op, data := w.read(); op != ws.OpPong || string(data) != "are you there?" {
			t.Fatalf("instead of a pong: %v %q", op, data)
		}
		w.acked()
		w.frame(ws.NewPingFrame(nil))
		if op, data := w.read(); op != ws.OpPong || len(data) != 0 {
			t.Fatalf("instead of an empty pong: %v %q", op, data)
		}
		w.frame(ws.NewPongFrame([]byte("unasked"))) // is passed over
		// Two messages in one record, and one in many.
		w.write(append(bytesOf(message), bytesOf(message)...))
		w.acked()
		w.acked()
		for _, octet := range bytesOf(message) {
			w.write([]byte{octet})
		}
		w.acked()
		// A long one, all of which the server has to take before it can tell
		// what it is.
		if w.text {
			w.frame(ws.NewTextFrame([]byte(`{"unknown":"` + strings.Repeat("x", maxFrame-200) + `","type":"heartbeat"}`)))
			w.acked()
		}
		// Types and fields of a newer agent are passed over.
		if w.text {
			w.frame(ws.NewTextFrame([]byte(`{"type":"of_tomorrow","attempt":1,"capabilities":null,"entries":[]}`)))
			w.frame(message)
			w.acked()
		}
	}
}

// An agent that leaves is told so with the code that it gave.
func TestWebSocketCloseHandshake(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		send []byte
		code ws.StatusCode
	}{
		"without a code": {nil, ws.StatusNormalClosure},
		"going away":     {ws.NewCloseFrameBody(ws.StatusGoingAway, "the agent stops"), ws.StatusGoingAway},
		"a newer code":   {ws.NewCloseFrameBody(1013, ""), 1013},
		"its own code":   {ws.NewCloseFrameBody(4999, "for reasons"), 4999},
	} {
		b := newWebBench(t, "a")
		w := b.open("a", false)
		w.frame(ws.NewCloseFrame(c.send))
		op, data := w.read()
		if code, reason := ws.ParseCloseFrameData(data); op != ws.OpClose || code != c.code || reason != "" {
			t.Errorf("%s: %v %d %q", name, op, code, reason)
		}
		b.gone("a")
	}
}

// gone waits until an agent counts as not connected.
func (b *webBench) gone(name string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); b.Connected("id-" + name); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatal("it still counts as connected")
		}
	}
}
