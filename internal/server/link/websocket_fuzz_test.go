package link

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// bytesConn is a connection on which some bytes come, and then its end; what is
// written is kept.
type bytesConn struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (c *bytesConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *bytesConn) Write(p []byte) (int, error) { return c.out.Write(p) }

// Whatever bytes come, they are messages, or end the connection; and what is
// held for them is not much more than what came.
func FuzzWebSocketFrames(f *testing.F) {
	masked := func(frames ...ws.Frame) (all []byte) {
		for _, fr := range frames {
			all = append(all, bytesOf(fr)...)
		}
		return all
	}
	f.Add(masked(ws.NewTextFrame([]byte(`{"type":"heartbeat"}`)), ws.NewPingFrame([]byte("x")), ws.NewCloseFrame(ws.NewCloseFrameBody(1000, "bye"))), true)
	f.Add(masked(ws.NewBinaryFrame([]byte{1, 2, 3})), false)
	f.Add(masked(ws.NewFrame(ws.OpText, false, []byte("a")), ws.NewPongFrame(nil), ws.NewFrame(ws.OpContinuation, true, []byte("b"))), true)
	f.Add(masked(ws.NewTextFrame([]byte(strings.Repeat("x", 300)))), true)
	f.Add(masked(ws.NewCloseFrame([]byte{3})), true)
	f.Add([]byte{0x01, 0x81, 0, 0, 0, 0, 'a', 0x80, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, true)
	f.Add([]byte{0x81, 0xff, 0, 0, 0, 0, 0, 0x3f, 0xff, 0xff, 1, 2, 3, 4, 5}, true)
	f.Add([]byte{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4}, false)
	f.Fuzz(func(t *testing.T, data []byte, text bool) {
		conn := &bytesConn{in: bytes.NewReader(data)}
		c := newWSConn(conn, time.Now, &crew{})
		c.text = text
		taken := 0
		for {
			err := c.readMessage(func(message []byte) error {
				if len(message) > len(data) || cap(message) > keepBuffers+4*len(data) {
					t.Errorf("%d bytes became a message of %d, in a buffer of %d", len(data), len(message), cap(message))
				}
				return nil
			})
			if err == nil {
				if taken++; taken > len(data) {
					t.Fatal("it reads messages from nothing")
				}
				continue
			}
			if !errors.Is(err, io.EOF) && fault.As(err) == nil {
				t.Fatalf("the agent cannot be told: %v", err)
			}
			break
		}
		for out := bytes.NewReader(conn.out.Bytes()); out.Len() > 0; {
			if fr, err := ws.ReadFrame(out); err != nil || fr.Header.OpCode != ws.OpPong {
				t.Fatalf("answered with %v, %v", fr, err)
			}
		}
	})
}

// Whatever text comes, it is a message that makes a frame, or a fault.
func FuzzJSONMessage(f *testing.F) {
	for _, seed := range []string{
		`{"type":"hello","commands":true,"capabilities":["docker"],"maxTasks":5,"runningTasks":[{"taskId":"t","attempt":1}]}`,
		`{"type":"heartbeat","status":"online","resourceUsage":{"cpuPercent":1e308,"memoryTotalBytes":18446744073709551615},"runningTasks":[{"taskId":"t"}]}`,
		`{"type":"task_accepted","taskId":"t"}`,
		`{"type":"task_log","taskId":"t","firstSeq":9223372036854775807,"entries":[{"at":"0001-01-01T00:00:00Z","text":"a","lost":-1},{"at":"9999-12-31T23:59:59Z"}]}`,
		`{"type":"task_result","taskId":"t","success":true,"result":{"outputs":{"exitCode":0}},"logs":"up 1 day"}`,
		`{"type":"task_result","taskId":"t","result":{"startedAt":"yesterday"}}`,
		`{"type":"command_ack","commandId":"c","status":"failed","error":"\ud800","result":[1,2,{}]}`,
		`{"type":"task_log","entries":null,"capabilities":null,"runningTasks":null}`,
		`{"type":"task_log","entries":[],"entries":{}}`,
		`null`, `[]`, `{"type":7}`, `{`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMessage(data)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid || fault.CodeOf(err) != "frame_malformed" {
				t.Fatalf("the agent cannot be told: %v", err)
			}
			return
		}
		c := newJSONConn(newWSConn(&bytesConn{in: bytes.NewReader(nil)}, time.Now, &crew{}))
		c.attempts["t"] = 3
		frame := c.frame(m)
		if _, err := proto.Marshal(frame); err != nil {
			t.Fatalf("%s makes a frame that is none: %v", data, err)
		}
		if len(m.Entries) > maxList || len(m.Capabilities) > maxList || len(m.RunningTasks) > maxList {
			t.Fatal("a list has no bounds")
		}
		if r := frame.GetTaskResult().GetResultJson(); r != nil && json.Valid(m.Result) != json.Valid(r) && len(m.Result) > 0 {
			t.Fatalf("the result %s became %s", m.Result, r)
		}
		if l := frame.GetLogChunk(); l != nil && (len(l.GetEntries()) != len(m.Entries) || len(entries(l)) != len(m.Entries)) {
			t.Fatal("log entries are lost")
		}
		if frame.GetHello() != nil != (m.Type == api.StreamHello) {
			t.Fatalf("%s became %v", m.Type, frame)
		}
	})
}

// A header alone makes no room: only what comes does.
func TestBufferGrowsWithWhatComes(t *testing.T) {
	t.Parallel()
	for _, came := range []int{0, 1, 1000, 5000, 100_000, maxFrame - 1} {
		b := &buffer{}
		times := 0
		err := b.read(strings.NewReader(strings.Repeat("x", came)), maxFrame, func() { times++ })
		if !errors.Is(err, io.EOF) || len(b.b) != came || cap(b.b) > 1024+3*came || (times > 0) != (came > 0) {
			t.Errorf("of %d bytes came %d: %v, %d bytes in %d", maxFrame, came, err, len(b.b), cap(b.b))
		}
	}
	b := takeBuffer()
	defer b.release()
	for _, part := range []string{"one ", "", "two"} {
		if err := b.read(strings.NewReader(part+"what follows"), len(part), func() {}); err != nil {
			t.Error(err)
		}
	}
	if string(b.b) != "one two" {
		t.Errorf("%q", b.b)
	}
}
