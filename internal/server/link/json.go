package link

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/gobwas/ws"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/fault"
)

// jsonConn is a WebSocket whose messages are api.StreamMessages: for agents of
// other makers, which may know no more than task_assigned and task_cancelled.
// Such an agent need not say hello: the connection says it for it.
type jsonConn struct {
	*wsConn
	greeted bool // owned by Recv

	mu sync.Mutex
	// attempts are those of the tasks that went this way, for an agent that
	// does not name them.
	attempts map[string]int64
}

var _ Conn = (*jsonConn)(nil)

func newJSONConn(c *wsConn) *jsonConn { return &jsonConn{wsConn: c, attempts: map[string]int64{}} }

// Recv implements Conn.
func (c *jsonConn) Recv(take func(*stellav1.ConnectRequest) error) error {
	if !c.greeted {
		c.greeted = true
		return take(c.hello(&api.StreamMessage{}))
	}
	return c.readMessage(func(data []byte) error {
		m, err := parseMessage(data)
		if err != nil {
			return err
		}
		return take(c.frame(m))
	})
}

// parseMessage reads a message whose lists are no longer than those of the REST
// API: four megabytes of "{}," would become hundreds in memory.
func parseMessage(data []byte) (*api.StreamMessage, error) {
	var m struct {
		api.StreamMessage
		Entries      list[api.LogEntry] `json:"entries"`
		RunningTasks list[api.TaskRef]  `json:"runningTasks"`
		Capabilities list[string]       `json:"capabilities"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "frame_malformed", "a message is not the JSON object that is expected here: "+err.Error())
	}
	m.StreamMessage.Entries, m.StreamMessage.RunningTasks, m.StreamMessage.Capabilities = m.Entries, m.RunningTasks, m.Capabilities
	return &m.StreamMessage, nil
}

// list is a list of at most maxList items.
type list[T any] []T

const maxList = 10_000

// UnmarshalJSON implements json.Unmarshaler.
func (l *list[T]) UnmarshalJSON(data []byte) error {
	*l = nil
	items := json.NewDecoder(bytes.NewReader(data))
	if first, err := items.Token(); err != nil || first == nil { // null
		return err
	} else if first != json.Delim('[') {
		return errors.New("a list is expected, in brackets")
	}
	for items.More() {
		if len(*l) == maxList {
			return fmt.Errorf("a list has more than %d items: send them in parts", maxList)
		}
		var item T
		if err := items.Decode(&item); err != nil {
			return err
		}
		*l = append(*l, item)
	}
	return nil
}

// frame makes the frame that a message stands for; an empty one for a message
// that means nothing here.
func (c *jsonConn) frame(m *api.StreamMessage) *stellav1.ConnectRequest {
	ref := c.ref(m.TaskID, m.Attempt)
	switch m.Type {
	case api.StreamHello:
		return c.hello(m)
	case api.StreamHeartbeat:
		h := &stellav1.Heartbeat{Status: m.Status, NotAccepting: m.NotAccepting, Capabilities: m.Capabilities, Running: c.running(m)}
		if m.ResourceUsage != nil {
			h.ResourceUsageJson, _ = json.Marshal(m.ResourceUsage) // numbers, which were read from JSON
		}
		return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Heartbeat{Heartbeat: h}}
	case api.StreamTaskAccepted:
		return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskAccepted{TaskAccepted: &stellav1.TaskAccepted{Ref: ref}}}
	case api.StreamTaskLog:
		chunk := &stellav1.LogChunk{Ref: ref, FirstSeq: m.FirstSeq, Entries: make([]*stellav1.LogEntry, len(m.Entries))}
		for i, e := range m.Entries {
			chunk.Entries[i] = &stellav1.LogEntry{
				At: timestamppb.New(e.At), Stream: e.Stream, Text: e.Text, Phase: e.Phase, PhaseState: e.PhaseState, Lost: e.Lost,
			}
		}
		return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_LogChunk{LogChunk: chunk}}
	case api.StreamTaskResult:
		return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskResult{TaskResult: &stellav1.TaskResult{Ref: ref, ResultJson: taskResult(m)}}}
	case api.StreamCommandAck:
		return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_CommandAck{CommandAck: &stellav1.CommandAck{
			CommandId: m.CommandID, Failed: m.Status == string(api.CommandFailed), ResultJson: m.Result, Error: m.Error,
		}}}
	}
	return &stellav1.ConnectRequest{} // of a newer agent
}

// taskResult is a TaskResult in which what the message says beside it counts, as in
// the body of the REST API's complete. What does not parse is left as it is,
// to be refused where every result is.
func taskResult(m *api.StreamMessage) []byte {
	var r api.TaskResult
	if len(m.Result) > 0 {
		if err := json.Unmarshal(m.Result, &r); err != nil {
			return m.Result
		}
	}
	r.Success = m.Success
	if m.Logs != "" {
		r.Logs = m.Logs
	}
	data, err := json.Marshal(&r)
	if err != nil {
		return m.Result
	}
	return data
}

func (c *jsonConn) hello(m *api.StreamMessage) *stellav1.ConnectRequest {
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_Hello{Hello: &stellav1.Hello{
		ProtocolVersion: api.ProtocolVersion, Capabilities: m.Capabilities, MaxConcurrentTasks: int32(min(max(m.MaxTasks, 0), 1000)),
		Held: c.running(m), Commands: m.Commands, Partial: true, NotAccepting: m.NotAccepting,
	}}}
}

func (c *jsonConn) running(m *api.StreamMessage) []*stellav1.TaskRef {
	out := make([]*stellav1.TaskRef, len(m.RunningTasks))
	for i, r := range m.RunningTasks {
		out[i] = c.ref(r.TaskID, r.Attempt)
	}
	return out
}

// ref fills in the attempt, where it is left out and known.
func (c *jsonConn) ref(taskID string, attempt int64) *stellav1.TaskRef {
	if attempt == 0 && taskID != "" {
		c.mu.Lock()
		attempt = c.attempts[taskID]
		c.mu.Unlock()
	}
	return &stellav1.TaskRef{TaskId: taskID, Attempt: attempt}
}

// Send implements Conn.
func (c *jsonConn) Send(f *stellav1.ConnectResponse) error {
	m, err := c.message(f)
	if err != nil || m == nil {
		return err
	}
	data, err := encodeMessage(m, f.GetTask().GetTaskJson())
	if err != nil {
		return err
	}
	return c.writeMessage(ws.OpText, append(make([]byte, wsHeaderRoom, wsHeaderRoom+len(data)), data...))
}

// encodeMessage writes a message, with its task as it was signed: byte for byte.
func encodeMessage(m *api.StreamMessage, task json.RawMessage) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // it would be done to the task, too
	err := enc.Encode(struct {
		*api.StreamMessage
		Task json.RawMessage `json:"task,omitempty"`
	}{m, task})
	if err != nil {
		return nil, fmt.Errorf("encode a message: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// message makes the message that a frame stands for; nil for one that an agent
// of JSON has no use for.
func (c *jsonConn) message(f *stellav1.ConnectResponse) (*api.StreamMessage, error) {
	switch f := f.GetFrame().(type) {
	case *stellav1.ConnectResponse_Welcome:
		at := f.Welcome.GetServerTime().AsTime()
		return &api.StreamMessage{
			Type: api.StreamWelcome, HeartbeatIntervalMs: f.Welcome.GetHeartbeatIntervalMs(), ServerTime: &at,
			Server: f.Welcome.GetServer(), ReconnectWindowMs: f.Welcome.GetReconnectWindowMs(),
		}, nil
	case *stellav1.ConnectResponse_HeartbeatAck:
		at := f.HeartbeatAck.GetServerTime().AsTime()
		return &api.StreamMessage{Type: api.StreamHeartbeatAck, ServerTime: &at, ReconnectWindowMs: f.HeartbeatAck.GetReconnectWindowMs()}, nil
	case *stellav1.ConnectResponse_Task:
		var t api.TaskRef
		if err := json.Unmarshal(f.Task.GetTaskJson(), &struct {
			ID      *string `json:"id"`
			Attempt *int64  `json:"attempt"`
		}{&t.TaskID, &t.Attempt}); err != nil {
			return nil, fmt.Errorf("decode a task: %w", err)
		}
		c.mu.Lock()
		c.attempts[t.TaskID] = t.Attempt
		c.mu.Unlock()
		return &api.StreamMessage{Type: api.StreamTaskAssigned, Signature: f.Task.GetSignature()}, nil
	case *stellav1.ConnectResponse_CancelTask:
		r := f.CancelTask.GetRef()
		return &api.StreamMessage{Type: api.StreamTaskCancelled, TaskID: r.GetTaskId(), Attempt: r.GetAttempt(), Reason: f.CancelTask.GetReason()}, nil
	case *stellav1.ConnectResponse_LogAck:
		r := f.LogAck.GetRef()
		return &api.StreamMessage{Type: api.StreamLogAck, TaskID: r.GetTaskId(), Attempt: r.GetAttempt(), LastSeq: f.LogAck.GetLastSeq()}, nil
	case *stellav1.ConnectResponse_ResultAck:
		r, accepted := f.ResultAck.GetRef(), f.ResultAck.GetAccepted()
		c.mu.Lock()
		delete(c.attempts, r.GetTaskId())
		c.mu.Unlock()
		return &api.StreamMessage{Type: api.StreamResultAck, TaskID: r.GetTaskId(), Attempt: r.GetAttempt(), Accepted: &accepted, Reason: f.ResultAck.GetReason()}, nil
	case *stellav1.ConnectResponse_Command:
		var k api.AgentCommand
		if err := json.Unmarshal(f.Command.GetCommandJson(), &k); err != nil {
			return nil, fmt.Errorf("decode a command: %w", err)
		}
		return &api.StreamMessage{Type: api.StreamCommand, Command: &k}, nil
	case *stellav1.ConnectResponse_CommandReceipt:
		accepted := f.CommandReceipt.GetAccepted()
		return &api.StreamMessage{Type: api.StreamCommandReceipt, CommandID: f.CommandReceipt.GetCommandId(), Accepted: &accepted, Reason: f.CommandReceipt.GetReason()}, nil
	}
	return nil, nil
}
