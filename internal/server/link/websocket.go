package link

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// WebSocket returns the handler of the WebSocket carrier (RFC 6455). Binary
// messages are frames by the subprotocol api.SubprotocolProto; without it, text
// messages are api.StreamMessages. refuse answers a request that is not let in.
//
// The connection leaves net/http with everything that it holds for a request:
// an idle agent costs a goroutine, its TLS state, and little more.
func (h *Hub) WebSocket(identify Identify, refuse func(http.ResponseWriter, *http.Request, error)) http.Handler {
	upgrader := ws.HTTPUpgrader{Timeout: sendTimeout, Protocol: func(p string) bool { return p == api.SubprotocolProto }}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent, err := identify(r)
		if err == nil {
			err = upgradable(w, r)
		}
		if err == nil {
			err = h.mayJSON(agent, r)
		}
		if err != nil {
			refuse(w, r, err)
			return
		}
		binding := bind(r.TLS, r.RemoteAddr)
		conn, rw, shake, err := upgrader.Upgrade(r, w)
		if err != nil {
			if conn != nil {
				_ = conn.Close() // it has been told what is wrong
			}
			return
		}
		c := newWSConn(conn, h.now, &h.crew)
		if rw.Reader.Buffered() > 0 {
			c.bye(wsFault(ws.StatusProtocolError, "a client must wait for the answer before it speaks (RFC 6455, 4.1)"))
			return
		}
		link := Conn(c)
		if shake.Protocol == "" {
			c.text = true
			link = newJSONConn(c)
		}
		if !h.detach(func(ctx context.Context) { h.serveWebSocket(ctx, agent, c, link, binding) }) {
			c.bye(serverStopping())
		}
	})
}

// upgradable says in words what a plain request, or one by a browser's page of
// another site, is told.
func upgradable(w http.ResponseWriter, r *http.Request) error {
	if r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		w.Header().Set("Upgrade", "websocket")
		return fault.New(fault.UpgradeRequired, "websocket_expected", "this is a WebSocket: connect by HTTP/1.1 with Upgrade: websocket")
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, r.Host) {
			return fault.New(fault.Forbidden, "foreign_origin", "pages of other sites may not open an agent's stream")
		}
	}
	return nil
}

func (h *Hub) serveWebSocket(ctx context.Context, agent *fleet.Agent, c *wsConn, link Conn, b *Binding) {
	err := h.Serve(ctx, agent, link, b)
	c.bye(err)
}

// wsConn is a WebSocket whose messages are frames. It keeps no buffer of its
// own: while an agent says nothing, it needs none.
type wsConn struct {
	conn  net.Conn
	text  bool // messages are text, and a jsonConn's to read
	now   func() time.Time
	heard atomic.Int64 // when the agent was last heard, in Unix nanoseconds
	crew  *crew
	done  chan struct{} // has a value when the crew is done with a message

	// goodbye is the code with which the agent left, if it has; Recv's, until
	// that has failed.
	goodbye ws.StatusCode

	write sync.Mutex // one frame at a time
}

var _ pinger = (*wsConn)(nil)

func newWSConn(conn net.Conn, now func() time.Time, crew *crew) *wsConn {
	c := &wsConn{conn: conn, now: now, crew: crew, done: make(chan struct{}, 1)}
	c.hear()
	return c
}

// Transport implements Conn.
func (*wsConn) Transport() string { return "websocket" }

// Stop implements Conn.
func (c *wsConn) Stop() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) } // it is closed already otherwise

// Cut implements Conn.
func (c *wsConn) Cut() {
	// TLS would wait for the writer before it says goodbye.
	if t, ok := c.conn.(interface{ NetConn() net.Conn }); ok {
		_ = t.NetConn().Close() // that is all that is wanted
		return
	}
	_ = c.conn.Close()
}

func (c *wsConn) hear() { c.heard.Store(c.now().UnixNano()) }

// Heard implements pinger.
func (c *wsConn) Heard() time.Time { return time.Unix(0, c.heard.Load()) }

// Ping implements pinger. A frame that is under way says as much.
func (c *wsConn) Ping() {
	if !c.write.TryLock() {
		return
	}
	defer c.write.Unlock()
	_, _ = c.conn.Write(ws.CompiledPing) // who does not answer is cut
}

// Send implements Conn.
func (c *wsConn) Send(f *stellav1.ConnectResponse) error {
	buf := takeBuffer()
	defer buf.release()
	data, err := proto.MarshalOptions{}.MarshalAppend(buf.b[:wsHeaderRoom], f)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	buf.b = data
	return c.writeMessage(ws.OpBinary, data)
}

// wsHeaderRoom is what the header of a message takes at the most.
const wsHeaderRoom = 10

// writeMessage writes data, whose first wsHeaderRoom bytes are free, as one
// message in one write, so that it is one TLS record.
func (c *wsConn) writeMessage(op ws.OpCode, data []byte) error {
	n := len(data) - wsHeaderRoom
	head := data[:0]
	switch {
	case n < 126:
		data = data[wsHeaderRoom-2:]
		head = append(data[:0], 0x80|byte(op), byte(n)) //nolint:gosec // below 126
	case n < 1<<16:
		data = data[wsHeaderRoom-4:]
		head = binary.BigEndian.AppendUint16(append(data[:0], 0x80|byte(op), 126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|byte(op), 127), uint64(n))
	}
	_ = head // it is written in place
	c.write.Lock()
	defer c.write.Unlock()
	_, err := c.conn.Write(data)
	return err
}

// Recv implements Conn.
func (c *wsConn) Recv(take func(*stellav1.ConnectRequest) error) error {
	return c.readMessage(func(data []byte) error {
		f := new(stellav1.ConnectRequest)
		if err := decodeFrame(data, f); err != nil {
			return fault.Wrap(err, fault.Invalid, "frame_malformed", fmt.Sprintf("a message of %d bytes is no frame of %s: %v", len(data), api.SubprotocolProto, err))
		}
		return take(f)
	})
}

// readMessage has the next message taken by the crew; its bytes are good until
// take returns. Control frames in between are answered. It fails with io.EOF
// when the agent leaves, and with a fault for what RFC 6455 does not allow.
func (c *wsConn) readMessage(take func([]byte) error) (err error) {
	head, err := c.nextHeader(false, 0)
	if err != nil {
		return err
	}
	// Not before there is something to read: most agents say nothing most of
	// the time.
	buf := takeBuffer()
	defer buf.release()
	for {
		have := len(buf.b)
		if err := buf.read(c.conn, int(head.Length), c.hear); err != nil {
			return wsReadError(err)
		}
		ws.Cipher(buf.b[have:], head.Mask, 0)
		if head.Fin {
			break
		}
		if head, err = c.nextHeader(true, len(buf.b)); err != nil {
			return err
		}
	}
	if c.text && !utf8.Valid(buf.b) {
		return wsFault(ws.StatusInvalidFramePayloadData, "a text message is not UTF-8")
	}
	c.crew.do(c.done, func() { err = take(buf.b) })
	return err
}

// nextHeader returns the header of the next frame of data.
func (c *wsConn) nextHeader(started bool, have int) (ws.Header, error) {
	for {
		head, err := ws.ReadHeader(c.conn)
		if err != nil {
			return head, wsReadError(err)
		}
		if err := c.checkHeader(head, started, have); err != nil || !head.OpCode.IsControl() {
			return head, err
		}
		if err := c.control(head); err != nil {
			return head, err
		}
	}
}

func (c *wsConn) checkHeader(head ws.Header, started bool, have int) error {
	switch want := ws.OpBinary; {
	case !head.Masked:
		return wsFault(ws.StatusProtocolError, "a client must mask what it sends (RFC 6455, 5.1)")
	case head.Rsv != 0:
		return wsFault(ws.StatusProtocolError, "no extension was agreed on, and a frame uses one")
	case head.OpCode.IsReserved():
		return wsFault(ws.StatusProtocolError, "a frame is of a kind that there is not")
	case head.OpCode.IsControl():
		if !head.Fin || head.Length > ws.MaxControlFramePayloadSize {
			return wsFault(ws.StatusProtocolError, "a control frame is in parts, or too long")
		}
		return nil
	case started != (head.OpCode == ws.OpContinuation):
		return wsFault(ws.StatusProtocolError, "the parts of a message are mixed up")
	case head.Length > int64(maxFrame-have): // and not a sum, which may overflow
		return wsFault(ws.StatusMessageTooBig, "a message of more than %d bytes is not taken", maxFrame)
	case !started:
		kind := "binary (subprotocol " + api.SubprotocolProto + ")"
		if c.text {
			want, kind = ws.OpText, "text: without the subprotocol "+api.SubprotocolProto+" this stream is JSON"
		}
		if head.OpCode != want {
			return wsFault(ws.StatusUnsupportedData, "messages of this stream are %s", kind)
		}
	}
	return nil
}

// control answers a control frame.
func (c *wsConn) control(head ws.Header) error {
	var payload [ws.MaxControlFramePayloadSize]byte
	p := payload[:head.Length]
	if _, err := io.ReadFull(c.conn, p); err != nil {
		return wsReadError(err)
	}
	ws.Cipher(p, head.Mask, 0)
	c.hear()
	switch head.OpCode { //nolint:exhaustive // these are the control frames
	case ws.OpPing:
		c.write.Lock()
		defer c.write.Unlock()
		return ws.WriteFrame(c.conn, ws.NewPongFrame(p))
	case ws.OpClose:
		return c.farewell(p)
	}
	return nil // a pong: the agent was heard
}

// farewell takes the body of a close frame: nothing, or a code and a reason.
func (c *wsConn) farewell(p []byte) error {
	if len(p) == 0 {
		c.goodbye = ws.StatusNormalClosure
		return io.EOF
	}
	if len(p) == 1 {
		return wsFault(ws.StatusProtocolError, "a close frame has half a code")
	}
	code, reason := ws.StatusCode(binary.BigEndian.Uint16(p)), p[2:]
	if code < 1000 || code >= 5000 || code.IsProtocolReserved() {
		return wsFault(ws.StatusProtocolError, "a close frame has the code %d, which nobody may send", code)
	}
	if !utf8.Valid(reason) {
		return wsFault(ws.StatusInvalidFramePayloadData, "a close frame's reason is not UTF-8")
	}
	c.goodbye = code
	return io.EOF
}

// bye closes the connection, and says why if there is something to say. What
// the agent still sends is read for a moment: a connection that is closed with
// unread bytes is reset, and the reason is lost with it.
func (c *wsConn) bye(err error) {
	defer c.Cut()
	status, reason := cmp.Or(c.goodbye, ws.StatusNormalClosure), ""
	if f := fault.As(err); f != nil {
		status, reason = closeStatus(f), f.Code+": "+f.Message
	} else if err != nil {
		status, reason = ws.StatusInternalServerError, "internal error: the server's log tells more"
	}
	_ = c.conn.SetDeadline(time.Now().Add(time.Second)) // gone already otherwise
	if !c.write.TryLock() {
		return // in the middle of a frame that the agent does not take
	}
	defer c.write.Unlock()
	if ws.WriteFrame(c.conn, ws.NewCloseFrame(ws.NewCloseFrameBody(status, clipReason(reason)))) != nil || c.goodbye != 0 {
		return // after its goodbye an agent says nothing
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(c.conn, maxFrame)) // until the agent closes, or the second is over
}

// clipReason keeps a reason within what a control frame holds.
func clipReason(s string) string {
	const most = ws.MaxControlFramePayloadSize - 2
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most-len("…")], "") + "…"
	}
	return s
}

// closeStatus is 4000 and the HTTP status of a fault; breaches of the
// protocol have the codes of RFC 6455.
func closeStatus(f *fault.Error) ws.StatusCode {
	if p, ok := errors.AsType[*wsProtocolError](f); ok {
		return p.status
	}
	if status, ok := closeStatuses[f.Kind]; ok {
		return status
	}
	return ws.StatusInternalServerError
}

var closeStatuses = map[fault.Kind]ws.StatusCode{
	fault.Invalid: 4422, fault.Unauthenticated: 4401, fault.Forbidden: 4403, fault.NotFound: 4404, fault.Conflict: 4409,
	fault.TooLarge: 4413, fault.RateLimited: 4429, fault.Timeout: 4408, fault.Unavailable: 4503, fault.UnsupportedVersion: 4400,
}

type wsProtocolError struct{ status ws.StatusCode }

func (e *wsProtocolError) Error() string { return fmt.Sprintf("WebSocket status %d", e.status) }

func wsFault(status ws.StatusCode, format string, args ...any) error {
	return fault.Wrap(&wsProtocolError{status}, fault.Invalid, "websocket_protocol", fmt.Sprintf(format, args...))
}

// wsReadError is io.EOF for every way in which a connection may end.
func wsReadError(err error) error {
	if errors.Is(err, ws.ErrHeaderLengthMSB) || errors.Is(err, ws.ErrHeaderLengthUnexpected) {
		return wsFault(ws.StatusProtocolError, "a frame's length is none")
	}
	return fmt.Errorf("%w: %w", io.EOF, err)
}
