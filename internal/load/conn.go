package load

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// conn is one connection of an agent over some carrier. beat may be called by
// any goroutine at any time and does not wait for an answer; send and recv are
// called by the agent's own goroutine alone. close may be called at any time,
// again too, and unblocks the others.
type conn interface {
	beat() error
	send(f *stellav1.ConnectRequest) error
	recv() (*stellav1.ConnectResponse, error)
	close()
}

// carrier opens connections. dial says hello; the first frame that recv
// returns is the welcome.
type carrier interface {
	dial(ctx context.Context, id *Identity) (conn, error)
}

func newCarrier(o *Options) (carrier, error) {
	d, err := newDialer(o.URL, o.CA)
	if err != nil {
		return nil, err
	}
	frames, err := newFrames()
	if err != nil {
		return nil, err
	}
	switch o.Transport {
	case WebSocket:
		return &wsCarrier{dialer: d, frames: frames}, nil
	case GRPC:
		return newGRPCCarrier(d, frames), nil
	default:
		return newPollCarrier(d, frames.signer)
	}
}

// frames are what every agent says, made once: a simulated agent's heartbeat
// is like the one before and like its neighbour's, but for its number and MAC.
type frames struct {
	signer signer
	hello  *stellav1.Hello
	beat   []byte // encoded
}

// usage is what an agent reports of its machine.
var usage = api.ResourceUsage{
	CPUPercent: 12.5, MemoryPercent: 41.3, MemoryTotalBytes: 16 << 30, DiskPercent: 63.2, DiskFreeBytes: 120 << 30, Load1: 0.42, AgentMemoryBytes: 24 << 20,
}

// maxTasks is how many tasks an agent takes at a time.
const maxTasks = 100

func newFrames() (*frames, error) {
	raw, err := json.Marshal(usage)
	if err != nil {
		return nil, fmt.Errorf("encode the resource usage: %w", err)
	}
	hello := &stellav1.Hello{ProtocolVersion: api.ProtocolVersion, Version: "load", Capabilities: capabilities(), MaxConcurrentTasks: maxTasks, Commands: true}
	beat, err := proto.Marshal(&stellav1.Heartbeat{Status: string(api.StatusOnline), ResourceUsageJson: raw, Capabilities: capabilities()})
	if err != nil {
		return nil, fmt.Errorf("encode the heartbeat: %w", err)
	}
	return &frames{signer: newSigner(), hello: hello, beat: beat}, nil
}
