package link

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/api/stella/v1/stellav1connect"
)

// maxFrame bounds a frame from the server; the largest is a task with files.
const maxFrame = 32 << 20

// GRPC is the carrier over a gRPC stream (HTTP/2).
type GRPC struct {
	client stellav1connect.LinkServiceClient
}

var _ Carrier = (*GRPC)(nil)

// NewGRPC returns the carrier for a server; client must present the agent's
// certificate and must not have a timeout.
func NewGRPC(client *http.Client, serverURL string) *GRPC {
	return &GRPC{stellav1connect.NewLinkServiceClient(client, serverURL, connect.WithGRPC(), connect.WithReadMaxBytes(maxFrame))}
}

// Name is "grpc".
func (*GRPC) Name() string { return "grpc" }

// Dial opens a stream. The stream lives until Close or the end of ctx.
func (g *GRPC) Dial(ctx context.Context, hello *stellav1.Hello) (Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream := g.client.Connect(ctx)
	stream.RequestHeader().Set(api.HeaderProtocolVersion, strconv.Itoa(api.ProtocolVersion))
	err := stream.Send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Hello{Hello: hello}})
	if err != nil {
		// What the server answered says more than that sending failed.
		if _, cause := stream.Receive(); cause != nil {
			err = cause
		}
		cancel()
		return nil, fmt.Errorf("open the stream: %w", err)
	}
	return &grpcConn{stream: stream, cancel: cancel}, nil
}

type grpcConn struct {
	stream *connect.BidiStreamForClient[stellav1.ConnectRequest, stellav1.ConnectResponse]
	cancel context.CancelFunc
}

func (c *grpcConn) Send(f *stellav1.ConnectRequest) error { return c.stream.Send(f) }

// Recv implements Conn.
func (c *grpcConn) Recv() (*stellav1.ConnectResponse, error) {
	f, err := c.stream.Receive()
	var said *connect.Error
	if errors.As(err, &said) && said.Meta().Get("Stella-Code") != "" {
		err = fmt.Errorf("%w: %w", ErrEnded, err)
	}
	return f, err
}

// Close ends the stream on the wire too: as long as the request's body is open,
// net/http does not look at the end of the context.
func (c *grpcConn) Close() {
	c.cancel()
	_ = c.stream.CloseRequest()  // both say only that the stream has ended
	_ = c.stream.CloseResponse() //
}
