package link

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

// session is one agent's link while it lasts. Three goroutines share it: the
// reader takes frames from the agent, the writer sends what is queued, and the
// dispatcher claims tasks when it is woken.
type session struct {
	hub     *Hub
	conn    Conn
	tenant  string
	agentID string

	out    chan *stellav1.ConnectResponse
	woken  chan struct{}
	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc

	mu           sync.Mutex
	agent        *fleet.Agent // replaced, never altered
	maxTasks     int
	notAccepting string
}

// cutAfter is how long a frame that is under way may take when a link ends.
const cutAfter = 500 * time.Millisecond

// Serve runs an agent's link until it ends, and returns why, as a fault that
// the carrier may show; nil when the agent has left.
func (h *Hub) Serve(ctx context.Context, agent *fleet.Agent, conn Conn) error {
	first, err := conn.Recv()
	if err != nil {
		return nil // the agent left before it said anything
	}
	hello := first.GetHello()
	if hello == nil {
		return fault.New(fault.Invalid, "hello_expected", "the first frame of a link must be a hello")
	}
	if v := hello.GetProtocolVersion(); v < api.MinProtocolVersion || v > api.ProtocolVersion {
		return fault.New(fault.UnsupportedVersion, "protocol_version",
			"protocol version %d is not spoken here: this server speaks %d to %d", v, api.MinProtocolVersion, api.ProtocolVersion)
	}
	if err := fleet.ValidateCapabilities("hello.capabilities", hello.GetCapabilities()); err != nil {
		return err
	}
	s := &session{
		hub: h, conn: conn, tenant: agent.TenantID, agentID: agent.ID,
		out: make(chan *stellav1.ConnectResponse, 64), woken: make(chan struct{}, 1),
		maxTasks: int(hello.GetMaxConcurrentTasks()),
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	s.setAgent(agent, hello.GetCapabilities())
	if err := h.add(s); err != nil {
		return err
	}
	defer h.remove(s)
	h.log.InfoContext(ctx, "agent connected", "agent", agent.ID, "name", agent.Name, "transport", conn.Transport(), "version", hello.GetVersion())

	var wg sync.WaitGroup
	wg.Go(s.write)
	s.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Welcome{Welcome: &stellav1.Welcome{
		HeartbeatIntervalMs: h.opts.HeartbeatInterval.Milliseconds(), ServerTime: timestamppb.New(h.now()), Server: h.opts.ServerName,
	}}})
	h.monitor.Beat(fleet.Heartbeat{TenantID: s.tenant, AgentID: s.agentID, At: h.now(), Status: agent.ReportedStatus, Capabilities: hello.GetCapabilities()})
	if err := s.resume(hello); err != nil {
		s.close(err)
	}
	wg.Go(s.dispatch)
	go s.read() // unblocked by the carrier, after Serve has returned
	s.wakeUp()

	<-s.ctx.Done()
	// Who reads nothing must not hold up his own end.
	cut := time.AfterFunc(cutAfter, conn.Cut)
	defer cut.Stop()
	wg.Wait()
	return s.ended(ctx)
}

// ended returns why the session is over, if that is to be told to the agent.
func (s *session) ended(ctx context.Context) error {
	reason := context.Cause(s.ctx) //nolint:contextcheck // the session's own context says why it ended
	s.hub.log.InfoContext(ctx, "agent disconnected", "agent", s.agentID, "reason", reason)
	if f := fault.As(reason); f != nil {
		return f
	}
	return nil
}

// close ends the session; the first reason stands.
func (s *session) close(reason error) { s.cancel(reason) }

func (s *session) wakeUp() {
	select {
	case s.woken <- struct{}{}:
	default: // it is awake already
	}
}

// push queues a frame. An agent that does not read what it is sent is cut: it
// will connect again and be told everything anew.
func (s *session) push(f *stellav1.ConnectResponse) {
	select {
	case s.out <- f:
	case <-s.ctx.Done():
	default:
		s.close(fault.New(fault.Unavailable, "slow_reader", "the agent reads too slowly: connect again"))
	}
}

func (s *session) write() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case f := <-s.out:
			if err := s.conn.Send(f); err != nil {
				s.close(fmt.Errorf("send: %w", err))
				return
			}
		}
	}
}

func (s *session) read() {
	for {
		f, err := s.conn.Recv()
		if err == nil {
			err = s.take(f)
		}
		if err != nil {
			s.close(err)
			return
		}
	}
}

// current returns the agent as this session knows it.
func (s *session) current() (a *fleet.Agent, maxTasks int, notAccepting string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.agent, s.maxTasks, s.notAccepting
}

// setAgent takes over what the store says of the agent, with the capabilities
// that the agent itself says now.
func (s *session) setAgent(a *fleet.Agent, capabilities []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cp := *a
	if capabilities != nil {
		cp.Capabilities = capabilities
	} else if s.agent != nil {
		cp.Capabilities = s.agent.Capabilities
	}
	s.agent = &cp
}

// refresh reads the agent anew; a revoked or deleted one is an error.
func (s *session) refresh(ctx context.Context) error {
	a, err := s.hub.agents.Get(ctx, s.tenant, s.agentID)
	if fault.KindOf(err) == fault.NotFound || err == nil && a.ID != s.agentID {
		return fault.New(fault.Forbidden, "agent_deleted", "agent %s was deleted", s.agentID)
	} else if err != nil {
		return nil //nolint:nilerr // the store is away; the next change or request looks again
	}
	if a.Lifecycle == api.LifecycleRevoked {
		return fault.New(fault.Forbidden, "agent_revoked", "agent %s is revoked", a.Name)
	}
	s.setAgent(a, nil)
	s.wakeUp()
	return nil
}

// resume makes the store and the agent agree on what the agent holds.
func (s *session) resume(hello *stellav1.Hello) error {
	a, _, _ := s.current()
	again, cancel, err := s.hub.tasks.Resume(s.ctx, a, refs(hello.GetHeld()))
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

func (s *session) pushTask(t *api.AgentTask) error {
	data, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode task %s: %w", t.ID, err)
	}
	s.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Task{Task: &stellav1.Task{TaskJson: data}}})
	return nil
}

// dispatch claims tasks whenever it is woken, until there are none to be had.
func (s *session) dispatch() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.woken:
		}
		for s.ctx.Err() == nil {
			a, maxTasks, notAccepting := s.current()
			if notAccepting != "" {
				break
			}
			t, err := s.hub.tasks.Next(s.ctx, a, maxTasks)
			if err == nil && t != nil {
				err = s.pushTask(t)
			}
			if err != nil {
				// A task that was claimed and not sent comes again with
				// Resume; the hub's timer wakes this session again.
				if s.ctx.Err() == nil {
					s.hub.log.ErrorContext(s.ctx, "no task was claimed", "agent", s.agentID, "error", err)
				}
				break
			}
			if t == nil {
				break
			}
		}
	}
}

// take does what a frame from the agent says.
func (s *session) take(f *stellav1.ConnectRequest) error {
	a, _, _ := s.current()
	tasks := s.hub.tasks
	switch f := f.GetFrame().(type) {
	case *stellav1.ConnectRequest_Heartbeat:
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
		s.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_LogAck{LogAck: &stellav1.LogAck{Ref: c.GetRef(), LastSeq: last}}})
		return nil
	case *stellav1.ConnectRequest_TaskResult:
		return s.result(a, f.TaskResult)
	default:
		// A frame of a newer agent: it must not depend on being understood.
		return nil
	}
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
	var caps []string
	if len(b.GetCapabilities()) > 0 {
		caps = b.GetCapabilities()
	}
	s.mu.Lock()
	freed := s.notAccepting != "" && b.GetNotAccepting() == ""
	s.notAccepting = b.GetNotAccepting()
	if caps != nil {
		cp := *s.agent
		cp.Capabilities = caps
		s.agent = &cp
	}
	s.mu.Unlock()
	s.hub.monitor.Beat(fleet.Heartbeat{
		TenantID: s.tenant, AgentID: s.agentID, At: s.hub.now(), Status: b.GetStatus(),
		NotAccepting: b.GetNotAccepting(), ResourceUsage: usage, Capabilities: caps,
	})
	if err := s.hub.tasks.Renew(s.ctx, s.agentID, refs(b.GetRunning())); err != nil {
		return err
	}
	if freed {
		s.wakeUp()
	}
	s.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_HeartbeatAck{HeartbeatAck: &stellav1.HeartbeatAck{ServerTime: timestamppb.New(s.hub.now())}}})
	return nil
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
	s.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_ResultAck{ResultAck: &stellav1.ResultAck{Ref: r.GetRef(), Accepted: accepted, Reason: reason}}})
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
