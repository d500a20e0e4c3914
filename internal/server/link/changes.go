package link

import (
	"context"
	"time"

	"stella-ops.org/stella/internal/fleet"
)

var _ fleet.Watcher = (*Hub)(nil)

// agentChanged looks at an agent again, outside the bus's goroutine. When the store
// cannot be asked, AgentsChanged finds the change.
func (h *Hub) agentChanged(_, agentID string) {
	if !h.reaches(agentID) {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(h.base, 10*time.Second)
		defer cancel()
		if err := h.lookAgain(ctx, agentID); err != nil {
			h.log.WarnContext(ctx, "an agent that has changed was not looked at, and is again", "agent", agentID, "error", err)
		}
	}()
}

// AgentsChanged implements fleet.Watcher: it looks again at those of the agents
// that are connected here, and ends the links and streams of those that are not
// welcome any more. The bus told of them already, if it lost nothing.
func (h *Hub) AgentsChanged(ctx context.Context, changes []fleet.Change) error {
	looked := map[string]bool{}
	for _, c := range changes {
		if looked[c.AgentID] {
			continue
		}
		looked[c.AgentID] = true
		if err := h.lookAgain(ctx, c.AgentID); err != nil {
			return err
		}
	}
	return nil
}

// AllAgentsChanged implements fleet.Watcher.
func (h *Hub) AllAgentsChanged(ctx context.Context) error {
	h.mu.Lock()
	connected := make([]string, 0, len(h.sessions)+len(h.streams))
	for id := range h.sessions {
		connected = append(connected, id)
	}
	for id := range h.streams {
		connected = append(connected, id)
	}
	h.mu.Unlock()
	for _, id := range connected {
		if err := h.lookAgain(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// lookAgain reads an agent that is connected here anew. An error says that the
// store could not be asked.
func (h *Hub) lookAgain(ctx context.Context, agentID string) error {
	h.mu.Lock()
	s, stream := h.sessions[agentID], h.streams[agentID]
	h.mu.Unlock()
	if s != nil {
		if err := s.refresh(ctx); err != nil {
			return err
		}
	}
	if stream == nil {
		return nil
	}
	_, unwelcome, err := h.look(ctx, stream.proof)
	if unwelcome != nil {
		h.end(stream, unwelcome)
	}
	return err
}
