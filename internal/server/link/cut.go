package link

import (
	"context"
	"sync/atomic"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// standing looks at an agent that is connected again. An error, a fault, says
// why it may not be any more. While the store is away it may, and the agent is
// nil; the next change or request looks again.
func (h *Hub) standing(ctx context.Context, tenant string, p *proof) (*fleet.Agent, error) {
	a, err := h.agents.Get(ctx, tenant, p.agentID)
	if fault.KindOf(err) == fault.NotFound || err == nil && a.ID != p.agentID {
		return nil, fault.New(fault.Forbidden, "agent_deleted", "agent %s was deleted", p.agentID)
	} else if err != nil {
		return nil, nil //nolint:nilerr // as above
	}
	if a.Lifecycle == api.LifecycleRevoked {
		return nil, fault.New(fault.Forbidden, "agent_revoked", "agent %s is revoked", a.Name)
	}
	return a, h.look(ctx, p)
}

// end ends a stream of events whose agent may not be connected any more.
func (h *Hub) end(s *stream, why error) {
	if s.Close() {
		h.countCut(why)
	}
}

// newCuts has a count for each reason to put out an agent that was let in: by
// its code.
func newCuts() map[string]*atomic.Int64 {
	return map[string]*atomic.Int64{
		"agent_revoked": {}, "agent_deleted": {}, "certificate_revoked": {}, api.CodeCertificateExpired: {},
	}
}

func (h *Hub) countCut(why error) {
	if n := h.cuts[fault.CodeOf(why)]; n != nil {
		n.Add(1)
	}
}

// Cuts is how many links and streams of events were ended because their agent
// was revoked or deleted, or their certificate has ended or was replaced; by the
// code of the reason.
func (h *Hub) Cuts() map[string]int64 {
	out := make(map[string]int64, len(h.cuts))
	for code, n := range h.cuts {
		out[code] = n.Load()
	}
	return out
}
