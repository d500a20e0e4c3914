package link

import "runtime/debug"

// settling notices when a fleet has come, or gone: its handshakes leave several
// times what its agents need behind, which the runtime would give back to the
// system only slowly.
type settling struct {
	links  int // when memory was last given back
	last   int // at the last look
	steady int // looks since that have changed little
}

const (
	// settledAfter is how many looks a fleet must stay as large as it is.
	settledAfter = 5
	// settleFrom is how many links must have come or gone for it to be worth a
	// collection of the whole heap.
	settleFrom = 500
)

// look is told how many links there are.
func (s *settling) look(links int) {
	if s.due(links) {
		go debug.FreeOSMemory()
	}
}

// due reports whether a fleet has just settled.
func (s *settling) due(links int) bool {
	moved := abs(links-s.last) > max(links, s.last)/50
	s.last = links
	if moved {
		s.steady = 0
		return false
	}
	if s.steady++; s.steady != settledAfter || abs(links-s.links) < settleFrom {
		return false
	}
	s.links = links
	return true
}

func abs(n int) int { return max(n, -n) }
