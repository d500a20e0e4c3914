package store

import (
	"context"
	"encoding/json"

	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
	"stella-ops.org/stella/internal/task"
)

// Deployments implements task.Store.
func (s *Store) Deployments(ctx context.Context, tenant, targetID string, limit int) ([]*task.Deployment, error) {
	rows, err := s.read().Deployments(ctx, db.DeploymentsParams{TenantID: tenant, TargetID: targetID, Page: int64(page(limit))})
	if err != nil {
		return nil, s.explain(ctx, "read history of target", err)
	}
	history := make([]*task.Deployment, len(rows))
	for i, r := range rows {
		history[i] = &task.Deployment{
			TaskID: r.TaskID, TenantID: r.TenantID, TargetID: r.TargetID, ReleaseID: r.ReleaseID, Digest: r.Digest,
			Payload: json.RawMessage(r.Payload), Sealed: r.Sealed, At: r.At.Time,
		}
	}
	return history, nil
}

func insertDeployment(ctx context.Context, q *db.Queries, d *task.Deployment) error {
	payload := column.Raw(d.Payload)
	if len(payload) == 0 {
		payload = column.Raw("{}") // a release that the target had kept: nothing to repeat
	}
	return q.InsertDeployment(ctx, db.InsertDeploymentParams{
		TaskID: d.TaskID, TenantID: d.TenantID, TargetID: d.TargetID, ReleaseID: d.ReleaseID, Digest: d.Digest,
		Payload: payload, Sealed: d.Sealed, At: column.At(d.At),
	})
}
