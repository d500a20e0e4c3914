package link

import (
	"context"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/fault"
)

// deaf is a connection whose other end says nothing more, and takes everything.
type deaf struct{}

var _ Conn = deaf{}

// Send implements Conn.
func (deaf) Send(*stellav1.ConnectResponse) error { return nil }

// Recv implements Conn.
func (deaf) Recv(func(*stellav1.ConnectRequest) error) error { return io.EOF }

// Transport implements Conn.
func (deaf) Transport() string { return "deaf" }

// Stop implements Conn.
func (deaf) Stop() {}

// Cut implements Conn.
func (deaf) Cut() {}

// Whatever bytes come as a frame, over whichever carrier, the server does what
// they say or refuses them: with a fault that the agent may be told, and none that
// is the server's own.
func FuzzFrame(f *testing.F) {
	b := newBench(f)
	a := b.agent("fuzzed")
	k := b.submit(a).ID
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.commands.Run(ctx) }() // takes what agents answer
	f.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			f.Error(err)
		}
	})
	ref, at := &stellav1.TaskRef{TaskId: k, Attempt: 1}, timestamppb.Now()
	for _, frame := range []*stellav1.ConnectRequest{
		{},
		hello(), hello(ref, &stellav1.TaskRef{}), beat(&stellav1.Heartbeat{}),
		beat(&stellav1.Heartbeat{Status: "online", ResourceUsageJson: []byte(`{"cpuPercent":1}`), Running: []*stellav1.TaskRef{ref}, Capabilities: []string{"docker"}, NotAccepting: "busy", SentAt: at}),
		beat(&stellav1.Heartbeat{ResourceUsageJson: []byte(`{`), Capabilities: []string{"A B"}, SentAt: &timestamppb.Timestamp{Seconds: -1 << 62, Nanos: -1}}),
		{Frame: &stellav1.ConnectRequest_TaskAccepted{TaskAccepted: &stellav1.TaskAccepted{Ref: ref, At: at}}},
		{Frame: &stellav1.ConnectRequest_TaskAccepted{}},
		{Frame: &stellav1.ConnectRequest_LogChunk{LogChunk: &stellav1.LogChunk{Ref: ref, FirstSeq: 1, Entries: []*stellav1.LogEntry{{At: at, Text: "a line"}, {Lost: -1}}}}},
		{Frame: &stellav1.ConnectRequest_LogChunk{LogChunk: &stellav1.LogChunk{Ref: ref, FirstSeq: 1<<63 - 1, Entries: []*stellav1.LogEntry{{}, {}}}}},
		result(ref, `{"success":true,"outputs":{"exitCode":0}}`), result(ref, `[`), result(nil, ``),
		{Frame: &stellav1.ConnectRequest_CommandAck{CommandAck: &stellav1.CommandAck{CommandId: "c", ResultJson: []byte(`{}`)}}},
		{Frame: &stellav1.ConnectRequest_CommandAck{CommandAck: &stellav1.CommandAck{Failed: true, ResultJson: []byte(`{`), Error: "no\x00"}}},
	} {
		data, err := proto.Marshal(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{0x12, 0x02, 0x08, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		frame := &stellav1.ConnectRequest{}
		if decodeFrame(data, frame) != nil {
			return
		}
		s, err := b.open(t.Context(), a, deaf{}, &greeting{Hello: hello().GetHello()})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.take(frame); err != nil && (fault.As(err) == nil || fault.KindOf(err) == fault.Internal) {
			t.Fatalf("the agent cannot be told: %v\n%v", err, frame)
		}
		s.close(nil)
		_ = s.leave(t.Context()) // it has none to tell
	})
}
