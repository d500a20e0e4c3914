// Package link holds the connections of agents on the server's side: it hands
// out tasks, takes what agents report, and cuts those who are no longer
// welcome. Carriers (a gRPC stream, polling) bring frames; the hub treats them
// alike.
//
// It knows no SQL and no REST; the rules are those of the nouns.
package link

import (
	"context"
	"log/slog"
	"sync"
	"time"

	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/bus"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

// Conn is one agent's connection over some carrier. Send is called by one
// goroutine at a time and Recv by one other. When Serve returns, the carrier
// ends the connection, which must unblock Recv.
type Conn interface {
	Send(*stellav1.ConnectResponse) error
	Recv() (*stellav1.ConnectRequest, error)
	// Cut ends the connection without a word and unblocks a Send that the
	// agent does not take.
	Cut()
	// Transport names the carrier, as in "grpc".
	Transport() string
}

// Options are what an installation may set.
type Options struct {
	HeartbeatInterval time.Duration
	// ServerName is told to agents.
	ServerName string
}

// Hub holds the links of this server. It is safe for concurrent use.
type Hub struct {
	agents  *fleet.Service
	monitor *fleet.Monitor
	tasks   *task.Service
	opts    Options
	now     func() time.Time
	log     *slog.Logger

	mu       sync.Mutex
	sessions map[string]*session // by agent
	closed   bool
}

// NewHub returns a hub. Its Handlers must be given to the bus, and Run must
// run for wake-ups that were lost to be made up.
func NewHub(agents *fleet.Service, monitor *fleet.Monitor, tasks *task.Service, opts Options, now func() time.Time, log *slog.Logger) *Hub {
	return &Hub{agents: agents, monitor: monitor, tasks: tasks, opts: opts, now: now, log: log, sessions: map[string]*session{}}
}

// Handlers are what the hub does when the bus wakes it.
func (h *Hub) Handlers() bus.Handlers {
	return bus.Handlers{TaskQueued: h.wake, TaskCancel: h.cancel, AgentChanged: h.agentChanged}
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

// Connected reports whether an agent holds a stream to this server.
func (h *Hub) Connected(agentID string) bool { return h.Transport(agentID) != "" }

// Run wakes, every two seconds, the links for which tasks wait: a wake-up may
// be lost, a task may not. When ctx ends, all links are closed.
func (h *Hub) Run(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			h.closeAll()
			return nil
		case <-tick.C:
		}
		waiting, err := h.tasks.WaitingFor(ctx)
		if err != nil {
			h.log.ErrorContext(ctx, "waiting tasks were not looked up", "error", err)
			continue
		}
		for _, w := range waiting {
			h.wake(w.TenantID, w.AgentID) //nolint:contextcheck // waking shared targets has a time limit of its own
		}
	}
}

func (h *Hub) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, s := range h.sessions {
		s.close(fault.New(fault.Unavailable, "server_stopping", "the server is stopping: connect again"))
	}
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

// agentChanged looks at an agent again, outside the bus's goroutine.
func (h *Hub) agentChanged(tenant, agentID string) {
	h.mu.Lock()
	s := h.sessions[agentID]
	h.mu.Unlock()
	if s == nil {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.refresh(ctx); err != nil {
			s.close(err)
		}
	}()
}

// add makes a session the agent's one; an older one ends. A hub that is
// closing takes none.
func (h *Hub) add(s *session) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fault.New(fault.Unavailable, "server_stopping", "the server is stopping: connect again")
	}
	if old := h.sessions[s.agentID]; old != nil {
		old.close(fault.New(fault.Conflict, "link_replaced", "a newer connection of agent %s has replaced this one", s.agentID))
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
