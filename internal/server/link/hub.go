// Package link holds the connections of agents on the server's side: it hands
// out tasks and commands, takes what agents report, and cuts those who are no
// longer welcome. Carriers (a WebSocket, a gRPC stream, polling, a stream of
// events) bring frames; the hub treats them alike.
//
// It knows no SQL and no REST; the rules are those of the nouns.
package link

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/bus"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/event"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

// Conn is one agent's connection over some carrier. Send is called by one
// goroutine at a time and Recv by one other.
type Conn interface {
	Send(*stellav1.ConnectResponse) error
	// Recv has the next frame taken, on whatever goroutine, and returns when it
	// is; its error is the connection's, or what take returned.
	Recv(take func(*stellav1.ConnectRequest) error) error
	// Stop makes Recv return, now and from now on. Send goes on, so that the
	// carrier can say why. It may be called at any time, and again.
	Stop()
	// Cut ends the connection without a word and unblocks a Send that the
	// agent does not take. It may be called at any time, and again.
	Cut()
	// Transport names the carrier, as in "grpc".
	Transport() string
}

// pinger is a Conn whose carrier does not notice by itself that the other end
// is gone.
type pinger interface {
	// Heard is when the agent was last heard.
	Heard() time.Time
	// Ping makes a living agent heard soon. It may block while the agent
	// takes nothing.
	Ping()
}

const (
	// sendTimeout is how long an agent may take for one frame.
	sendTimeout = 10 * time.Second
	// pingAfter and silentAfter say when an agent that says nothing is pinged,
	// and when it is taken to be gone.
	pingAfter   = 20 * time.Second
	silentAfter = 40 * time.Second
	// lookEvery is how often the hub makes up for what was lost.
	lookEvery = 2 * time.Second
)

// Options are what an installation may set.
type Options struct {
	HeartbeatInterval time.Duration
	// ServerName is told to agents.
	ServerName string
	// ReconnectRate is how many agents a second may come back after all have
	// lost the server; 0 is without a limit.
	ReconnectRate int
	// ReconnectMost bounds the time that this spreads them over; 0 is
	// without a bound.
	ReconnectMost time.Duration
	// Trust names what agents are to trust now; nil when that never changes.
	Trust func() string
	// SignedOnly: no agent is heard that does not sign.
	SignedOnly bool
}

// Opener tells every server that an agent has opened a link or a stream of
// events, so that the older one ends wherever it is.
type Opener interface {
	Opened(kind, agentID, id string)
	// Rival asks the other servers where another start of an agent comes from
	// whose link they hold and that lives; "" when there is none.
	Rival(ctx context.Context, agentID string, c fleet.Caller) (place string)
	// Publisher tells people of agents that come and go.
	event.Publisher
}

// The kinds of what an agent opens.
const (
	LinkKind   = "link"
	StreamKind = "stream"
)

// Hub holds the links of this server. It is safe for concurrent use.
type Hub struct {
	agents   *fleet.Service
	monitor  *fleet.Monitor
	tasks    *task.Service
	commands *command.Service
	others   Opener
	opts     Options
	now      func() time.Time
	log      *slog.Logger

	// base is the context of connections that outlive their request.
	base     context.Context
	stop     context.CancelFunc
	detached sync.WaitGroup
	crew     crew
	dropped  atomic.Int64 // streams whose reader was too slow
	cuts     map[string]*atomic.Int64
	settled  settling // owned by Run
	pollers  pollers

	mu       sync.Mutex          // before a session's own: who holds that does not take this
	sessions map[string]*session // by agent
	streams  map[string]*stream  // of events, by agent
	closed   bool
}

// NewHub returns a hub. Its Handlers must be given to the bus, and Run must
// run for wake-ups that were lost to be made up.
func NewHub(agents *fleet.Service, monitor *fleet.Monitor, tasks *task.Service, commands *command.Service, others Opener, opts Options, now func() time.Time, log *slog.Logger) *Hub {
	h := &Hub{
		agents: agents, monitor: monitor, tasks: tasks, commands: commands, others: others, opts: opts, now: now, log: log,
		sessions: map[string]*session{}, streams: map[string]*stream{}, cuts: newCuts(),
	}
	h.base, h.stop = context.WithCancel(context.Background())
	h.crew.hire(h.base)
	return h
}

// Handlers are what the hub does when the bus wakes it.
func (h *Hub) Handlers() bus.Handlers {
	return bus.Handlers{
		TaskQueued: h.wake, TaskCancel: h.cancel, AgentChanged: h.agentChanged,
		CommandSent: h.commandSent, Opened: h.openedElsewhere, Rival: h.rival,
	}
}

// Transport returns how an agent is connected to this server, or "".
func (h *Hub) Transport(agentID string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sessions[agentID]; s != nil {
		return s.conn.Transport()
	}
	return ""
}

// Connected reports whether an agent holds a link to this server.
func (h *Hub) Connected(agentID string) bool { return h.Transport(agentID) != "" }

// ReconnectWindow is the time over which the agents of this server spread when
// they have lost it.
func (h *Hub) ReconnectWindow() time.Duration {
	if h.opts.ReconnectRate <= 0 {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	window := time.Duration(len(h.sessions)) * time.Second / time.Duration(h.opts.ReconnectRate)
	if most := h.opts.ReconnectMost; most > 0 {
		window = min(window, most)
	}
	// In steps, so that not every agent that comes or goes is news to all.
	return window.Round(100 * time.Millisecond)
}

// renewRate is how many agents a second are to renew when the authority has
// changed: far below what a server can do, which has other work.
const renewRate = 200

// TrustSpread is the time over which the agents of this server spread their
// renewals when the authority has changed.
func (h *Hub) TrustSpread() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Second + time.Duration(len(h.sessions))*time.Second/renewRate
}

// outdatedTrust returns the present trust, and over what time to follow it, for
// an agent whose certificate is of another one; nothing otherwise.
func (h *Hub) outdatedTrust(of string) (trust string, spread time.Duration) {
	if h.opts.Trust == nil {
		return "", 0
	}
	if now := h.opts.Trust(); now != of {
		return now, h.TrustSpread()
	}
	return "", 0
}

// Run makes up, every two seconds, for wake-ups that were lost: a wake-up may
// be lost, a task or a command may not. When ctx ends, all links are closed,
// and Run returns when they are.
func (h *Hub) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			h.closeAll()
			return nil
		case <-tick.C:
		}
		h.settled.look(h.checkLinks())
		h.lookForTasks(ctx)
		h.lookForUnsent(ctx)
		h.lookForCommands(ctx)
	}
}

func (h *Hub) lookForTasks(ctx context.Context) {
	waiting, err := h.tasks.WaitingFor(ctx)
	if err != nil {
		h.log.ErrorContext(ctx, "waiting tasks were not looked up", "error", err)
		return
	}
	for _, w := range waiting {
		h.wake(w.TenantID, w.AgentID) //nolint:contextcheck // waking shared targets has a time limit of its own
	}
}

// checkLinks ends the links of agents that take nothing any more, or that are
// gone without a word. It returns how many there are.
func (h *Hub) checkLinks() (links int) {
	now := h.now()
	var ping []pinger
	h.mu.Lock()
	for _, s := range h.sessions {
		if s.stuck(now) {
			s.close(slowReader())
			continue
		}
		if why := s.proof.outlived(now); why != nil {
			s.close(why)
			continue
		}
		p, ok := s.conn.(pinger)
		if !ok {
			continue
		}
		switch silence := now.Sub(p.Heard()); {
		case silence > silentAfter:
			s.close(fault.New(fault.Unavailable, "silent", "the agent has said nothing for %s, not even to a ping: connect again", silence.Round(time.Second)))
		case silence > pingAfter:
			ping = append(ping, p)
		}
	}
	links = len(h.sessions)
	for _, s := range h.streams {
		if why := s.proof.outlived(now); why != nil {
			h.end(s, why)
		}
	}
	h.mu.Unlock()
	for _, p := range ping {
		go p.Ping()
	}
	return links
}

func (h *Hub) closeAll() {
	h.tellWindow()
	h.mu.Lock()
	h.closed = true
	for _, s := range h.sessions {
		s.close(serverStopping())
	}
	for _, s := range h.streams {
		s.Close()
	}
	h.mu.Unlock()
	h.detached.Wait() // each ends within cutAfter
	h.stop()
}

// tellWindow tells those who connected when the fleet was smaller, and have not
// beaten since, over what time to come back; they get a moment to take it.
func (h *Hub) tellWindow() {
	window := h.ReconnectWindow().Milliseconds()
	var outdated []*session
	h.mu.Lock()
	for _, s := range h.sessions {
		if s.outdated(window) {
			outdated = append(outdated, s)
		}
	}
	h.mu.Unlock()
	if len(outdated) == 0 {
		return
	}
	for _, s := range outdated {
		s.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_HeartbeatAck{HeartbeatAck: &stellav1.HeartbeatAck{
			ServerTime: timestamppb.New(h.now()), ReconnectWindowMs: window,
		}}})
	}
	<-time.After(cutAfter)
}

// detach runs a connection that has outlived its request, unless the hub is
// closing.
func (h *Hub) detach(run func(ctx context.Context)) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.detached.Go(func() { run(h.base) })
	return true
}

// wake makes the agent's session look for tasks; an empty agent stands for all
// that serve a shared target.
func (h *Hub) wake(tenant, agentID string) {
	if agentID == "" {
		go h.wakeShared(tenant)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sessions[agentID]; s != nil {
		s.wakeUp()
	}
}

// wakeShared wakes only who may have something to do: a task that no agent can
// take must not make thousands of them ask the store again and again.
func (h *Hub) wakeShared(tenant string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	serves, err := h.tasks.Shares(ctx, tenant)
	if err != nil {
		h.log.ErrorContext(ctx, "shared targets were not looked up", "error", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sessions {
		if s.tenant != tenant {
			continue
		}
		if a, _, _ := s.current(); serves(a) {
			s.wakeUp()
		}
	}
}

func (h *Hub) cancel(agentID string, ref task.Ref, reason string) {
	h.mu.Lock()
	s := h.sessions[agentID]
	h.mu.Unlock()
	if s != nil {
		s.push(cancelFrame(ref, reason))
	}
}

// add makes a session the agent's one; an older one ends. A hub that is
// closing takes none.
func (h *Hub) add(s *session) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return serverStopping()
	}
	if old := h.sessions[s.agentID]; old != nil {
		old.close(linkReplaced(s.agentID))
	}
	h.sessions[s.agentID] = s
	return nil
}

func (h *Hub) remove(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[s.agentID] == s {
		delete(h.sessions, s.agentID)
	}
}

func serverStopping() error {
	return fault.New(fault.Unavailable, "server_stopping", "the server is stopping: connect again")
}

// codeReplaced is why a link ended whose agent has opened another.
const codeReplaced = "link_replaced"

func linkReplaced(agentID string) error {
	return fault.New(fault.Conflict, codeReplaced, "a newer connection of agent %s has replaced this one", agentID)
}

// newID names a link or a stream; of two, the greater is the newer.
func newID() string {
	return uuid.Must(uuid.NewV7()).String() // there is always chance to be had
}

// openedElsewhere ends what a newer one has replaced.
func (h *Hub) openedElsewhere(kind, agentID, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sessions[agentID]; kind == LinkKind && s != nil && s.id < id {
		s.close(linkReplaced(agentID))
	}
	if s := h.streams[agentID]; kind == StreamKind && s != nil && s.id < id {
		s.Close()
	}
}
