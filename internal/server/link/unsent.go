package link

import (
	"context"

	"stella-ops.org/stella/internal/task"
)

// A link that ends may have claimed a task that it cannot send any more, when the
// link that has taken its place, here or on another server, has asked already what
// its agent was given. So each server looks, every two seconds, for attempts that
// were given to agents and not begun: a link over which one of its agent's did not
// go, and whose agent has not named it, sends it. It need not be known how the
// attempt was lost.

// lookForUnsent sends what links that ended have left behind.
func (h *Hub) lookForUnsent(ctx context.Context) {
	assigned, err := h.tasks.Assigned(ctx)
	if err != nil {
		h.log.ErrorContext(ctx, "tasks that were not begun were not looked up", "error", err)
		return
	}
	mine := map[*session][]task.Ref{}
	h.mu.Lock()
	for _, a := range assigned {
		if s := h.sessions[a.AgentID]; s != nil && s.tenant == a.TenantID {
			mine[s] = append(mine[s], a.Ref)
		}
	}
	h.mu.Unlock()
	for s, refs := range mine {
		if err := s.sendAgain(refs); err != nil && s.ctx.Err() == nil {
			h.log.ErrorContext(ctx, "a task that was lost on its way was not sent again, and is tried again", "agent", s.agentID, "error", err)
		}
	}
}

// sendAgain sends those of the attempts that did not go out over this link, and
// that the agent has not named.
func (s *session) sendAgain(refs []task.Ref) error {
	if !s.claiming.TryLock() {
		return nil // what is being claimed now goes out now; the next look sees to the rest
	}
	defer s.claiming.Unlock()
	a, _, notAccepting := s.current()
	if notAccepting != "" {
		return nil
	}
	for _, ref := range refs {
		if s.has(ref) {
			continue
		}
		t, err := s.hub.tasks.Again(s.ctx, a, ref)
		if err != nil {
			return err
		}
		if t == nil {
			continue
		}
		s.hub.log.WarnContext(s.ctx, "a task was lost with the link before this one, and is sent again", "agent", s.agentID, "task", ref.ID, "attempt", ref.Attempt)
		if err := s.pushTask(t); err != nil {
			return err
		}
	}
	return nil
}
