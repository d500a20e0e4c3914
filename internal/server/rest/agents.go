package rest

import (
	"context"
	"net/http"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/fleet"
)

// agents adds what people do with agents.
func (s *Server) agents() {
	type listQuery struct {
		Page
		Status      string   `query:"status" maxLength:"20" doc:"online, degraded, offline, live, stale, dead, active, inactive or revoked."`
		Capability  string   `query:"capability" maxLength:"128" doc:"Only agents that can do this, as in docker.deploy."`
		Name        string   `query:"name" maxLength:"255" doc:"Only the agent of this name."`
		Group       string   `query:"group" maxLength:"255" doc:"Only agents of this group."`
		Environment string   `query:"environment" maxLength:"255" doc:"Only agents of this environment."`
		Label       []string `query:"label,explode" doc:"Only what has this label, as in key=value; may come several times."`
	}
	list(s, s.operation(http.MethodGet, "/api/v1/agents", "agent.list", "List agents", viewer), fleet.Schema,
		func(ctx context.Context, in *listQuery, q filter.Query) ([]*fleet.Agent, error) {
			want, err := labels(in.Label)
			if err != nil {
				return nil, err
			}
			found, err := s.Fleet.List(ctx, principal(ctx).TenantID, fleet.Filter{
				Status: in.Status, Capability: in.Capability, Name: in.Name, Group: in.Group, Environment: in.Environment,
				Labels: want, Query: q, Limit: in.Limit,
			})
			if err != nil {
				return nil, err
			}
			return found, s.Fleet.WithClones(ctx, principal(ctx).TenantID, found...)
		},
		func(_ context.Context, _ *listQuery, found []*fleet.Agent, next string) api.AgentList {
			out := api.AgentList{Items: make([]api.Agent, len(found)), Next: next}
			for i, a := range found {
				out.Items[i] = s.viewAgent(a)
			}
			return out
		})

	handle(s, s.operation(http.MethodGet, "/api/v1/agents/{id}", "agent.get", "Show an agent", viewer),
		func(ctx context.Context, in *IDPath) (api.Agent, error) {
			a, err := s.Fleet.Get(ctx, principal(ctx).TenantID, in.ID)
			if err == nil {
				err = s.Fleet.WithClones(ctx, a.TenantID, a)
			}
			return s.oneAgent(a, err)
		})

	type update struct {
		IDPath
		Body api.AgentUpdate
	}
	handle(s, s.operation(http.MethodPut, "/api/v1/agents/{id}", "agent.update", "Change an agent's labels or capabilities", operator),
		func(ctx context.Context, in *update) (api.Agent, error) {
			return s.oneAgent(s.Fleet.Update(ctx, principal(ctx).TenantID, in.ID, in.Body.Labels, in.Body.Capabilities))
		})

	handle(s, s.operation(http.MethodDelete, "/api/v1/agents/{id}", "agent.delete", "Delete an agent; its certificate is worth nothing from then on", admin),
		func(ctx context.Context, in *IDPath) (api.Deleted, error) {
			_, err := s.Fleet.Delete(ctx, principal(ctx).TenantID, in.ID)
			return deleted, err
		})

	for _, move := range []struct {
		verb, summary string
		do            func(ctx context.Context, tenant, id string) (*fleet.Agent, error)
	}{
		{"activate", "Let an inactive agent work again", s.Fleet.Activate},
		{"deactivate", "Give an agent no more tasks", s.Fleet.Deactivate},
		{"revoke", "End an agent's identity for good", s.Fleet.Revoke},
	} {
		handle(s, s.operation(http.MethodPost, "/api/v1/agents/{id}/"+move.verb, "agent."+move.verb, move.summary, admin),
			func(ctx context.Context, in *IDPath) (api.Agent, error) {
				return s.oneAgent(move.do(ctx, principal(ctx).TenantID, in.ID))
			})
	}
}

func (s *Server) oneAgent(a *fleet.Agent, err error) (api.Agent, error) {
	if err != nil {
		return api.Agent{}, err
	}
	return s.viewAgent(a), nil
}

func (s *Server) viewAgent(a *fleet.Agent) api.Agent {
	v := api.Agent{
		ID: a.ID, Name: a.Name, Version: a.Version, Status: a.Status(), Lifecycle: a.Lifecycle, Liveness: a.Liveness,
		Group: a.Group, Environment: a.Environment, Platform: a.Platform, Labels: a.Labels, Capabilities: a.Offers(),
		Routes: a.Routes, ResourceUsage: a.ResourceUsage, LastHeartbeat: timeOrNil(a.LastHeartbeat),
		Transport: s.transport(a), NotAccepting: a.NotAccepting,
		SignsHeartbeats:        a.SignsHeartbeats,
		CertificateFingerprint: a.CertificateFingerprint, CertificateNotAfter: timeOrNil(a.CertificateNotAfter),
		CreatedAt: a.CreatedAt, UpdatedAt: a.UpdatedAt,
	}
	if c := a.Clone; c != nil {
		v.Clone = &api.AgentClone{SeenAt: c.SeenAt, Held: c.Held, Kept: c.Kept}
	}
	if v.Labels == nil {
		v.Labels = map[string]string{}
	}
	return v
}

// transport is how an agent is connected: as this server sees it, or as its last
// heartbeat came.
func (s *Server) transport(a *fleet.Agent) string {
	if here := s.Links.Transport(a.ID); here != "" || a.Liveness != api.Live {
		return here
	}
	return a.Transport
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
