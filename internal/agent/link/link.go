// Package link carries frames between this agent and its server: over a
// WebSocket, over a gRPC stream, or, where nothing but plain requests gets
// through, by polling. All look alike to the agent.
//
// It knows nothing of tasks and of what frames mean.
package link

import (
	"context"
	"errors"

	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// ErrEnded is in the error of Recv when the server itself has ended the
// connection and said why, and nothing in between is to blame.
var ErrEnded = errors.New("the server has ended the connection")

// Conn is one connection. Send and Recv may be called at the same time, each
// by one goroutine. Close may be called at any time and unblocks both.
type Conn interface {
	Send(*stellav1.ConnectRequest) error
	Recv() (*stellav1.ConnectResponse, error)
	Close()
}

// Carrier opens connections. Dial signs and sends the hello; the first frame that
// Recv returns is the welcome. Heartbeats are signed as they go; Send takes none
// before the welcome was received. When the server knows a higher number of the
// agent, Dial or Recv fails with a NumberRefusedError.
type Carrier interface {
	Name() string
	Dial(ctx context.Context, hello *stellav1.Hello) (Conn, error)
}
