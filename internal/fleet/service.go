package fleet

import (
	"context"
	"sync"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/event"
	"stella-ops.org/stella/internal/fault"
)

// Transition is one change of an agent's liveness.
type Transition struct {
	TenantID string
	AgentID  string
	Name     string
	To       api.Liveness
	At       time.Time
}

// Store keeps agents. Every method is atomic, and safe for concurrent use by
// many servers. A missing agent is a fault of kind NotFound.
type Store interface {
	// Agent returns the agent with that id, or else with that name.
	Agent(ctx context.Context, tenant, idOrName string) (*Agent, error)
	// Agents returns a page of agents, in the order of their ids unless the
	// filter says another.
	Agents(ctx context.Context, tenant string, f Filter) ([]*Agent, error)
	// UpdateAgent replaces labels and capabilities (what the agent may offer,
	// and what it has until it is heard again) where they are not nil.
	UpdateAgent(ctx context.Context, tenant, id string, labels *map[string]string, capabilities *[]string, at time.Time) error
	// SetLifecycle changes the life cycle from one of the given states and
	// reports whether it did; to the same state it reports false.
	SetLifecycle(ctx context.Context, tenant, id string, from []api.Lifecycle, to api.Lifecycle, at time.Time) (bool, error)
	// Credential returns what is known of a client certificate, by the SHA-256
	// of the certificate in hex; nil when it is unknown, as it is after its
	// agent was deleted.
	Credential(ctx context.Context, fingerprint string) (*Credential, error)
	// DeleteAgent removes the agent and its certificates.
	DeleteAgent(ctx context.Context, tenant, id string) error
	// RecordHeartbeats stores a batch and returns the agents that came back
	// to life by it. An agent that is gone is passed over.
	RecordHeartbeats(ctx context.Context, beats []Heartbeat) ([]Transition, error)
	// NoteClone replaces what is known of a second host with an agent's identity,
	// and forgets all that was not seen since forget.
	NoteClone(ctx context.Context, tenant, agentID string, c Clone, forget time.Time) error
	// Clones returns those of a tenant that were seen since a time, by agent.
	Clones(ctx context.Context, tenant string, since time.Time) (map[string]Clone, error)
	// SweepLiveness moves agents that were last heard before staleBefore to
	// stale, and before deadBefore to dead. Each transition is returned once,
	// whatever the number of servers that sweep.
	SweepLiveness(ctx context.Context, staleBefore, deadBefore, at time.Time) ([]Transition, error)
}

// Notifier tells every server that an agent changed, so that the one that
// holds its link acts: a revoked agent's connections are cut.
type Notifier interface {
	AgentChanged(tenant, agentID string)
	// Publisher tells people what became of agents.
	event.Publisher
}

// Service holds the rules about agents. It is safe for concurrent use.
type Service struct {
	store  Store
	notify Notifier
	now    func() time.Time

	cloneMu sync.Mutex
	clones  map[string]Clone // noted lately, by agent
}

// NewService returns a service over a store. now is the clock, in UTC.
func NewService(store Store, notify Notifier, now func() time.Time) *Service {
	return &Service{store: store, notify: notify, now: now, clones: map[string]Clone{}}
}

// Get returns the agent with that id, or else with that name.
func (s *Service) Get(ctx context.Context, tenant, idOrName string) (*Agent, error) {
	return s.store.Agent(ctx, tenant, idOrName)
}

// List returns a page of agents, in the order of their ids unless the filter
// says another.
func (s *Service) List(ctx context.Context, tenant string, f Filter) ([]*Agent, error) {
	if err := f.validate(); err != nil {
		return nil, err
	}
	return s.store.Agents(ctx, tenant, f)
}

// Credential returns what is known of a client certificate, by the SHA-256 of
// the certificate in hex; nil when nobody knows it, as after a deletion.
func (s *Service) Credential(ctx context.Context, fingerprint string) (*Credential, error) {
	return s.store.Credential(ctx, fingerprint)
}

// Update changes what people may change of an agent and returns it.
func (s *Service) Update(ctx context.Context, tenant, id string, labels *map[string]string, capabilities *[]string) (*Agent, error) {
	a, err := s.store.Agent(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	if labels != nil {
		if err := ValidateLabels("body.labels", *labels); err != nil {
			return nil, err
		}
	}
	if capabilities != nil {
		if err := ValidateCapabilities("body.capabilities", *capabilities); err != nil {
			return nil, err
		}
	}
	if err := s.store.UpdateAgent(ctx, tenant, a.ID, labels, capabilities, s.now()); err != nil {
		return nil, err
	}
	s.tell(a, api.EventAgentUpdated)
	return s.store.Agent(ctx, tenant, a.ID)
}

// Activate lets an inactive agent work again. It is idempotent.
func (s *Service) Activate(ctx context.Context, tenant, id string) (*Agent, error) {
	return s.move(ctx, tenant, id, api.LifecycleActive)
}

// Deactivate keeps an agent connected and gives it no more tasks. It is
// idempotent.
func (s *Service) Deactivate(ctx context.Context, tenant, id string) (*Agent, error) {
	return s.move(ctx, tenant, id, api.LifecycleInactive)
}

// Revoke ends an agent's identity for good: it is refused everywhere and its
// connections are cut. It is idempotent.
func (s *Service) Revoke(ctx context.Context, tenant, id string) (*Agent, error) {
	return s.move(ctx, tenant, id, api.LifecycleRevoked)
}

func (s *Service) move(ctx context.Context, tenant, id string, to api.Lifecycle) (*Agent, error) {
	a, err := s.store.Agent(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	from := []api.Lifecycle{api.LifecycleActive, api.LifecycleInactive}
	moved, err := s.store.SetLifecycle(ctx, tenant, a.ID, from, to, s.now())
	if err != nil {
		return nil, err
	}
	if moved {
		s.tell(a, lifecycleEvents[to])
	}
	if a, err = s.store.Agent(ctx, tenant, a.ID); err != nil {
		return nil, err
	}
	if a.Lifecycle != to {
		return nil, fault.New(fault.Conflict, "agent_revoked",
			"agent %s is revoked, and a revoked agent stays so: delete it and register the host again with a new token", a.Name)
	}
	return a, nil
}

// Delete removes an agent; its certificate is worth nothing from then on.
func (s *Service) Delete(ctx context.Context, tenant, id string) (*Agent, error) {
	a, err := s.store.Agent(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	if err := s.store.DeleteAgent(ctx, tenant, a.ID); err != nil {
		return nil, err
	}
	s.tell(a, api.EventAgentDeleted)
	return a, nil
}

var lifecycleEvents = map[api.Lifecycle]string{
	api.LifecycleActive: api.EventAgentActivated, api.LifecycleInactive: api.EventAgentDeactivated, api.LifecycleRevoked: api.EventAgentRevoked,
}

// tell tells people and servers what became of an agent: people first, for what
// the servers do then, as to cut its link, is told to people too.
func (s *Service) tell(a *Agent, kind string) {
	s.notify.Publish(a.TenantID, api.Event{At: s.now().UTC(), Kind: kind, AgentID: a.ID, AgentName: a.Name})
	s.notify.AgentChanged(a.TenantID, a.ID)
}

// Event is a transition as people are told of it.
func (t *Transition) Event() api.Event {
	return api.Event{At: t.At, Kind: "agent." + string(t.To), AgentID: t.AgentID, AgentName: t.Name}
}
