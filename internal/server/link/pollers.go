package link

import (
	"sync"
	"time"

	"stella-ops.org/stella/internal/fleet"
)

// pollers are the agents that poll this server, as far as they say which start of
// theirs does. It is safe for concurrent use.
type pollers struct {
	mu    sync.Mutex
	known map[string]*poller // by agent
	swept time.Time
}

// poller is what is known of the instances of one agent.
type poller struct {
	holder   fleet.Caller // who works with the identity
	at       time.Time    // when it was last heard
	replaced string       // the instance before it: should that come back, there are two
	held     string       // the instance that is held off
}

// heard takes what one that polls has said, and returns where the one comes from
// for which it is held off, or "".
func (p *pollers) heard(agentID string, c fleet.Caller, now time.Time, silent time.Duration) (kept string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(now)
	k := p.known[agentID]
	switch {
	case k == nil:
		k = &poller{}
		p.known[agentID] = k
	case c.Instance == k.holder.Instance:
	case c.Instance == k.replaced:
		// The older one was there all the time.
		k.held, k.replaced = k.holder.Instance, ""
	case c.Instance == k.held && now.Sub(k.at) < silent:
		return k.holder.Place
	default:
		if c.Instance == k.held {
			k.held = "" // the one for which it was held off is gone
		}
		k.replaced = k.holder.Instance
	}
	k.holder, k.at = c, now
	return ""
}

// rival says where another instance comes from for which this one is held off; it
// changes nothing.
func (p *pollers) rival(agentID string, c fleet.Caller, now time.Time, silent time.Duration) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.known[agentID]; k != nil && c.Instance == k.held && now.Sub(k.at) < silent {
		return k.holder.Place
	}
	return ""
}

// sweep forgets who was not heard for long.
func (p *pollers) sweep(now time.Time) {
	if p.known == nil {
		p.known = map[string]*poller{}
	}
	if now.Sub(p.swept) < pollersKept/10 {
		return
	}
	p.swept = now
	for id, k := range p.known {
		if now.Sub(k.at) > pollersKept {
			delete(p.known, id)
		}
	}
}
