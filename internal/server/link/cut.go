package link

import (
	"sync/atomic"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

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
