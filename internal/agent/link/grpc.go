package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/api/stella/v1/stellav1connect"
)

// maxFrame bounds a frame from the server; the largest is a task with files.
const maxFrame = 32 << 20

// GRPC is the carrier over a gRPC stream (HTTP/2).
type GRPC struct{ agent Agent }

var _ Carrier = (*GRPC)(nil)

// NewGRPC returns the carrier for an agent.
func NewGRPC(agent Agent) *GRPC { return &GRPC{agent} }

// Name is "grpc".
func (*GRPC) Name() string { return "grpc" }

// Dial opens a stream. The stream lives until Close or the end of ctx.
func (g *GRPC) Dial(ctx context.Context, hello *stellav1.Hello) (Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	client, cert := g.agent.Plain()
	way := &watched{client: client, conn: make(chan net.Conn, 1), ended: make(chan struct{})}
	stream := stellav1connect.NewLinkServiceClient(way, g.agent.ServerURL, connect.WithGRPC(), connect.WithReadMaxBytes(maxFrame)).Connect(ctx)
	stream.RequestHeader().Set(api.HeaderProtocolVersion, strconv.Itoa(api.ProtocolVersion))
	c := &grpcConn{stream: stream, cancel: cancel}
	err := c.greet(ctx, &g.agent, hello, way, cert)
	if err != nil {
		// What the server answered says more than that sending failed.
		if _, cause := stream.Receive(); errors.Is(err, io.EOF) && cause != nil {
			err = cause
		}
		c.Close()
		return nil, fmt.Errorf("open the stream: %w", err)
	}
	return c, nil
}

// greet sends the hello, once it is known which connection the stream goes over:
// the hello is signed for that one alone. It fails with io.EOF when the stream has
// ended.
func (c *grpcConn) greet(ctx context.Context, agent *Agent, hello *stellav1.Hello, way *watched, cert *tls.Certificate) error {
	if err := c.stream.Send(nil); err != nil { // the headers alone
		return err
	}
	patience := time.NewTimer(sendWithin)
	defer patience.Stop()
	var conn net.Conn
	select {
	case conn = <-way.conn:
	case <-way.ended:
		select {
		case conn = <-way.conn: // the server has answered already
		default:
			return io.EOF
		}
	case <-patience.C:
		c.cancel()
		return context.DeadlineExceeded
	case <-ctx.Done():
		return ctx.Err()
	}
	vouching, frame, err := agent.vouch(hello, conn, cert)
	if err != nil {
		c.cancel()
		return err
	}
	c.vouching = vouching
	return c.stream.Send(frame)
}

// watched is a client that tells which connection a stream's request went out on.
type watched struct {
	client *http.Client
	conn   chan net.Conn
	ended  chan struct{} // closed when there will be none
}

// Do implements connect.HTTPClient. It is called once.
func (w *watched) Do(req *http.Request) (*http.Response, error) {
	var got atomic.Value // of a net.Conn in a box: the last counts, for one that is of no use is replaced
	type box struct{ net.Conn }
	trace := &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { got.Store(box{info.Conn}) },
		WroteHeaders: func() {
			b, _ := got.Load().(box)
			select {
			case w.conn <- b.Conn:
			default: // it is known already
			}
		},
	}
	defer close(w.ended)
	return w.client.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace))) //nolint:gosec // the address is the agent's server, as it is configured
}

type grpcConn struct {
	stream   *connect.BidiStreamForClient[stellav1.ConnectRequest, stellav1.ConnectResponse]
	cancel   context.CancelFunc
	vouching *vouching
}

// Send implements Conn.
func (c *grpcConn) Send(f *stellav1.ConnectRequest) error {
	return c.vouching.send(f, c.stream.Send)
}

// Recv implements Conn.
func (c *grpcConn) Recv() (*stellav1.ConnectResponse, error) {
	f, err := c.stream.Receive()
	var said *connect.Error
	if errors.As(err, &said) && said.Meta().Get("Stella-Code") != "" {
		err = fmt.Errorf("%w: %w", ErrEnded, err)
	}
	if err != nil {
		return nil, err
	}
	return c.vouching.down(f)
}

// Close ends the stream on the wire too: as long as the request's body is open,
// net/http does not look at the end of the context.
func (c *grpcConn) Close() {
	c.cancel()
	_ = c.stream.CloseRequest()  // both say only that the stream has ended
	_ = c.stream.CloseResponse() //
}
