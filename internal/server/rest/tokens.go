package rest

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/enroll"
)

// adminTokens adds registration tokens, API tokens and the audit log.
func (s *Server) adminTokens() {
	type newToken struct{ Body api.RegistrationTokenRequest }
	op := operation(http.MethodPost, "/api/v1/admin/agent-tokens", "registration-token.create", "Make a registration token", admin)
	op.DefaultStatus = http.StatusCreated
	handle(s, op, func(ctx context.Context, in *newToken) (api.RegistrationToken, error) {
		p := principal(ctx)
		t, text, err := s.Enroll.CreateToken(ctx, p.TenantID, p.Name, in.Body)
		if err != nil {
			return api.RegistrationToken{}, err
		}
		v := s.viewToken(t)
		v.Token, v.ServerURL = text, s.BaseURL()
		return v, nil
	})
	handle(s, operation(http.MethodGet, "/api/v1/admin/agent-tokens", "registration-token.list", "List registration tokens", admin),
		func(ctx context.Context, _ *none) (api.RegistrationTokenList, error) {
			ts, err := s.Enroll.Tokens(ctx, principal(ctx).TenantID)
			out := api.RegistrationTokenList{Items: make([]api.RegistrationToken, len(ts))}
			for i, t := range ts {
				out.Items[i] = s.viewToken(t)
			}
			return out, err
		})
	handle(s, operation(http.MethodDelete, "/api/v1/admin/agent-tokens/{id}", "registration-token.revoke", "Revoke a registration token", admin),
		func(ctx context.Context, in *IDPath) (api.Deleted, error) {
			return deleted, s.Enroll.RevokeToken(ctx, principal(ctx).TenantID, in.ID)
		})

	type newAPIToken struct{ Body api.APITokenRequest }
	op = operation(http.MethodPost, "/api/v1/admin/api-tokens", "api-token.create", "Make an API token", admin)
	op.DefaultStatus = http.StatusCreated
	handle(s, op, func(ctx context.Context, in *newAPIToken) (api.APIToken, error) {
		p := principal(ctx)
		t, text, err := s.access.Create(ctx, p.TenantID, p.Name, in.Body.Name, in.Body.Role, time.Duration(in.Body.TTLSeconds)*time.Second)
		if err != nil {
			return api.APIToken{}, err
		}
		v := s.viewAPIToken(t)
		v.Token = text
		return v, nil
	})
	handle(s, operation(http.MethodGet, "/api/v1/admin/api-tokens", "api-token.list", "List API tokens", admin),
		func(ctx context.Context, _ *none) (api.APITokenList, error) {
			ts, err := s.access.List(ctx, principal(ctx).TenantID)
			out := api.APITokenList{Items: make([]api.APIToken, len(ts))}
			for i, t := range ts {
				out.Items[i] = s.viewAPIToken(t)
			}
			return out, err
		})
	handle(s, operation(http.MethodDelete, "/api/v1/admin/api-tokens/{id}", "api-token.revoke", "Revoke an API token", admin),
		func(ctx context.Context, in *IDPath) (api.Deleted, error) {
			return deleted, s.access.Revoke(ctx, principal(ctx).TenantID, in.ID)
		})

	handle(s, operation(http.MethodGet, "/api/v1/whoami", "whoami", "Say whom the API token belongs to", viewer),
		func(ctx context.Context, _ *none) (api.WhoAmI, error) {
			p := principal(ctx)
			return api.WhoAmI{Name: p.Name, Role: p.Role, Tenant: p.TenantID, Server: s.Version}, nil
		})

	handle(s, operation(http.MethodGet, "/api/v1/audit", "audit.list", "List what was changed, the newest first", admin),
		func(ctx context.Context, in *Page) (api.AuditList, error) {
			before, _ := strconv.ParseInt(in.Cursor, 10, 64) // a cursor that is none begins at the newest
			es, err := s.Audit.AuditEvents(ctx, principal(ctx).TenantID, before, in.Limit)
			out := api.AuditList{Items: make([]api.AuditEvent, len(es))}
			for i, e := range es {
				out.Items[i] = viewEvent(e)
			}
			if len(es) == in.Limit {
				out.Next = strconv.FormatInt(es[len(es)-1].Seq, 10)
			}
			return out, err
		})
}

func (s *Server) viewToken(t *enroll.Token) api.RegistrationToken {
	return api.RegistrationToken{
		ID: t.ID, State: t.State(s.now()), Name: t.Name, AgentID: t.AgentID, Environment: t.Environment, Group: t.Group,
		Cluster: t.Cluster, Platform: t.Platform, Capabilities: t.Capabilities, Labels: t.Labels,
		MaxUses: t.MaxUses, Uses: t.Uses, CreatedBy: t.CreatedBy, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt,
	}
}

func (s *Server) viewAPIToken(t *access.APIToken) api.APIToken {
	return api.APIToken{
		ID: t.ID, Name: t.Name, Role: t.Role, State: t.State(s.now()), CreatedBy: t.CreatedBy, CreatedAt: t.CreatedAt,
		ExpiresAt: timeOrNil(t.ExpiresAt), LastUsedAt: timeOrNil(t.LastUsedAt),
	}
}

func viewEvent(e access.Event) api.AuditEvent {
	return api.AuditEvent{
		Seq: e.Seq, At: e.At, Actor: e.Actor, Action: e.Action, Object: e.Object, Remote: e.Remote,
		Outcome: e.Outcome, Detail: e.Detail,
	}
}
