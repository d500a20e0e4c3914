package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/api/stella/v1/stellav1connect"
)

// dispatch measures the time from POST /tasks to the arrival of the task at an
// agent's stream.
func dispatch(ctx context.Context, e *env) ([]row, error) {
	c, err := e.server(ctx, "dispatch")
	if err != nil {
		return nil, err
	}
	defer stopProcess(c.cmd)
	a, err := c.prepare(ctx, "bench", "host.execute")
	if err != nil {
		return nil, err
	}
	res, err := c.register(ctx, c.http(true), a)
	if err != nil {
		return nil, err
	}
	cert, err := a.certificate(res)
	if err != nil {
		return nil, err
	}
	stream := stellav1connect.NewLinkServiceClient(c.http(false, cert), c.url, connect.WithGRPC()).Connect(ctx)
	defer func() { _ = stream.CloseRequest() }() // the measurement is over
	if err := stream.Send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Hello{Hello: &stellav1.Hello{ProtocolVersion: 1, Capabilities: []string{"host.execute"}}}}); err != nil {
		return nil, err
	}
	if _, err := stream.Receive(); err != nil {
		return nil, err
	}
	if _, err := c.api.CreateTarget(ctx, api.TargetRequest{Name: "box", Kind: "host", Agent: res.AgentID, Config: api.TargetConfig{Directory: "/opt/bench"}}); err != nil {
		return nil, err
	}
	const warmUp, rounds = 100, 1000
	var times []time.Duration
	for i := range warmUp + rounds {
		began := time.Now()
		posted := make(chan error, 1)
		go func() {
			_, err := c.api.SubmitTask(ctx, api.TaskRequest{Type: api.TaskExecuteCommand, Target: "box", Payload: json.RawMessage(`{"command":["true"]}`)})
			posted <- err
		}()
		t, at, err := nextTask(stream)
		if err != nil {
			return nil, errors.Join(err, <-posted)
		}
		if i >= warmUp {
			times = append(times, at.Sub(began))
		}
		if err := <-posted; err != nil {
			return nil, err
		}
		result, err := json.Marshal(api.TaskResult{Success: true})
		if err != nil {
			return nil, err
		}
		ref := &stellav1.TaskRef{TaskId: t.ID, Attempt: t.Attempt}
		if err := stream.Send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskResult{TaskResult: &stellav1.TaskResult{Ref: ref, ResultJson: result}}}); err != nil {
			return nil, err
		}
	}
	slices.Sort(times)
	p50, p99 := times[len(times)/2], times[len(times)*99/100]
	how := fmt.Sprintf("%d tasks one after the other, loopback, SQLite with durable commits", rounds)
	return []row{
		{"POST /tasks to the agent's receipt, p50", ms(p50), "< 2 ms", p50 < 2*time.Millisecond, how},
		{"POST /tasks to the agent's receipt, p99", ms(p99), "", true, how},
	}, nil
}

func nextTask(stream *connect.BidiStreamForClient[stellav1.ConnectRequest, stellav1.ConnectResponse]) (*api.AgentTask, time.Time, error) {
	for {
		f, err := stream.Receive()
		if err != nil {
			return nil, time.Time{}, err
		}
		if t := f.GetTask(); t != nil {
			at := time.Now()
			var task api.AgentTask
			return &task, at, json.Unmarshal(t.GetTaskJson(), &task)
		}
	}
}
