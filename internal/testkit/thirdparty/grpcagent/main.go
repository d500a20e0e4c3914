// Command grpcagent is an agent of another maker: it knows link.proto, grpc-go
// with code that was generated from it, and nothing else. It pretends to run
// commands: "wait" runs until it is cancelled, and any other succeeds at once.
//
// It prints a line for each thing that happens to it, for the test that runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/internal/testkit/thirdparty/setup"
	stellav1 "stella-ops.org/stella/internal/testkit/thirdparty/stella/v1"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "grpcagent:", err)
		os.Exit(1)
	}
}

func run() error {
	id, err := setup.FromFlags()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	conn, err := grpc.NewClient(strings.TrimPrefix(id.Server, "https://"), grpc.WithTransportCredentials(credentials.NewTLS(id.TLS)))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	stream, err := stellav1.NewLinkServiceClient(conn).Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	a := &agent{stream: stream, running: map[string]*stellav1.TaskRef{}}
	err = a.work(ctx)
	if s, ok := status.FromError(err); ok && err != nil {
		say("closed", s.Code(), strings.Join(stream.Trailer().Get("stella-code"), " "), s.Message())
		return nil
	}
	return err
}

func say(what ...any) { fmt.Fprintln(os.Stdout, what...) }

type agent struct {
	stream  grpc.BidiStreamingClient[stellav1.ConnectRequest, stellav1.ConnectResponse]
	running map[string]*stellav1.TaskRef
}

// work says hello and does what comes. One goroutine reads, and this one writes.
func (a *agent) work(ctx context.Context) error {
	frames, ended := make(chan *stellav1.ConnectResponse), make(chan error, 1)
	go func() {
		for {
			f, err := a.stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			frames <- f
		}
	}()
	hello := &stellav1.Hello{ProtocolVersion: 1, Version: "grpcagent 1", Capabilities: []string{"host.execute"}, Commands: true, SentAt: timestamppb.Now()}
	if err := a.stream.Send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Hello{Hello: hello}}); err != nil {
		return errors.Join(err, <-ended)
	}
	beat := time.NewTicker(time.Hour)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return a.stream.CloseSend()
		case err = <-ended:
			return err
		case <-beat.C:
			err = a.heartbeat()
		case f := <-frames:
			if w := f.GetWelcome(); w != nil {
				beat.Reset(time.Duration(w.GetHeartbeatIntervalMs()) * time.Millisecond)
			}
			err = a.take(f)
		}
		if err != nil {
			return <-ended // the stream's end says why, the failed send only that
		}
	}
}

func (a *agent) heartbeat() error {
	h := &stellav1.Heartbeat{Status: "online", SentAt: timestamppb.Now()}
	for _, ref := range a.running {
		h.Running = append(h.Running, ref)
	}
	return a.stream.Send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Heartbeat{Heartbeat: h}})
}

// take does what a frame says; one that it does not know is passed over.
func (a *agent) take(f *stellav1.ConnectResponse) error {
	switch f := f.GetFrame().(type) {
	case *stellav1.ConnectResponse_Welcome:
		say("welcome")
	case *stellav1.ConnectResponse_HeartbeatAck:
		say("heartbeat_ack")
	case *stellav1.ConnectResponse_Task:
		return a.begin(f.Task)
	case *stellav1.ConnectResponse_CancelTask:
		ref := f.CancelTask.GetRef()
		say("task_cancelled", ref.GetTaskId())
		if a.running[ref.GetTaskId()] == nil {
			return nil
		}
		return a.end(ref, `{"success":false,"error":"stopped, as it was asked to","errorType":"cancelled"}`)
	case *stellav1.ConnectResponse_LogAck:
		say("log_ack", f.LogAck.GetRef().GetTaskId(), f.LogAck.GetLastSeq())
	case *stellav1.ConnectResponse_ResultAck:
		say("result_ack", f.ResultAck.GetRef().GetTaskId(), f.ResultAck.GetAccepted())
	case *stellav1.ConnectResponse_Command:
		return a.command(f.Command)
	case *stellav1.ConnectResponse_CommandReceipt:
		say("command_receipt", f.CommandReceipt.GetCommandId(), f.CommandReceipt.GetAccepted())
	}
	return nil
}

func (a *agent) begin(f *stellav1.Task) error {
	var t struct {
		ID      string `json:"id"`
		Attempt int64  `json:"attempt"`
		Payload struct {
			Command []string `json:"command"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(f.GetTaskJson(), &t); err != nil {
		return fmt.Errorf("decode a task: %w", err)
	}
	if a.running[t.ID] != nil {
		return nil // it came again: once is enough
	}
	say("task_assigned", t.ID)
	ref := &stellav1.TaskRef{TaskId: t.ID, Attempt: t.Attempt}
	a.running[t.ID] = ref
	entries := []*stellav1.LogEntry{
		{At: timestamppb.Now(), Stream: "stdout", Text: "grpcagent runs " + strings.Join(t.Payload.Command, " ")},
		{At: timestamppb.Now(), Stream: "stderr", Text: "or so it says"},
	}
	for _, up := range []*stellav1.ConnectRequest{
		{Frame: &stellav1.ConnectRequest_TaskAccepted{TaskAccepted: &stellav1.TaskAccepted{Ref: ref, At: timestamppb.Now()}}},
		{Frame: &stellav1.ConnectRequest_LogChunk{LogChunk: &stellav1.LogChunk{Ref: ref, FirstSeq: 1, Entries: entries}}},
	} {
		if err := a.stream.Send(up); err != nil {
			return err
		}
	}
	if len(t.Payload.Command) > 0 && t.Payload.Command[0] == "wait" {
		return nil
	}
	return a.end(ref, `{"success":true,"outputs":{"exitCode":0}}`)
}

func (a *agent) end(ref *stellav1.TaskRef, result string) error {
	delete(a.running, ref.GetTaskId())
	return a.stream.Send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskResult{TaskResult: &stellav1.TaskResult{Ref: ref, ResultJson: []byte(result)}}})
}

func (a *agent) command(f *stellav1.Command) error {
	var k struct {
		ID      string          `json:"id"`
		Type    string          `json:"type"`
		Payload json.RawMessage `json:"payload"`
	}
	if err := json.Unmarshal(f.GetCommandJson(), &k); err != nil {
		return fmt.Errorf("decode a command: %w", err)
	}
	say("command", k.ID, k.Type, string(k.Payload))
	return a.stream.Send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_CommandAck{CommandAck: &stellav1.CommandAck{
		CommandId: k.ID, ResultJson: []byte(`{"by":"grpcagent"}`),
	}}})
}
