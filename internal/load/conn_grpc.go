package load

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/api/stella/v1/stellav1connect"
)

// grpcCarrier speaks gRPC. All agents share one RPC client; the request's
// context says which agent's connection it goes over.
type grpcCarrier struct {
	dialer *dialer
	frames *frames
	client stellav1connect.LinkServiceClient
}

func newGRPCCarrier(d *dialer, f *frames) *grpcCarrier {
	return &grpcCarrier{dialer: d, frames: f, client: stellav1connect.NewLinkServiceClient(byContext{}, "https://"+d.url.Host, connect.WithGRPC(), connect.WithReadMaxBytes(maxAnswer))}
}

type connKey struct{}

// byContext sends a request over the connection in its context.
type byContext struct{}

// Do implements connect.HTTPClient.
func (byContext) Do(req *http.Request) (*http.Response, error) {
	cc, ok := req.Context().Value(connKey{}).(*http.ClientConn)
	if !ok {
		return nil, errors.New("load: a request without a connection")
	}
	return cc.RoundTrip(req)
}

func (c *grpcCarrier) dial(ctx context.Context, id *Identity) (conn, error) {
	cc, under, err := c.dialer.dialHTTP2(ctx, id)
	if err != nil {
		return nil, err
	}
	hello, vow, err := c.frames.signer.hello(id, under, c.frames.hello)
	if err != nil {
		_ = cc.Close()
		return nil, err
	}
	stream := c.client.Connect(context.WithValue(ctx, connKey{}, cc))
	g := &grpcConn{cc: cc, stream: stream, frames: c.frames, vow: vow}
	stream.RequestHeader().Set(api.HeaderProtocolVersion, strconv.Itoa(api.ProtocolVersion))
	if err := stream.Send(hello); err != nil {
		// What the server answered says more than that sending failed.
		if _, cause := stream.Receive(); cause != nil {
			err = cause
		}
		g.close()
		return nil, err
	}
	g.patience = time.AfterFunc(welcomeTimeout, g.close)
	return g, nil
}

type grpcConn struct {
	cc       *http.ClientConn
	stream   *connect.BidiStreamForClient[stellav1.ConnectRequest, stellav1.ConnectResponse]
	frames   *frames
	patience *time.Timer // until the welcome

	write sync.Mutex // a stream has one sender at a time
	vow   *vow
}

var _ conn = (*grpcConn)(nil)

func (g *grpcConn) beat() error {
	g.write.Lock()
	defer g.write.Unlock()
	return g.stream.Send(g.vow.beat(g.frames.beat))
}

func (g *grpcConn) send(f *stellav1.ConnectRequest) error {
	g.write.Lock()
	defer g.write.Unlock()
	return g.stream.Send(f)
}

func (g *grpcConn) recv() (*stellav1.ConnectResponse, error) {
	f, err := g.stream.Receive()
	if g.patience != nil {
		g.patience.Stop()
		g.patience = nil
	}
	if err != nil {
		return nil, err
	}
	return f, g.vow.take(f)
}

func (g *grpcConn) close() { _ = g.cc.Close() } // it unblocks everything
