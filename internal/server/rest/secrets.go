package rest

import (
	"context"
	"net/http"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/task"
)

// secrets adds the named values that targets and tasks refer to.
func (s *Server) secrets() {
	type SecretPath struct {
		Name string `path:"name" maxLength:"128" doc:"The secret's name."`
	}
	type put struct {
		SecretPath
		Body api.SecretRequest
	}
	handle(s, s.operation(http.MethodPut, "/api/v1/secrets/{name}", "secret.set", "Give a secret a value", operator),
		func(ctx context.Context, in *put) (api.Secret, error) {
			p := principal(ctx)
			sec, err := s.Secrets.Set(ctx, p.TenantID, p.Name, in.Name, in.Body.Value)
			if err != nil {
				return api.Secret{}, err
			}
			return viewSecret(sec), nil
		})

	type listQuery struct{ Page }
	list(s, s.operation(http.MethodGet, "/api/v1/secrets", "secret.list", "List secrets", viewer), secret.Schema,
		func(ctx context.Context, in *listQuery, q filter.Query) ([]*secret.Secret, error) {
			return s.Secrets.List(ctx, principal(ctx).TenantID, secret.Filter{Query: q, Limit: in.Limit})
		},
		func(_ context.Context, _ *listQuery, found []*secret.Secret, next string) api.SecretList {
			out := api.SecretList{Items: make([]api.Secret, len(found)), Next: next}
			for i, sec := range found {
				out.Items[i] = viewSecret(sec)
			}
			return out
		})

	handle(s, s.operation(http.MethodGet, "/api/v1/secrets/{name}", "secret.get", "Show what is known of a secret", viewer),
		func(ctx context.Context, in *SecretPath) (api.Secret, error) {
			sec, users, err := s.Secrets.Get(ctx, principal(ctx).TenantID, in.Name)
			if err != nil {
				return api.Secret{}, err
			}
			out := viewSecret(sec)
			out.UsedBy = users
			return out, nil
		})

	type remove struct {
		SecretPath
		Force bool `query:"force" doc:"Whether to remove it although targets refer to it."`
	}
	handle(s, s.operation(http.MethodDelete, "/api/v1/secrets/{name}", "secret.delete", "Remove a secret", operator),
		func(ctx context.Context, in *remove) (api.Deleted, error) {
			return deleted, s.Secrets.Remove(ctx, principal(ctx).TenantID, in.Name, in.Force)
		})
}

// taskCredentials adds how an agent gets a task's credentials again.
func (s *Server) taskCredentials() {
	type again struct {
		IDPath
		TaskID string `path:"taskId" maxLength:"128" doc:"The task's id."`
		Body   api.CredentialsRequest
	}
	handle(s, s.operation(http.MethodPost, "/api/v1/agents/{id}/tasks/{taskId}/credentials", "agent.credentials", "Get a task's credentials again, to undo or finish it after a restart", agentSelf),
		func(ctx context.Context, in *again) (api.TaskCredentials, error) {
			c, err := s.Tasks.Credentials(ctx, agent(ctx), task.Ref{ID: in.TaskID, Attempt: in.Body.Attempt})
			if err != nil {
				return api.TaskCredentials{}, err
			}
			return *c, nil
		})
}

func viewSecret(s *secret.Secret) api.Secret {
	return api.Secret{
		Name: s.Name, Version: s.Version, CreatedBy: s.CreatedBy, UpdatedBy: s.UpdatedBy, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt,
	}
}
