package rest

import (
	"context"
	"net/http"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/rollout"
)

// creation is the input of rollout.create.
type creation struct {
	Body    api.RolloutRequest
	existed bool
}

func (c *creation) status() int {
	if c.existed {
		return http.StatusOK
	}
	return http.StatusCreated
}

// rollouts adds deployments to many targets.
func (s *Server) rollouts() {
	type request struct{ Body api.RolloutRequest }
	op := s.operation(http.MethodPost, "/api/v1/rollouts/preview", "rollout.preview", "Show what a rollout would do", operator)
	op.MaxBodyBytes = maxTaskBody
	handle(s, op, func(ctx context.Context, in *request) (api.RolloutPreview, error) {
		p := principal(ctx)
		preview, err := s.Rollouts.Preview(ctx, p.TenantID, p.Name, in.Body)
		if err != nil {
			return api.RolloutPreview{}, err
		}
		return *preview, nil
	})

	op = s.operation(http.MethodPost, "/api/v1/rollouts", "rollout.create", "Deploy to many targets", operator)
	op.MaxBodyBytes, op.DefaultStatus = maxTaskBody, http.StatusCreated
	handle(s, op, func(ctx context.Context, in *creation) (api.Rollout, error) {
		p := principal(ctx)
		r, existed, err := s.Rollouts.Create(ctx, p.TenantID, p.Name, in.Body)
		in.existed = existed
		return shown(r, err)
	})

	type listQuery struct{ Page }
	list(s, s.operation(http.MethodGet, "/api/v1/rollouts", "rollout.list", "List rollouts, the newest first", viewer), rollout.Schema,
		func(ctx context.Context, in *listQuery, q filter.Query) ([]*rollout.Rollout, error) {
			return s.Rollouts.List(ctx, principal(ctx).TenantID, rollout.Filter{Query: q, Limit: in.Limit})
		},
		func(_ context.Context, _ *listQuery, found []*rollout.Rollout, next string) api.RolloutList {
			out := api.RolloutList{Items: make([]api.Rollout, len(found)), Next: next}
			for i, r := range found {
				out.Items[i] = viewRollout(r, false)
			}
			return out
		})

	handle(s, s.operation(http.MethodGet, "/api/v1/rollouts/{id}", "rollout.get", "Show a rollout and its targets", viewer),
		func(ctx context.Context, in *IDPath) (api.Rollout, error) {
			return shown(s.Rollouts.Get(ctx, principal(ctx).TenantID, in.ID))
		})
	s.steerRollouts()
}

func (s *Server) steerRollouts() {
	handle(s, s.operation(http.MethodPost, "/api/v1/rollouts/{id}/pause", "rollout.pause", "Begin no other target for now", operator),
		func(ctx context.Context, in *IDPath) (api.Rollout, error) {
			p := principal(ctx)
			return shown(s.Rollouts.Pause(ctx, p.TenantID, in.ID, p.Name))
		})
	type resume struct {
		IDPath
		Body *api.RolloutResume
	}
	handle(s, s.operation(http.MethodPost, "/api/v1/rollouts/{id}/resume", "rollout.resume", "Go on with a paused or stopped rollout", operator),
		func(ctx context.Context, in *resume) (api.Rollout, error) {
			p := principal(ctx)
			return shown(s.Rollouts.Resume(ctx, p.TenantID, in.ID, p.Name, in.Body != nil && in.Body.RetryFailed))
		})
	handle(s, s.operation(http.MethodPost, "/api/v1/rollouts/{id}/cancel", "rollout.cancel", "End a rollout", operator),
		func(ctx context.Context, in *IDPath) (api.Rollout, error) {
			p := principal(ctx)
			return shown(s.Rollouts.Cancel(ctx, p.TenantID, in.ID, p.Name))
		})
	handle(s, s.operation(http.MethodPost, "/api/v1/rollouts/{id}/rollback", "rollout.rollback", "Bring a rollout's targets back to what they ran before", operator),
		func(ctx context.Context, in *IDPath) (api.Rollout, error) {
			p := principal(ctx)
			return shown(s.Rollouts.Rollback(ctx, p.TenantID, in.ID, p.Name))
		})
}

func shown(r *rollout.Rollout, err error) (api.Rollout, error) {
	if err != nil {
		return api.Rollout{}, err
	}
	return viewRollout(r, true), nil
}

func viewRollout(r *rollout.Rollout, whole bool) api.Rollout {
	out := api.Rollout{
		ID: r.ID, State: r.State, Reason: r.Reason, ReleaseID: r.ReleaseID, ReleaseName: r.ReleaseName,
		MaxParallel: r.Plan.MaxParallel, MaxFailures: r.Plan.MaxFailures, PauseAfter: r.Plan.PauseAfter, OnFailure: r.Plan.OnFailure,
		Counts: r.Counts(), Total: len(r.Targets), CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, FinishedAt: timeOrNil(r.FinishedAt),
	}
	if !whole {
		return out
	}
	out.Payload, out.Targets = r.Payload, make([]api.RolloutTarget, len(r.Targets))
	for i := range r.Targets {
		t := &r.Targets[i]
		out.Targets[i] = api.RolloutTarget{
			ID: t.ID, Name: t.Name, State: t.State, Reason: t.Reason, From: t.From, TaskID: t.Task, RollbackTaskID: t.UndoTask,
			StartedAt: timeOrNil(t.StartedAt), FinishedAt: timeOrNil(t.FinishedAt),
		}
	}
	return out
}
