package link

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

// session is one agent's link while it lasts.
//
// Ten thousand agents that say nothing must cost little, so that a session has
// one goroutine, its carrier's, which reads; writing and claiming tasks have one
// each for as long as there is something to write or claim.
type session struct {
	hub     *Hub
	conn    Conn
	id      string // of this session, on whatever server
	tenant  string
	agentID string
	proof   *proof
	vouched *vouched // nil when the hello was not signed
	caller  fleet.Caller
	// awaited is told when the agent says anything; nil when nobody waits for that.
	awaited atomic.Pointer[chan struct{}]
	ctx     context.Context // ends with the session
	cancel  context.CancelCauseFunc
	atWork  sync.WaitGroup // the writer and the dispatcher
	// sending is when the frame that is under way was begun, in Unix
	// nanoseconds; 0 when none is.
	sending atomic.Int64

	// claiming is held while a task is claimed or handed out again, so that an
	// agent that says it takes none gets none once that is acknowledged, and that
	// none goes out twice. It comes before all other locks.
	claiming sync.Mutex

	holding sync.Mutex
	left    bool // the connection is its carrier's again

	mu           sync.Mutex
	ended        bool         // nobody sets to work any more
	agent        *fleet.Agent // replaced, never altered
	maxTasks     int
	notAccepting string
	commands     bool             // the agent takes commands here
	partial      bool             // the agent does not name all that it holds
	pushed       []string         // the last commands that went this way
	given        map[string]int64 // the attempts that went out here or were named, by task, until they end
	acks         int              // answers to commands that wait for the store
	window       int64            // the reconnect window as the agent knows it

	queue       []outgoing // to be written
	writing     bool       // somebody writes
	woken       bool       // there may be tasks
	dispatching bool       // somebody claims tasks
}

// outgoing is a frame that is to be written.
type outgoing struct {
	frame   *stellav1.ConnectResponse // nil for a command
	command *command.Outgoing
}

// content is the frame. A command's is made, and signed for its agent, when it
// is written: by many at a time, when it is for a fleet.
func (f outgoing) content(agentID string) *stellav1.ConnectResponse {
	if f.command == nil {
		return f.frame
	}
	return &stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Command{Command: &stellav1.Command{CommandJson: f.command.JSON(agentID)}}}
}

const (
	// cutAfter is how long a frame that is under way may take when a link ends.
	cutAfter = 500 * time.Millisecond
	// maxQueue is how many frames may wait for an agent that does not read.
	maxQueue = 64
)

// Serve runs an agent's link until it ends, and returns why, as a fault that
// the carrier may show; nil when the agent has left. Without a binding, a signed
// hello is refused.
func (h *Hub) Serve(ctx context.Context, agent *fleet.Agent, conn Conn, b *Binding) error {
	// In parts, so that the stack on which a silent agent is waited for is
	// small.
	var s *session
	err := conn.Recv(func(first *stellav1.ConnectRequest) error {
		hello, err := h.greet(ctx, agent, conn, first, b)
		if err == nil {
			s, err = h.open(ctx, agent, conn, hello)
		}
		return err
	})
	if err != nil {
		return knownOnly(err) // refused, or gone before it said anything
	}
	s.read()
	return s.leave(ctx)
}

// open makes a link known whose hello is good, unless another host works with the
// agent's identity.
func (h *Hub) open(ctx context.Context, agent *fleet.Agent, conn Conn, hello *greeting) (*session, error) {
	if err := h.Sole(ctx, agent, hello.caller); err != nil {
		return nil, err
	}
	s := &session{
		hub: h, conn: conn, id: newID(), tenant: agent.TenantID, agentID: agent.ID, window: h.ReconnectWindow().Milliseconds(),
		maxTasks: int(hello.GetMaxConcurrentTasks()), commands: hello.GetCommands(), partial: hello.GetPartial(),
		notAccepting: hello.GetNotAccepting(), proof: proofOf(agent), vouched: hello.vouched, caller: hello.caller, given: map[string]int64{},
	}
	// Nothing is claimed or handed out again before it is known what the agent
	// holds: it would go out twice.
	s.dispatching = true
	s.claiming.Lock()
	defer s.claiming.Unlock()
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.setAgent(agent, hello.GetCapabilities())
	if err := h.add(s); err != nil {
		s.cancel(err)
		return nil, err
	}
	h.others.Opened(LinkKind, s.agentID, s.id)
	h.tell(s, api.EventAgentConnected, conn.Transport())
	h.log.InfoContext(ctx, "agent connected", "agent", agent.ID, "name", agent.Name, "transport", conn.Transport(), "version", hello.GetVersion())

	trust, spread := h.outdatedTrust(s.proof.trust)
	s.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Welcome{Welcome: &stellav1.Welcome{
		HeartbeatIntervalMs: h.opts.HeartbeatInterval.Milliseconds(), ServerTime: timestamppb.New(h.now()),
		Server: h.opts.ServerName, ReconnectWindowMs: s.window, Trust: trust, TrustSpreadMs: spread.Milliseconds(), KeyShare: hello.share,
	}}})
	h.monitor.Beat(fleet.Heartbeat{
		TenantID: s.tenant, AgentID: s.agentID, At: h.now(), Status: agent.ReportedStatus, NotAccepting: hello.GetNotAccepting(),
		Transport: conn.Transport(), Capabilities: hello.GetCapabilities(), Signed: hello.number, Instance: hello.caller.Instance,
	})
	// What happened to it between its handshake and now, nobody has told this
	// link, which was not there yet.
	err := s.refresh(ctx)
	if err == nil && s.ctx.Err() == nil {
		err = s.resume(hello.GetHeld())
	}
	if err != nil {
		s.close(err)
	}
	s.mu.Lock()
	s.dispatching = false
	s.mu.Unlock()
	s.wakeUp()
	return s, nil
}

// leave waits until nobody uses the connection, which is its carrier's again
// then, and returns what is to be told to the agent.
func (s *session) leave(ctx context.Context) error {
	s.atWork.Wait()
	s.hub.remove(s)
	s.holding.Lock()
	s.left = true
	s.holding.Unlock()
	reason := context.Cause(s.ctx) //nolint:contextcheck // the session's own context says why it ended
	s.hub.log.InfoContext(ctx, "agent disconnected", "agent", s.agentID, "reason", reason)
	said := ""
	if f := fault.As(reason); f != nil {
		said = f.Message
	}
	if f := fault.As(reason); f == nil || f.Code != codeReplaced {
		s.hub.tell(s, api.EventAgentDisconnected, said) // the agent has another link otherwise
	}
	return knownOnly(reason)
}

func checkHello(hello *stellav1.Hello) error {
	if hello == nil {
		return fault.New(fault.Invalid, "hello_expected", "the first frame of a link must be a hello")
	}
	if v := hello.GetProtocolVersion(); v < api.MinProtocolVersion || v > api.ProtocolVersion {
		return fault.New(fault.UnsupportedVersion, "protocol_version",
			"protocol version %d is not spoken here: this server speaks %d to %d", v, api.MinProtocolVersion, api.ProtocolVersion)
	}
	return fleet.ValidateCapabilities("hello.capabilities", hello.GetCapabilities())
}

// knownOnly keeps a fault and forgets what else ended a connection: that is the
// agent's leave.
func knownOnly(err error) error {
	if f := fault.As(err); f != nil {
		return f
	}
	return nil
}

func (h *Hub) tell(s *session, kind, reason string) {
	a, _, _ := s.current()
	h.others.Publish(s.tenant, api.Event{At: h.now(), Kind: kind, AgentID: a.ID, AgentName: a.Name, Reason: reason})
}

// close ends the session; the first reason stands. Who reads nothing, or says
// nothing, must not hold up his own end.
func (s *session) close(reason error) {
	s.cancel(reason)
	s.mu.Lock()
	first := !s.ended
	s.ended = true
	s.mu.Unlock()
	if first {
		s.hub.countCut(reason)
		s.end(s.conn.Stop)
		time.AfterFunc(cutAfter, func() { s.end(s.conn.Cut) })
	}
}

// end does something to the connection, unless it is its carrier's again.
func (s *session) end(how func()) {
	s.holding.Lock()
	defer s.holding.Unlock()
	if !s.left {
		how()
	}
}

// read takes frames until the connection or the session ends.
func (s *session) read() {
	for {
		if err := s.conn.Recv(s.take); err != nil {
			s.close(err)
			return
		}
	}
}

// push queues a frame and has it written. An agent that does not read what it
// is sent is cut: it will connect again and be told everything anew.
func (s *session) push(f *stellav1.ConnectResponse) {
	if s.enqueue(outgoing{frame: f}) {
		s.hub.crew.start(s.write)
	}
}

// reply is push for the reader's own goroutine, which writes the frame itself
// when nobody else is at it.
func (s *session) reply(f *stellav1.ConnectResponse) {
	if s.enqueue(outgoing{frame: f}) {
		s.write()
	}
}

// enqueue reports whether the caller has to see to it that write runs.
func (s *session) enqueue(f outgoing) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return false
	case len(s.queue) >= maxQueue:
		go s.close(slowReader()) // not under the lock
		return false
	}
	s.queue = append(s.queue, f)
	if s.writing {
		return false
	}
	s.writing = true
	s.atWork.Add(1)
	return true
}

func slowReader() error {
	return fault.New(fault.Unavailable, "slow_reader", "the agent reads too slowly: connect again")
}

// write sends what is queued, and returns when nothing is.
func (s *session) write() {
	defer s.atWork.Done()
	for {
		s.mu.Lock()
		batch := s.queue
		s.queue = nil
		if len(batch) == 0 || s.ended {
			s.writing = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		for _, f := range batch {
			s.sending.Store(s.hub.now().UnixNano())
			err := s.conn.Send(f.content(s.agentID))
			s.sending.Store(0)
			if err != nil {
				s.close(fmt.Errorf("send: %w", err))
				break // the next round ends the writing
			}
			if f.command != nil {
				s.hub.commands.Delivered(s.tenant, f.command.ID, s.agentID)
			}
		}
	}
}

// stuck reports whether a frame has been under way for too long.
func (s *session) stuck(now time.Time) bool {
	began := s.sending.Load()
	return began != 0 && now.UnixNano()-began > int64(sendTimeout)
}

// wakeUp has tasks looked for.
func (s *session) wakeUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken = true
	if s.dispatching || s.ended {
		return
	}
	s.dispatching = true
	s.atWork.Go(s.dispatch)
}

// dispatch claims tasks until there are none to be had, and returns.
func (s *session) dispatch() {
	for {
		s.mu.Lock()
		if !s.woken || s.ended {
			s.dispatching = false
			s.mu.Unlock()
			return
		}
		s.woken = false
		s.mu.Unlock()
		for s.ctx.Err() == nil {
			more, err := s.claim()
			if err != nil && s.ctx.Err() == nil {
				// The hub's timer wakes this session again, and finds a task
				// that was claimed and not sent.
				s.hub.log.ErrorContext(s.ctx, "no task was claimed", "agent", s.agentID, "error", err)
			}
			if !more || err != nil {
				break
			}
		}
	}
}

func (s *session) claim() (more bool, err error) {
	s.claiming.Lock()
	defer s.claiming.Unlock()
	a, maxTasks, notAccepting := s.current()
	if notAccepting != "" {
		return false, nil
	}
	t, err := s.hub.tasks.Next(s.ctx, a, maxTasks)
	if err != nil || t == nil {
		return false, err
	}
	return true, s.pushTask(t)
}

// pushTask sends an attempt. The caller holds claiming.
func (s *session) pushTask(t *api.AgentTask) error {
	data, signature, err := s.hub.tasks.Signed(t)
	if err != nil {
		return err
	}
	s.give(task.Ref{ID: t.ID, Attempt: t.Attempt})
	s.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Task{Task: &stellav1.Task{TaskJson: data, Signature: signature}}})
	return nil
}

// give notes attempts that went out over this link, or that the agent has named.
func (s *session) give(refs ...task.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range refs {
		s.given[r.ID] = max(s.given[r.ID], r.Attempt)
	}
}

// has reports whether an attempt, or a later one, was noted.
func (s *session) has(r task.Ref) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given[r.ID] >= r.Attempt
}

// current returns the agent as this session knows it.
func (s *session) current() (a *fleet.Agent, maxTasks int, notAccepting string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.agent, s.maxTasks, s.notAccepting
}

// outdated reports whether the agent knows a shorter reconnect window, and takes
// it that it is told of this one.
func (s *session) outdated(window int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if window <= s.window {
		return false
	}
	s.window = window
	return true
}

// setAgent takes over what the store says of the agent, with the capabilities
// that the agent itself says now.
func (s *session) setAgent(a *fleet.Agent, capabilities []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cp := *a
	// What the link proves itself by, whatever the agent has got since.
	cp.CertificateFingerprint, cp.CertificateNotAfter, cp.Trust = s.proof.fingerprint, s.proof.notAfter, s.proof.trust
	if s.agent != nil && (capabilities == nil || slices.Equal(capabilities, s.agent.Capabilities)) {
		capabilities = s.agent.Capabilities
	}
	if capabilities != nil {
		cp.Capabilities = capabilities
	}
	s.agent = &cp
}

// refresh reads the agent anew, and ends the session of one that is not welcome
// any more. An error says that the store could not be asked.
func (s *session) refresh(ctx context.Context) error {
	a, unwelcome, err := s.hub.look(ctx, s.proof)
	if err == nil && unwelcome == nil {
		unwelcome = s.mayStay(a)
	}
	switch {
	case err != nil:
		return err
	case unwelcome != nil:
		s.close(unwelcome)
		return nil
	}
	s.setAgent(a, nil)
	s.wakeUp()
	return nil
}
