package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// WebSocket is the carrier over a WebSocket (RFC 6455), each binary message of
// which is one frame.
type WebSocket struct {
	agent Agent
	url   string
}

var _ Carrier = (*WebSocket)(nil)

const (
	// pingEvery and pongWithin find a connection that is dead without having
	// been closed.
	pingEvery  = 20 * time.Second
	pongWithin = 15 * time.Second
	// sendWithin is how long the server, or what is in between, may take for
	// one frame.
	sendWithin = 20 * time.Second
)

// NewWebSocket returns the carrier for an agent.
func NewWebSocket(agent Agent) (*WebSocket, error) {
	base, err := url.Parse(agent.ServerURL)
	if err != nil {
		return nil, fmt.Errorf("server URL: %w", err)
	}
	return &WebSocket{agent: agent, url: base.JoinPath("/api/v1/agents", agent.ID, "task-stream").String()}, nil
}

// Name is "websocket".
func (*WebSocket) Name() string { return "websocket" }

// Dial opens a connection. It lives until Close or the end of ctx.
func (w *WebSocket) Dial(ctx context.Context, hello *stellav1.Hello) (Conn, error) {
	// Once it stands, the connection is no matter of the dial's patience.
	dialing, dialed := context.WithTimeout(ctx, sendWithin)
	defer dialed()
	var under net.Conn // the one that the answer came over: it is written before that
	dialing = httptrace.WithClientTrace(dialing, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { under = info.Conn }})
	client, cert := w.agent.Upgrading()
	ws, answer, err := websocket.Dial(dialing, w.url, &websocket.DialOptions{ //nolint:bodyclose // it is in memory, or the connection's
		HTTPClient: client, Subprotocols: []string{api.SubprotocolProto},
		HTTPHeader: http.Header{api.HeaderProtocolVersion: {strconv.Itoa(api.ProtocolVersion)}},
	})
	if err != nil {
		return nil, fmt.Errorf("open the stream: %w", refusal(answer, err))
	}
	if ws.Subprotocol() != api.SubprotocolProto {
		_ = ws.CloseNow() // it is of no use
		return nil, fmt.Errorf("open the stream: the other end does not speak %s", api.SubprotocolProto)
	}
	ws.SetReadLimit(maxFrame)
	ctx, cancel := context.WithCancel(ctx)
	c := &wsConn{ws: ws, ctx: ctx, cancel: cancel}
	var frame *stellav1.ConnectRequest
	if c.vouching, frame, err = w.agent.vouch(hello, under, cert); err == nil {
		err = c.write(frame) //nolint:contextcheck // the connection's own
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("open the stream: %w", err)
	}
	go c.ping() //nolint:contextcheck // the connection's own
	return c, nil
}

// refusal is what the server answered instead of opening a stream, if it
// answered.
func refusal(answer *http.Response, err error) error {
	if answer == nil || answer.StatusCode == http.StatusSwitchingProtocols {
		return err
	}
	body, readErr := io.ReadAll(io.LimitReader(answer.Body, 4096))
	var p api.Problem
	if readErr == nil && json.Unmarshal(body, &p) == nil && p.Status != 0 {
		return &p
	}
	return fmt.Errorf("%s answered %s, and not as a Stella server would", answer.Request.URL.Host, answer.Status)
}

type wsConn struct {
	ws       *websocket.Conn
	ctx      context.Context
	cancel   context.CancelFunc
	vouching *vouching
}

// Send implements Conn.
func (c *wsConn) Send(f *stellav1.ConnectRequest) error { return c.vouching.send(f, c.write) }

func (c *wsConn) write(f *stellav1.ConnectRequest) error {
	data, err := proto.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, sendWithin)
	defer cancel()
	return c.ws.Write(ctx, websocket.MessageBinary, data)
}

// Recv implements Conn. What the server says as it ends the connection is the
// error.
func (c *wsConn) Recv() (*stellav1.ConnectResponse, error) {
	kind, data, err := c.ws.Read(c.ctx)
	if err != nil {
		var closed websocket.CloseError
		if errors.As(err, &closed) && closed.Reason != "" {
			return nil, fmt.Errorf("%w: %s", ErrEnded, closed.Reason)
		}
		return nil, err
	}
	if kind != websocket.MessageBinary {
		return nil, errors.New("the server sent text where frames are expected")
	}
	f := new(stellav1.ConnectResponse)
	if err := proto.Unmarshal(data, f); err != nil {
		return nil, fmt.Errorf("decode a frame: %w", err)
	}
	return c.vouching.down(f)
}

// Close ends the connection without waiting for the server.
func (c *wsConn) Close() {
	c.cancel()
	_ = c.ws.CloseNow() // it is closed already otherwise
}

func (c *wsConn) ping() {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(c.ctx, pongWithin)
		err := c.ws.Ping(ctx)
		cancel()
		if err != nil {
			c.Close()
			return
		}
	}
}
