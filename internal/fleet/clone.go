package fleet

import (
	"context"
	"fmt"
	"net"
	"time"

	"stella-ops.org/stella/api"
)

// Clone says that a second host uses an agent's identity: its disk, or its data
// folder, was copied. Only one of the two may work.
type Clone struct {
	SeenAt time.Time // when the second was held off last
	// Held and Kept say where the one comes from that was held off, and the one
	// that works.
	Held, Kept string
}

// Caller is one start of an agent, as it says of itself.
type Caller struct {
	// Instance is a UUID of this start; empty for agents that say none. Those are
	// not told apart.
	Instance string `json:"i,omitempty"`
	// Boot counts the starts, as the agent keeps it on its disk; 0 when it did not
	// say.
	Boot int64 `json:"b,omitempty"`
	// Place is where it comes from, for people: see [Place].
	Place string `json:"-"`
}

const (
	// cloneShown is how long an agent is shown as cloned after the second host was
	// heard last: longer than that waits before it tries again.
	cloneShown = 10 * time.Minute
	// cloneNoted is how often the same is written at the most.
	cloneNoted = 10 * time.Second
)

// Place is where an agent comes from, as people look for it.
func Place(host, address string) string {
	switch {
	case host == "":
		return address
	case address == "":
		return host
	}
	return host + " (" + address + ")"
}

// Address is the host of a host and port.
func Address(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}

// Cloned notes that a second host with an agent's identity was held off, for
// people to see. It is told as an event when it is news.
func (s *Service) Cloned(ctx context.Context, a *Agent, held, kept string) error {
	now := s.now()
	s.cloneMu.Lock()
	last, known := s.clones[a.ID]
	again := known && now.Sub(last.SeenAt) < cloneNoted && last.Held == held && last.Kept == kept
	if !again {
		for id, c := range s.clones {
			if now.Sub(c.SeenAt) > cloneShown {
				delete(s.clones, id)
			}
		}
		s.clones[a.ID] = Clone{SeenAt: now, Held: held, Kept: kept}
	}
	s.cloneMu.Unlock()
	if again {
		return nil
	}
	if err := s.store.NoteClone(ctx, a.TenantID, a.ID, Clone{SeenAt: now, Held: held, Kept: kept}, now.Add(-24*time.Hour)); err != nil {
		return err
	}
	if !known || now.Sub(last.SeenAt) > cloneShown {
		s.notify.Publish(a.TenantID, api.Event{
			At: now, Kind: api.EventAgentCloned, AgentID: a.ID, AgentName: a.Name,
			Reason: fmt.Sprintf("%s is held off, for %s works with the same identity", held, kept),
		})
	}
	return nil
}

// WithClones says of agents of one tenant which of them are cloned.
func (s *Service) WithClones(ctx context.Context, tenant string, agents ...*Agent) error {
	clones, err := s.store.Clones(ctx, tenant, s.now().Add(-cloneShown))
	if err != nil {
		return err
	}
	for _, a := range agents {
		if c, ok := clones[a.ID]; ok {
			a.Clone = &c
		}
	}
	return nil
}
