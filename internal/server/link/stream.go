package link

import (
	"context"
	"slices"
	"sync"
	"time"

	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/server/live"
)

// stream is an agent's stream of events while it lasts: commands, for agents
// that hold no link. An agent has one; a newer one, on whatever server, ends
// the older.
type stream struct {
	*live.Stream
	tenant  string
	agentID string
	id      string
	opened  time.Time
	proof   *proof

	mu     sync.Mutex
	pushed []string // the last commands that went this way
}

// maxStreamQueue is how many events may wait for a stream's reader.
const maxStreamQueue = 64

// OpenStream opens an agent's stream of events. The caller reads it until it is
// done, and ends it with leave; slow says that its reader took nothing in time.
func (h *Hub) OpenStream(ctx context.Context, a *fleet.Agent) (events *live.Stream, leave func(slow bool), err error) {
	s := &stream{Stream: live.NewStream(maxStreamQueue), tenant: a.TenantID, agentID: a.ID, id: newID(), opened: h.now(), proof: proofOf(a)}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, nil, serverStopping()
	}
	if old := h.streams[a.ID]; old != nil {
		old.Close()
	}
	h.streams[a.ID] = s
	h.mu.Unlock()
	// What happened to it between its handshake and now, nobody has told it.
	_, unwelcome, err := h.look(ctx, s.proof)
	if unwelcome != nil {
		err = unwelcome
	}
	if err != nil {
		h.leave(s, false)
		return nil, nil, err
	}
	h.others.Opened(StreamKind, a.ID, s.id)
	return s.Stream, func(slow bool) { h.leave(s, slow) }, nil
}

func (h *Hub) leave(s *stream, slow bool) {
	if slow {
		h.drop(s)
	}
	s.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams[s.agentID] == s {
		delete(h.streams, s.agentID)
	}
}

// Streaming reports whether an agent holds a stream of events to this server.
func (h *Hub) Streaming(agentID string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.streams[agentID] != nil
}

// offer queues a command. A reader that is too slow is dropped: it connects
// again, and asks for what is pending.
func (h *Hub) offer(s *stream, c *command.Outgoing) {
	s.mu.Lock()
	again := slices.Contains(s.pushed, c.ID)
	s.pushed = remember(s.pushed, c.ID)
	s.mu.Unlock()
	sent := func() { h.commands.Delivered(c.TenantID, c.ID, s.agentID) }
	if !again && !s.Offer(live.Event{Type: c.Type, Data: c.JSON(s.agentID), Sent: sent}) {
		h.drop(s)
	}
}

// drop ends the stream of a reader that is too slow, and counts it.
func (h *Hub) drop(s *stream) {
	if !s.Close() {
		return
	}
	n := h.dropped.Add(1)
	h.log.Warn("an agent reads its events too slowly: its stream was ended, it can connect again", "agent", s.agentID, "dropped", n)
}

// Dropped is how many streams were ended for their readers' slowness.
func (h *Hub) Dropped() int64 { return h.dropped.Load() }
