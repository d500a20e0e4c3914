package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// wsCarrier speaks WebSocket straight on the TLS connection. Between two
// messages an agent holds no buffer but its TLS state's.
type wsCarrier struct {
	dialer *dialer
	frames *frames
}

// wsMessage returns a message as it goes over the wire.
func wsMessage(payload []byte) ([]byte, error) {
	return ws.CompileFrame(ws.MaskFrameInPlace(ws.NewBinaryFrame(payload)))
}

func (c *wsCarrier) dial(ctx context.Context, id *Identity) (conn, error) {
	t, err := c.dialer.tls(context.WithValue(ctx, identityKey{}, id), c.dialer.http1)
	if err != nil {
		return nil, err
	}
	w := &wsConn{carrier: c, tls: t}
	if err := w.open(id); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *wsConn) open(id *Identity) error {
	if err := w.tls.SetDeadline(time.Now().Add(welcomeTimeout)); err != nil {
		return err
	}
	target := *w.carrier.dialer.url
	target.Scheme = "wss"
	var refused error
	upgrade := ws.Dialer{
		Protocols: []string{api.SubprotocolProto},
		OnStatusError: func(_ int, _ []byte, answer io.Reader) {
			refused = wsRefused(target.JoinPath("/api/v1/agents", id.ID, "task-stream"), answer)
		},
	}
	early, shake, err := upgrade.Upgrade(w.tls, target.JoinPath("/api/v1/agents", id.ID, "task-stream"))
	if refused != nil {
		return refused
	}
	if err != nil {
		return fmt.Errorf("open the WebSocket: %w", err)
	}
	if early != nil {
		ws.PutReader(early)
		return errors.New("open the WebSocket: the server spoke before the hello")
	}
	if shake.Protocol != api.SubprotocolProto {
		return &api.Problem{Status: http.StatusNotImplemented, Detail: "the server's task stream does not speak " + api.SubprotocolProto}
	}
	hello, vow, err := w.carrier.frames.signer.hello(id, w.tls, w.carrier.frames.hello)
	if err != nil {
		return err
	}
	w.vow = vow
	message, err := encodeMessage(hello)
	if err != nil {
		return err
	}
	_, err = w.tls.Write(message)
	return err
}

// wsRefused reads why a WebSocket was not opened.
func wsRefused(to *url.URL, answer io.Reader) error {
	req := &http.Request{Method: http.MethodGet, URL: to}
	res, err := http.ReadResponse(bufio.NewReader(answer), req)
	if err != nil {
		return fmt.Errorf("open the WebSocket: %w", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err != nil {
		return fmt.Errorf("open the WebSocket: %s", res.Status)
	}
	return problem(req, res, data)
}

type wsConn struct {
	carrier *wsCarrier
	tls     *tls.Conn
	began   bool   // the first message has come
	buf     []byte // of the last message

	beating sync.Mutex // heartbeats go in the order of their numbers
	vow     *vow
}

var _ conn = (*wsConn)(nil)

func (w *wsConn) beat() error {
	w.beating.Lock()
	defer w.beating.Unlock()
	return w.send(w.vow.beat(w.carrier.frames.beat))
}

// send writes one message. TLS lets one writer in at a time, and one write is one
// whole message.
func (w *wsConn) send(f *stellav1.ConnectRequest) error {
	message, err := encodeMessage(f)
	if err != nil {
		return err
	}
	return w.write(message)
}

// encodeMessage returns a frame as it goes over the wire.
func encodeMessage(f *stellav1.ConnectRequest) ([]byte, error) {
	payload, err := proto.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode a frame: %w", err)
	}
	return wsMessage(payload)
}

func (w *wsConn) write(message []byte) error {
	if err := w.tls.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := w.tls.Write(message)
	return err
}

func (w *wsConn) recv() (*stellav1.ConnectResponse, error) {
	if err := w.read(); err != nil {
		return nil, err
	}
	if !w.began {
		w.began = true
		if err := w.tls.SetReadDeadline(time.Time{}); err != nil {
			return nil, err
		}
	}
	f := &stellav1.ConnectResponse{}
	if err := proto.Unmarshal(w.buf, f); err != nil {
		return nil, fmt.Errorf("decode a frame: %w", err)
	}
	return f, w.vow.take(f)
}

// read reads the next message into buf, and answers control frames before it.
func (w *wsConn) read() error {
	w.buf = w.buf[:0]
	for {
		head, err := ws.ReadHeader(w.tls)
		if err != nil {
			return err
		}
		have := len(w.buf)
		if head.Masked || head.Rsv != 0 || head.Length < 0 || head.Length > maxAnswer-int64(have) {
			return errors.New("the server broke the WebSocket protocol")
		}
		if head.OpCode.IsControl() {
			if err := w.control(head); err != nil {
				return err
			}
			continue
		}
		n := have + int(head.Length)
		if cap(w.buf) < n {
			w.buf = append(make([]byte, 0, max(n, 128)), w.buf...)
		}
		w.buf = w.buf[:n]
		if _, err := io.ReadFull(w.tls, w.buf[have:]); err != nil {
			return err
		}
		if head.Fin {
			return nil
		}
	}
}

func (w *wsConn) control(head ws.Header) error {
	if head.Length > ws.MaxControlFramePayloadSize {
		return errors.New("the server broke the WebSocket protocol")
	}
	payload := make([]byte, head.Length)
	if _, err := io.ReadFull(w.tls, payload); err != nil {
		return err
	}
	switch head.OpCode { //nolint:exhaustive // these are the control frames
	case ws.OpPing:
		pong, err := ws.CompileFrame(ws.MaskFrameInPlace(ws.NewPongFrame(payload)))
		if err != nil {
			return err
		}
		return w.write(pong)
	case ws.OpClose:
		code, reason := ws.ParseCloseFrameData(payload)
		// 4000 and an HTTP status is how the server says why.
		return &api.Problem{Status: max(0, int(code)-4000), Title: fmt.Sprintf("WebSocket status %d", code), Detail: reason}
	}
	return nil
}

// close says no goodbye: simulated agents end like those whose power is cut,
// and thousands of goodbyes would keep the ports of this machine in use.
func (w *wsConn) close() { hangUp(w.tls) }
