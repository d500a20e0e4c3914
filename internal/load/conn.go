package load

import (
	"context"
	"encoding/json"
	"fmt"

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
		return newWSCarrier(d, frames)
	case GRPC:
		return newGRPCCarrier(d, frames), nil
	default:
		return newPollCarrier(d)
	}
}

// frames are what every agent says, made once: a simulated agent's heartbeat
// is like the one before and like its neighbour's.
type frames struct {
	hello, beat *stellav1.ConnectRequest
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
	return &frames{
		hello: &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Hello{Hello: hello}},
		beat: &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Heartbeat{Heartbeat: &stellav1.Heartbeat{
			Status: string(api.StatusOnline), ResourceUsageJson: raw, Capabilities: capabilities(),
		}}},
	}, nil
}
