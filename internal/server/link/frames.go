package link

import (
	"encoding/json"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

// take does what a frame from the agent says.
func (s *session) take(f *stellav1.ConnectRequest) error {
	s.heard()
	a, _, _ := s.current()
	tasks := s.hub.tasks
	switch f := f.GetFrame().(type) {
	case *stellav1.ConnectRequest_SignedHeartbeat:
		return s.signedHeartbeat(f.SignedHeartbeat)
	case *stellav1.ConnectRequest_Heartbeat:
		if s.vouched != nil {
			return s.unsigned("heartbeat")
		}
		return s.heartbeat(f.Heartbeat)
	case *stellav1.ConnectRequest_TaskAccepted:
		return tasks.Accepted(s.ctx, a, ref(f.TaskAccepted.GetRef()), timeOf(f.TaskAccepted.GetAt()))
	case *stellav1.ConnectRequest_LogChunk:
		c := f.LogChunk
		last, err := tasks.AppendLog(s.ctx, a, ref(c.GetRef()), c.GetFirstSeq(), entries(c))
		if fault.KindOf(err) == fault.NotFound {
			last, err = c.GetFirstSeq()+int64(len(c.GetEntries()))-1, nil // of a task that is gone: let it be forgotten
		}
		if err != nil {
			return err
		}
		s.reply(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_LogAck{LogAck: &stellav1.LogAck{Ref: c.GetRef(), LastSeq: last}}})
		return nil
	case *stellav1.ConnectRequest_TaskResult:
		return s.result(a, f.TaskResult)
	case *stellav1.ConnectRequest_CommandAck:
		return s.commandAck(a, f.CommandAck)
	case *stellav1.ConnectRequest_Hello:
		if s.vouched != nil {
			return s.unsigned("hello")
		}
		return s.helloAgain(f.Hello)
	case *stellav1.ConnectRequest_SignedHello:
		return fault.New(fault.Invalid, "hello_expected", "a signed hello is the first frame of a link, and comes once")
	default:
		// A frame of a newer agent: it must not depend on being understood.
		return nil
	}
}

// helloAgain takes what a simple client says of itself after its stream stands,
// if it says anything.
func (s *session) helloAgain(hello *stellav1.Hello) error {
	if err := checkHello(hello); err != nil {
		return err
	}
	s.mu.Lock()
	if !s.partial {
		s.mu.Unlock()
		return nil // its first one said it all
	}
	s.maxTasks, s.commands, s.notAccepting = int(hello.GetMaxConcurrentTasks()), hello.GetCommands(), hello.GetNotAccepting()
	s.mu.Unlock()
	a, _, _ := s.current()
	if c := hello.GetCapabilities(); len(c) > 0 {
		s.setAgent(a, c)
	}
	s.claiming.Lock()
	defer s.claiming.Unlock()
	return s.resume(hello.GetHeld())
}

// resume makes the store and the agent agree on what the agent holds, and sends
// what waits for it. The caller holds claiming.
func (s *session) resume(held []*stellav1.TaskRef) error {
	if err := s.resumeTasks(refs(held)); err != nil {
		return err
	}
	s.wakeUp()
	return s.pendingCommands()
}

func (s *session) resumeTasks(held []task.Ref) error {
	a, _, _ := s.current()
	s.give(held...)
	resume := s.hub.tasks.Resume
	if s.partial {
		resume = s.hub.tasks.Pending
	}
	again, cancel, err := resume(s.ctx, a, held)
	if err != nil {
		return err
	}
	for _, ref := range cancel {
		s.push(cancelFrame(ref, "cancelled while the agent was away"))
	}
	for _, t := range again {
		if err := s.pushTask(t); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) heartbeat(b *stellav1.Heartbeat) error {
	var usage *api.ResourceUsage
	if raw := b.GetResourceUsageJson(); len(raw) > 0 {
		usage = &api.ResourceUsage{}
		if err := json.Unmarshal(raw, usage); err != nil {
			return fault.New(fault.Invalid, "heartbeat_malformed", "the heartbeat's resource usage does not parse")
		}
	}
	if err := fleet.ValidateCapabilities("heartbeat.capabilities", b.GetCapabilities()); err != nil {
		return err
	}
	if len(b.GetStatus()) > 50 || len(b.GetNotAccepting()) > 255 {
		return fault.New(fault.Invalid, "heartbeat_malformed", "a heartbeat's status has at most 50 bytes, and why it takes no tasks at most 255")
	}
	var caps []string
	if len(b.GetCapabilities()) > 0 {
		caps = b.GetCapabilities()
	}
	ack := &stellav1.HeartbeatAck{}
	trust, spread := s.hub.outdatedTrust(s.proof.trust)
	ack.Trust, ack.TrustSpreadMs = trust, spread.Milliseconds()
	window := s.hub.ReconnectWindow().Milliseconds() // not under the session's lock
	if b.GetNotAccepting() != "" || s.partial {
		s.claiming.Lock() // what is being claimed goes out before the acknowledgement
		defer s.claiming.Unlock()
	}
	s.mu.Lock()
	freed := s.notAccepting != "" && b.GetNotAccepting() == ""
	s.notAccepting = b.GetNotAccepting()
	if caps != nil && !slices.Equal(caps, s.agent.Capabilities) {
		cp := *s.agent
		cp.Capabilities = caps
		s.agent = &cp
	}
	if window != s.window {
		s.window, ack.ReconnectWindowMs = window, window
	}
	s.mu.Unlock()
	now := s.hub.now()
	s.hub.monitor.Beat(fleet.Heartbeat{
		TenantID: s.tenant, AgentID: s.agentID, At: now, Status: b.GetStatus(),
		NotAccepting: b.GetNotAccepting(), Transport: s.conn.Transport(), ResourceUsage: usage, Capabilities: caps,
	})
	if err := s.hold(refs(b.GetRunning())); err != nil {
		return err
	}
	if freed {
		s.wakeUp()
	}
	ack.ServerTime = timestamppb.New(now)
	s.reply(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_HeartbeatAck{HeartbeatAck: ack}})
	return nil
}

// hold prolongs what the agent works on. To a simple client the tasks that it
// has not taken come again, as with polling; then the caller holds claiming.
func (s *session) hold(running []task.Ref) error {
	if s.partial {
		return s.resumeTasks(running)
	}
	return s.hub.tasks.Renew(s.ctx, s.agentID, running)
}

func (s *session) result(a *fleet.Agent, r *stellav1.TaskResult) error {
	var res api.TaskResult
	if err := json.Unmarshal(r.GetResultJson(), &res); err != nil {
		return fault.New(fault.Invalid, "result_malformed", "the result of task %s does not parse", r.GetRef().GetTaskId())
	}
	accepted, reason, err := s.hub.tasks.Finish(s.ctx, a, ref(r.GetRef()), &res)
	if fault.KindOf(err) == fault.NotFound {
		accepted, reason, err = false, "there is no such task", nil
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	if id, attempt := r.GetRef().GetTaskId(), r.GetRef().GetAttempt(); attempt == 0 || s.given[id] <= attempt {
		delete(s.given, id)
	}
	s.mu.Unlock()
	s.reply(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_ResultAck{ResultAck: &stellav1.ResultAck{Ref: r.GetRef(), Accepted: accepted, Reason: reason}}})
	return nil
}

// timeOf is the zero time, and not 1970, for one that was left out.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func ref(r *stellav1.TaskRef) task.Ref { return task.Ref{ID: r.GetTaskId(), Attempt: r.GetAttempt()} }

func refs(in []*stellav1.TaskRef) []task.Ref {
	out := make([]task.Ref, len(in))
	for i, r := range in {
		out[i] = ref(r)
	}
	return out
}

func cancelFrame(r task.Ref, reason string) *stellav1.ConnectResponse {
	return &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_CancelTask{CancelTask: &stellav1.CancelTask{
		Ref: &stellav1.TaskRef{TaskId: r.ID, Attempt: r.Attempt}, Reason: reason,
	}}}
}

func entries(c *stellav1.LogChunk) []api.LogEntry {
	out := make([]api.LogEntry, len(c.GetEntries()))
	for i, e := range c.GetEntries() {
		out[i] = api.LogEntry{
			Seq: c.GetFirstSeq() + int64(i), At: timeOf(e.GetAt()), Stream: e.GetStream(), Text: e.GetText(),
			Phase: e.GetPhase(), PhaseState: e.GetPhaseState(), Lost: e.GetLost(),
		}
	}
	return out
}
