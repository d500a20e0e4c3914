package rest

import (
	"context"
	"net/http"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/target"
)

// targets adds what people do with targets.
func (s *Server) targets() {
	type newTarget struct{ Body api.TargetRequest }
	op := s.operation(http.MethodPost, "/api/v1/targets", "target.create", "Make a target", operator)
	op.DefaultStatus = http.StatusCreated
	handle(s, op, func(ctx context.Context, in *newTarget) (api.Target, error) {
		return s.oneTarget(ctx)(s.Targets.Create(ctx, principal(ctx).TenantID, in.Body))
	})

	type listQuery struct {
		Page
		Name        string   `query:"name" maxLength:"255" doc:"Only the target of this name."`
		Kind        string   `query:"kind" maxLength:"20" doc:"Only targets of this kind, as in docker."`
		Environment string   `query:"environment" maxLength:"255" doc:"Only targets of this environment."`
		Agent       string   `query:"agent" maxLength:"255" doc:"Only targets that this agent reaches; its id or name."`
		Label       []string `query:"label,explode" doc:"Only what has this label, as in key=value; may come several times."`
	}
	list(s, s.operation(http.MethodGet, "/api/v1/targets", "target.list", "List targets", viewer), target.Schema,
		func(ctx context.Context, in *listQuery, q filter.Query) ([]*target.Target, error) {
			tenant := principal(ctx).TenantID
			want, err := labels(in.Label)
			if err != nil {
				return nil, err
			}
			f := target.Filter{Name: in.Name, Kind: in.Kind, Environment: in.Environment, Labels: want, Query: q, Limit: in.Limit}
			if f.AgentID, err = s.agentID(ctx, tenant, in.Agent); err != nil {
				return nil, err
			}
			return s.Targets.List(ctx, tenant, f)
		},
		func(ctx context.Context, _ *listQuery, found []*target.Target, next string) api.TargetList {
			names := s.agentNames(ctx, principal(ctx).TenantID)
			out := api.TargetList{Items: make([]api.Target, len(found)), Next: next}
			for i, t := range found {
				out.Items[i] = viewTarget(t, names)
			}
			return out
		})

	handle(s, s.operation(http.MethodGet, "/api/v1/targets/{id}", "target.get", "Show a target", viewer),
		func(ctx context.Context, in *IDPath) (api.Target, error) {
			return s.oneTarget(ctx)(s.Targets.Get(ctx, principal(ctx).TenantID, in.ID))
		})

	type replace struct {
		IDPath
		Body api.TargetRequest
	}
	handle(s, s.operation(http.MethodPut, "/api/v1/targets/{id}", "target.update", "Say anew what a target is", operator),
		func(ctx context.Context, in *replace) (api.Target, error) {
			return s.oneTarget(ctx)(s.Targets.Replace(ctx, principal(ctx).TenantID, in.ID, in.Body))
		})

	handle(s, s.operation(http.MethodDelete, "/api/v1/targets/{id}", "target.delete", "Delete a target; what runs there goes on running", operator),
		func(ctx context.Context, in *IDPath) (api.Deleted, error) {
			_, err := s.Targets.Delete(ctx, principal(ctx).TenantID, in.ID)
			return deleted, err
		})
}

// oneTarget views a service's answer.
func (s *Server) oneTarget(ctx context.Context) func(*target.Target, error) (api.Target, error) {
	return func(t *target.Target, err error) (api.Target, error) {
		if err != nil {
			return api.Target{}, err
		}
		return viewTarget(t, s.agentNames(ctx, t.TenantID)), nil
	}
}

// agentID finds the agent that a filter names; none is no filter.
func (s *Server) agentID(ctx context.Context, tenant, idOrName string) (string, error) {
	if idOrName == "" {
		return "", nil
	}
	a, err := s.Fleet.Get(ctx, tenant, idOrName)
	if err != nil {
		return "", err
	}
	return a.ID, nil
}

// agentNames looks agents' names up, each once; a deleted one has none.
func (s *Server) agentNames(ctx context.Context, tenant string) func(id string) string {
	known := map[string]string{}
	return func(id string) string {
		if name, ok := known[id]; ok || id == "" {
			return name
		}
		if a, err := s.Fleet.Get(ctx, tenant, id); err == nil && a.ID == id {
			known[id] = a.Name
		} else if fault.KindOf(err) == fault.NotFound {
			known[id] = ""
		}
		return known[id]
	}
}

func viewTarget(t *target.Target, agentName func(id string) string) api.Target {
	v := api.Target{
		ID: t.ID, Name: t.Name, Kind: t.Kind, AgentID: t.AgentID, AgentName: agentName(t.AgentID), AgentSelector: t.Selector,
		Environment: t.Environment, Labels: t.Labels, Config: t.Config, CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt,
	}
	if v.Labels == nil {
		v.Labels = map[string]string{}
	}
	return v
}
