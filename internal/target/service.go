package target

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/fleet"
)

// Agents finds the agent that a target names.
type Agents interface {
	Get(ctx context.Context, tenant, idOrName string) (*fleet.Agent, error)
}

// Service holds the rules about targets. It is safe for concurrent use.
type Service struct {
	store  Store
	agents Agents
	now    func() time.Time
}

// NewService returns a service over a store.
func NewService(store Store, agents Agents, now func() time.Time) *Service {
	return &Service{store: store, agents: agents, now: now}
}

// Create makes a target.
func (s *Service) Create(ctx context.Context, tenant string, req api.TargetRequest) (*Target, error) {
	now := s.now()
	t := &Target{ID: uuid.Must(uuid.NewV7()).String(), TenantID: tenant, CreatedAt: now}
	if err := s.fill(ctx, t, req, now); err != nil {
		return nil, err
	}
	return t, s.store.InsertTarget(ctx, t)
}

// Replace says anew what a target is; its id and kind stay.
func (s *Service) Replace(ctx context.Context, tenant, idOrName string, req api.TargetRequest) (*Target, error) {
	t, err := s.store.Target(ctx, tenant, idOrName)
	if err != nil {
		return nil, err
	}
	if req.Kind != t.Kind {
		return nil, fault.InvalidField("body.kind", "target %s is of kind %s and stays so: make a new target instead", t.Name, t.Kind)
	}
	if err := s.fill(ctx, t, req, s.now()); err != nil {
		return nil, err
	}
	return t, s.store.UpdateTarget(ctx, t)
}

func (s *Service) fill(ctx context.Context, t *Target, req api.TargetRequest, now time.Time) error {
	t.Name, t.Kind, t.Environment = req.Name, req.Kind, req.Environment
	t.Labels, t.Config, t.Selector, t.UpdatedAt = req.Labels, req.Config, req.AgentSelector, now
	t.AgentID = ""
	if req.Agent != "" {
		a, err := s.agents.Get(ctx, t.TenantID, req.Agent)
		if fault.KindOf(err) == fault.NotFound {
			return fault.InvalidField("body.agent", "there is no agent %q: `stella agent list` shows those that are", req.Agent)
		} else if err != nil {
			return err
		}
		t.AgentID = a.ID
	}
	return t.validate()
}

// UsersOfSecret names the targets that refer to a secret.
func (s *Service) UsersOfSecret(ctx context.Context, tenant, name string) ([]string, error) {
	var users []string
	first, err := Schema.Query(filter.Request{}, s.now())
	if err != nil {
		return nil, err
	}
	for f := (Filter{Kind: "ssh", Query: first, Limit: 1000}); ; {
		page, err := s.store.Targets(ctx, tenant, f)
		if err != nil {
			return nil, err
		}
		for _, t := range page {
			if slices.Contains(t.SecretRefs(), name) {
				users = append(users, t.Name)
			}
		}
		if len(page) < f.Limit {
			return users, nil
		}
		next, err := Schema.Query(filter.Request{Cursor: Schema.Next(f.Query, page[len(page)-1])}, s.now())
		if err != nil {
			return nil, err
		}
		f.Query = next
	}
}

// Get returns the target with that id, or else with that name.
func (s *Service) Get(ctx context.Context, tenant, idOrName string) (*Target, error) {
	return s.store.Target(ctx, tenant, idOrName)
}

// Delete removes a target that no unfinished task needs.
func (s *Service) Delete(ctx context.Context, tenant, idOrName string) (*Target, error) {
	t, err := s.store.Target(ctx, tenant, idOrName)
	if err != nil {
		return nil, err
	}
	return t, s.store.DeleteTarget(ctx, tenant, t.ID)
}
