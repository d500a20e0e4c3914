package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/artifact"
	"stella-ops.org/stella/internal/filter"
)

// DigestPath is the digest in a path.
type DigestPath struct {
	Digest string `path:"digest" maxLength:"255" doc:"sha256:… of the content."`
}

// ArtifactPath is the digest or name in a path.
type ArtifactPath struct {
	Digest string `path:"digest" maxLength:"255" doc:"sha256:… of the content, or the name."`
}

// artifacts adds what people and agents do with artifacts.
func (s *Server) artifacts() {
	s.uploads()

	type listQuery struct {
		Page
		Name string `query:"name" maxLength:"255" doc:"Only those of this name."`
	}
	list(s, s.operation(http.MethodGet, "/api/v1/artifacts", "artifact.list", "List artifacts, the newest first", viewer), artifact.Schema,
		func(ctx context.Context, in *listQuery, q filter.Query) ([]*artifact.Artifact, error) {
			return s.Artifacts.List(ctx, principal(ctx).TenantID, artifact.Filter{Name: in.Name, Query: q, Limit: in.Limit})
		},
		func(_ context.Context, _ *listQuery, found []*artifact.Artifact, next string) api.ArtifactList {
			out := api.ArtifactList{Items: make([]api.Artifact, len(found)), Next: next}
			for i, a := range found {
				out.Items[i] = viewArtifact(a)
			}
			return out
		})

	handle(s, s.operation(http.MethodGet, "/api/v1/artifacts/{digest}", "artifact.get", "Show an artifact, and what uses it", viewer),
		func(ctx context.Context, in *ArtifactPath) (api.Artifact, error) {
			a, uses, err := s.Artifacts.Get(ctx, principal(ctx).TenantID, in.Digest)
			if err != nil {
				return api.Artifact{}, err
			}
			v := viewArtifact(a)
			for _, u := range uses {
				v.UsedBy = append(v.UsedBy, api.ArtifactUse(u))
			}
			return v, nil
		})

	handle(s, s.operation(http.MethodDelete, "/api/v1/artifacts/{digest}", "artifact.delete", "Forget an artifact that nothing needs", operator),
		func(ctx context.Context, in *DigestPath) (api.Deleted, error) {
			return deleted, s.Artifacts.Remove(ctx, principal(ctx).TenantID, in.Digest)
		})

	type contentQuery struct {
		ArtifactPath
		Ranges
	}
	op := s.operation(http.MethodGet, "/api/v1/artifacts/{digest}/content", "artifact.content", "Get an artifact's bytes", viewer)
	content(&op)
	huma.Register(s.huma, op, func(ctx context.Context, in *contentQuery) (*huma.StreamResponse, error) {
		a, err := s.Artifacts.Complete(ctx, principal(ctx).TenantID, in.Digest)
		if err != nil {
			return nil, s.fail(ctx, op.OperationID, err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) { s.download(hc, a) }}, nil //nolint:contextcheck // it carries the request's context
	})

	type agentQuery struct {
		IDPath
		TaskID string `path:"taskId" maxLength:"128" doc:"The task's id."`
		DigestPath
		Ranges
	}
	own := s.operation(http.MethodGet, "/api/v1/agents/{id}/tasks/{taskId}/artifacts/{digest}", "agent.artifact", "Get the bytes of an artifact that a task was made with", agentTask)
	content(&own)
	huma.Register(s.huma, own, func(ctx context.Context, in *agentQuery) (*huma.StreamResponse, error) {
		g := agent(ctx)
		a, err := s.Artifacts.ForTask(ctx, g.TenantID, g.ID, in.TaskID, in.Digest)
		if err != nil {
			return nil, s.fail(ctx, own.OperationID, err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) { s.download(hc, a) }}, nil //nolint:contextcheck // it carries the request's context
	})
}

func viewArtifact(a *artifact.Artifact) api.Artifact {
	return api.Artifact{
		Digest: a.Digest, Name: a.Name, MediaType: a.MediaType, Notes: a.Notes, Size: a.Size, Received: a.Received, Complete: a.Complete,
		CreatedBy: a.CreatedBy, CreatedAt: a.CreatedAt, CompletedAt: timeOrNil(a.CompletedAt), LastUsedAt: a.LastUsedAt,
	}
}

func viewUpload(a *artifact.Artifact) api.ArtifactUpload {
	return api.ArtifactUpload{Digest: a.Digest, Size: a.Size, Received: a.Received, Complete: a.Complete}
}
