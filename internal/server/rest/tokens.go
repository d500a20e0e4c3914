package rest

import (
	"context"
	"net/http"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/filter"
)

// adminTokens adds registration tokens, API tokens and who one is.
func (s *Server) adminTokens() {
	type listQuery struct{ Page }
	type newToken struct{ Body api.RegistrationTokenRequest }
	op := s.operation(http.MethodPost, "/api/v1/admin/agent-tokens", "registration-token.create", "Make a registration token", admin)
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
	list(s, s.operation(http.MethodGet, "/api/v1/admin/agent-tokens", "registration-token.list", "List registration tokens, the newest first", admin), enroll.Schema,
		func(ctx context.Context, in *listQuery, q filter.Query) ([]*enroll.Token, error) {
			return s.Enroll.Tokens(ctx, principal(ctx).TenantID, enroll.Filter{Query: q, Limit: in.Limit})
		},
		func(_ context.Context, _ *listQuery, found []*enroll.Token, next string) api.RegistrationTokenList {
			out := api.RegistrationTokenList{Items: make([]api.RegistrationToken, len(found)), Next: next}
			for i, t := range found {
				out.Items[i] = s.viewToken(t)
			}
			return out
		})
	handle(s, s.operation(http.MethodDelete, "/api/v1/admin/agent-tokens/{id}", "registration-token.revoke", "Revoke a registration token", admin),
		func(ctx context.Context, in *IDPath) (api.Deleted, error) {
			return deleted, s.Enroll.RevokeToken(ctx, principal(ctx).TenantID, in.ID)
		})

	type newAPIToken struct{ Body api.APITokenRequest }
	op = s.operation(http.MethodPost, "/api/v1/admin/api-tokens", "api-token.create", "Make an API token", admin)
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
	list(s, s.operation(http.MethodGet, "/api/v1/admin/api-tokens", "api-token.list", "List API tokens, the newest first", admin), access.TokenSchema,
		func(ctx context.Context, in *listQuery, q filter.Query) ([]*access.APIToken, error) {
			return s.access.List(ctx, principal(ctx).TenantID, access.Filter{Query: q, Limit: in.Limit})
		},
		func(_ context.Context, _ *listQuery, found []*access.APIToken, next string) api.APITokenList {
			out := api.APITokenList{Items: make([]api.APIToken, len(found)), Next: next}
			for i, t := range found {
				out.Items[i] = s.viewAPIToken(t)
			}
			return out
		})
	handle(s, s.operation(http.MethodDelete, "/api/v1/admin/api-tokens/{id}", "api-token.revoke", "Revoke an API token", admin),
		func(ctx context.Context, in *IDPath) (api.Deleted, error) {
			return deleted, s.access.Revoke(ctx, principal(ctx).TenantID, in.ID)
		})

	handle(s, s.operation(http.MethodGet, "/api/v1/whoami", "whoami", "Say whom the API token belongs to", viewer),
		func(ctx context.Context, _ *none) (api.WhoAmI, error) {
			p := principal(ctx)
			return api.WhoAmI{Name: p.Name, Role: p.Role, Tenant: p.TenantID, Server: s.Version}, nil
		})
}

func (s *Server) viewToken(t *enroll.Token) api.RegistrationToken {
	return api.RegistrationToken{
		ID: t.ID, State: t.State(s.now()), Name: t.Name, AgentID: t.AgentID, Environment: t.Environment, Group: t.Group,
		Cluster: t.Cluster, Platform: t.Platform, Capabilities: t.Capabilities, Labels: t.Labels,
		CertificateLifeSeconds: int(t.CertificateLife / time.Second),
		MaxUses:                t.MaxUses, Uses: t.Uses, CreatedBy: t.CreatedBy, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt,
	}
}

func (s *Server) viewAPIToken(t *access.APIToken) api.APIToken {
	return api.APIToken{
		ID: t.ID, Name: t.Name, Role: t.Role, State: t.State(s.now()), CreatedBy: t.CreatedBy, CreatedAt: t.CreatedAt,
		ExpiresAt: timeOrNil(t.ExpiresAt), LastUsedAt: timeOrNil(t.LastUsedAt),
	}
}
