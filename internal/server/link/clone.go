package link

import (
	"context"
	"strings"
	"time"

	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// Two hosts with one identity, because a disk was copied, would take each other's
// tasks. What tells them from one host that was restarted: every start of an agent
// has an instance of its own, and one that was replaced never comes back. So when a
// newer instance appears, the older one is asked for a sign of life; one that lives
// keeps the identity, and the newer one is held off. It comes back by itself and is
// let in when the older one is gone.

const (
	// answerWithin is how long an older instance has to show that it lives. Its link
	// may be half dead: the host was restarted, and must not wait for long.
	answerWithin = 500 * time.Millisecond
	// answerPatiently is for a newer instance that cannot be a restart of the
	// older one, for its counter is not above.
	answerPatiently = 3 * time.Second
	// pollersKept is how long one that polls is known after it was last heard.
	pollersKept = 10 * time.Minute
)

// inUse is the fault of who is held off. What is to be done stands first: a close
// frame has room for little.
func inUse(a *fleet.Agent, kept string) error {
	return fault.New(fault.Conflict, "identity_in_use",
		"a second host; on the copy, stop the agent, remove its data folder and bootstrap it anew: %s works as agent %s; when that one is stopped, this one is let in", kept, a.Name)
}

// Sole returns nil when nobody else works with an agent's identity, and a fault of
// kind Conflict otherwise, which is noted for people to see. It blocks for as long as
// the other one may take to show that it lives.
func (h *Hub) Sole(ctx context.Context, a *fleet.Agent, c fleet.Caller) error {
	if c.Instance == "" {
		return nil
	}
	kept := h.rival(a.ID, c)
	if kept == "" && a.Instance != "" && a.Instance != c.Instance {
		kept = h.others.Rival(ctx, a.ID, c) // a new start, and the older one may have its link elsewhere
	}
	if kept == "" {
		kept = h.pollers.rival(a.ID, c, h.now(), h.silentPoller())
	}
	return h.heldOff(ctx, a, c, kept)
}

// Polled is Sole for one that has asked for its tasks. It cannot be asked for a
// sign of life, but who asks again after another one has asked was not replaced by
// it.
func (h *Hub) Polled(ctx context.Context, a *fleet.Agent, c fleet.Caller) error {
	if c.Instance == "" {
		return nil
	}
	kept := h.rival(a.ID, c)
	if kept == "" {
		kept = h.pollers.heard(a.ID, c, h.now(), h.silentPoller())
	}
	return h.heldOff(ctx, a, c, kept)
}

func (h *Hub) silentPoller() time.Duration { return 3 * h.opts.HeartbeatInterval }

func (h *Hub) heldOff(ctx context.Context, a *fleet.Agent, c fleet.Caller, kept string) error {
	if kept == "" {
		return nil
	}
	h.log.WarnContext(ctx, "two hosts have one identity: the newer one is held off", "agent", a.ID, "name", a.Name, "held", c.Place, "kept", kept)
	if err := h.agents.Cloned(ctx, a, c.Place, kept); err != nil {
		h.log.ErrorContext(ctx, "a clone was not noted", "agent", a.ID, "error", err)
	}
	return inUse(a, kept)
}

// rival says where another instance comes from whose link this server holds and
// that lives; "" when there is none.
func (h *Hub) rival(agentID string, c fleet.Caller) string {
	h.mu.Lock()
	s := h.sessions[agentID]
	h.mu.Unlock()
	if s == nil || s.caller.Instance == "" || s.caller.Instance == c.Instance {
		return ""
	}
	patience := answerWithin
	if c.Boot != 0 && c.Boot <= s.caller.Boot {
		patience = answerPatiently
	}
	if !s.lives(patience) {
		s.close(linkReplaced(agentID))
		return ""
	}
	return s.caller.Place
}

// callerOf is what a hello says of the start of the agent.
func callerOf(hello *stellav1.Hello, b *Binding) fleet.Caller {
	c := fleet.Caller{Instance: hello.GetInstance(), Boot: hello.GetBoot(), Place: clip(hello.GetHost())}
	if b != nil {
		c.Place = fleet.Place(clip(hello.GetHost()), fleet.Address(b.Remote))
	}
	return c
}

// clip bounds what an agent says of itself where people read it.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 255)], "") }

// lives asks the agent for a heartbeat, and reports whether it says anything
// within a while.
func (s *session) lives(within time.Duration) bool {
	heard := make(chan struct{}, 1)
	s.awaited.Store(&heard)
	s.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_HeartbeatWanted{HeartbeatWanted: &stellav1.HeartbeatWanted{}}})
	patience := time.NewTimer(within)
	defer patience.Stop()
	select {
	case <-heard:
		return true
	case <-patience.C:
	case <-s.ctx.Done():
	}
	return false
}

// heard tells who waits for a sign of life.
func (s *session) heard() {
	if w := s.awaited.Load(); w != nil && s.awaited.CompareAndSwap(w, nil) {
		*w <- struct{}{}
	}
}
