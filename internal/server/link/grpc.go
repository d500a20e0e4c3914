package link

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"

	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/api/stella/v1/stellav1connect"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// maxFrame bounds a frame from an agent; the largest is a log chunk or a
// result with the end of a log.
const maxFrame = 4 << 20

// Identify returns the agent whose client certificate a request shows, or a
// fault.
type Identify func(r *http.Request) (*fleet.Agent, error)

// GRPC returns the path and the handler of the gRPC carrier.
func (h *Hub) GRPC(identify Identify) (path string, handler http.Handler) {
	path, inner := stellav1connect.NewLinkServiceHandler(&grpcService{h}, connect.WithReadMaxBytes(maxFrame), connect.WithCodec(frameCodec{}))
	writer := connect.NewErrorWriter()
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent, err := identify(r)
		if err != nil {
			h.notLetIn(r, err)
			_ = writer.Write(w, r, rpcError(err)) // the caller is gone otherwise
			return
		}
		// From here on a stream lasts as long as it lasts.
		control := http.NewResponseController(w)
		if err := errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{})); err != nil {
			_ = writer.Write(w, r, rpcError(err)) // as above
			return
		}
		ctx := context.WithValue(context.WithValue(r.Context(), agentKey{}, agent), bindingKey{}, bind(r.TLS, r.RemoteAddr))
		inner.ServeHTTP(w, r.WithContext(context.WithValue(ctx, controlKey{}, control)))
	})
}

// notLetIn says in the log that a stream was not opened: as an error when that
// is this server's own fault, and for whoever looks closely otherwise.
func (h *Hub) notLetIn(r *http.Request, err error) {
	if k := fault.KindOf(err); k != fault.Internal && k != fault.Unavailable {
		h.log.DebugContext(r.Context(), "a request was refused", "operation", r.URL.Path, "remote", r.RemoteAddr, "code", fault.CodeOf(err), "error", err)
	} else if r.Context().Err() == nil {
		h.log.ErrorContext(r.Context(), "request was not authorised", "operation", r.URL.Path, "error", err)
	}
}

type (
	agentKey   struct{}
	bindingKey struct{}
	controlKey struct{}
)

type grpcService struct{ hub *Hub }

func (g *grpcService) Connect(ctx context.Context, stream *connect.BidiStream[stellav1.ConnectRequest, stellav1.ConnectResponse]) error {
	agent, ok := ctx.Value(agentKey{}).(*fleet.Agent)
	control, _ := ctx.Value(controlKey{}).(*http.ResponseController)
	if !ok || control == nil {
		return rpcError(errors.New("link: no agent in the context"))
	}
	binding, _ := ctx.Value(bindingKey{}).(*Binding)
	if err := g.hub.Serve(ctx, agent, grpcConn{stream, control}, binding); err != nil {
		return rpcError(err)
	}
	return nil
}

type grpcConn struct {
	stream  *connect.BidiStream[stellav1.ConnectRequest, stellav1.ConnectResponse]
	control *http.ResponseController
}

// Transport implements Conn.
func (grpcConn) Transport() string { return "grpc" }

// Send implements Conn.
func (c grpcConn) Send(f *stellav1.ConnectResponse) error { return c.stream.Send(f) }

// Recv implements Conn.
func (c grpcConn) Recv(take func(*stellav1.ConnectRequest) error) error {
	f, err := c.stream.Receive()
	if err != nil {
		return frameError(err)
	}
	return take(f)
}

// frameError says what is wrong with a frame that is not taken; every other end
// of a stream stays what it is.
func frameError(err error) error {
	switch connect.CodeOf(err) { //nolint:exhaustive // these two are said of frames
	case connect.CodeResourceExhausted:
		return fault.Wrap(err, fault.TooLarge, "frame_too_large", fmt.Sprintf("a frame of more than %d bytes is not taken", maxFrame))
	case connect.CodeInvalidArgument:
		return fault.Wrap(err, fault.Invalid, "frame_malformed", "a message of the stream is no frame")
	}
	return err
}

// Stop and Cut give the stream, and only it, a deadline that has passed; to a
// stream that is gone it means nothing.

// Stop implements Conn.
func (c grpcConn) Stop() { _ = c.control.SetReadDeadline(time.Unix(1, 0)) }

// Cut implements Conn.
func (c grpcConn) Cut() { _ = c.control.SetWriteDeadline(time.Unix(1, 0)) }

// rpcError maps a fault to a gRPC status, with the fault's code in the header
// stella-code. What is no fault is internal, and says nothing of itself.
func rpcError(err error) error {
	f := fault.As(err)
	if f == nil || f.Kind == fault.Internal {
		return connect.NewError(connect.CodeInternal, errors.New("internal error: the server's log tells more"))
	}
	code := connect.CodeInternal
	switch f.Kind {
	case fault.Internal: // answered above
	case fault.Invalid:
		code = connect.CodeInvalidArgument
	case fault.Unauthenticated:
		code = connect.CodeUnauthenticated
	case fault.Forbidden:
		code = connect.CodePermissionDenied
	case fault.NotFound:
		code = connect.CodeNotFound
	case fault.Conflict:
		code = connect.CodeAborted
	case fault.TooLarge, fault.RateLimited:
		code = connect.CodeResourceExhausted
	case fault.Timeout:
		code = connect.CodeDeadlineExceeded
	case fault.Unavailable:
		code = connect.CodeUnavailable
	case fault.UnsupportedVersion, fault.UpgradeRequired, fault.Unsupported:
		code = connect.CodeFailedPrecondition
	}
	ce := connect.NewError(code, errors.New(f.Message))
	ce.Meta().Set("Stella-Code", f.Code)
	return ce
}
