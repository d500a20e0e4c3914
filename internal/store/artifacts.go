package store

import (
	"context"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/artifact"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// BeginArtifact implements artifact.Store.
func (s *Store) BeginArtifact(ctx context.Context, a *artifact.Artifact) (now *artifact.Artifact, err error) {
	err = s.write(ctx, "begin artifact "+a.Digest, func(q *db.Queries) error {
		added, err := q.InsertArtifact(ctx, db.InsertArtifactParams{
			TenantID: a.TenantID, Digest: a.Digest, UploadID: a.UploadID, Name: a.Name, MediaType: a.MediaType, Notes: a.Notes,
			Size: a.Size, Complete: a.Complete, CreatedBy: a.CreatedBy, CreatedAt: column.At(a.CreatedAt), CompletedAt: column.At(a.CompletedAt),
		})
		if err != nil {
			return err
		}
		row, err := q.LockArtifact(ctx, db.LockArtifactParams{TenantID: a.TenantID, Digest: a.Digest})
		if err != nil {
			return err
		}
		if row.Size != a.Size {
			return artifact.OtherSize(a.Digest, row.Size, a.Size)
		}
		if added == 0 {
			if err := q.TakeUpArtifact(ctx, db.TakeUpArtifactParams{
				TenantID: a.TenantID, Digest: a.Digest, At: column.At(a.LastUsedAt), Name: a.Name, MediaType: a.MediaType, Notes: a.Notes,
			}); err != nil {
				return err
			}
			if row, err = q.Artifact(ctx, db.ArtifactParams{TenantID: a.TenantID, Digest: a.Digest}); err != nil {
				return err
			}
		}
		now = artifactOf(row)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return now, nil
}

// AppendArtifact implements artifact.Store.
func (s *Store) AppendArtifact(ctx context.Context, p artifact.Piece) (now *artifact.Artifact, appended bool, err error) {
	err = s.write(ctx, "append to artifact "+p.Digest, func(q *db.Queries) error {
		grown := db.GrowArtifactParams{
			TenantID: p.TenantID, Digest: p.Digest, UploadID: p.UploadID, Position: p.Position, Upto: p.Position + int64(len(p.Data)),
			Complete: p.Complete, Sum: p.Sum, At: column.At(p.At),
		}
		if p.Complete {
			grown.CompletedAt = grown.At
		}
		n, err := q.GrowArtifact(ctx, grown)
		if err != nil {
			return err
		}
		if appended = n > 0; appended {
			if err := q.InsertArtifactChunk(ctx, db.InsertArtifactChunkParams{UploadID: p.UploadID, Position: p.Position, Data: p.Data}); err != nil {
				return err
			}
		}
		row, ok, err := one(q.Artifact(ctx, db.ArtifactParams{TenantID: p.TenantID, Digest: p.Digest}))
		if err != nil {
			return err
		}
		if !ok {
			return artifact.NotFound(p.Digest)
		}
		now = artifactOf(row)
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return now, appended, nil
}

// Artifact implements artifact.Store.
func (s *Store) Artifact(ctx context.Context, tenant, digestOrName string) (*artifact.Artifact, error) {
	row, ok, err := one(s.read().Artifact(ctx, db.ArtifactParams{TenantID: tenant, Digest: digestOrName}))
	if err == nil && !ok && digestOrName != "" {
		row, ok, err = one(s.read().ArtifactNamed(ctx, db.ArtifactNamedParams{TenantID: tenant, Name: digestOrName}))
	}
	if err != nil {
		return nil, s.explain(ctx, "read artifact", err)
	}
	if !ok {
		return nil, artifact.NotFound(digestOrName)
	}
	return artifactOf(row), nil
}

// Artifacts implements artifact.Store.
func (s *Store) Artifacts(ctx context.Context, tenant string, f artifact.Filter) ([]*artifact.Artifact, error) {
	rows, err := list(ctx, s, artifactListing, f.Where(), f.Query, f.Limit, func(q *db.Queries) ([]*db.Artifact, error) {
		return q.Artifacts(ctx, tenant)
	})
	return each(rows, artifactOf), err
}

// ArtifactUses implements artifact.Store.
func (s *Store) ArtifactUses(ctx context.Context, tenant, digest string, limit int) ([]artifact.Use, error) {
	rows, err := s.read().ArtifactUses(ctx, db.ArtifactUsesParams{TenantID: tenant, Digest: digest, Page: int64(page(limit))})
	if err != nil {
		return nil, s.explain(ctx, "read uses of artifact", err)
	}
	uses := make([]artifact.Use, len(rows))
	for i, r := range rows {
		uses[i] = artifact.Use{TaskID: r.ID, Type: api.TaskType(r.Type), TargetName: r.TargetLabel, State: api.TaskState(r.State)}
	}
	return uses, nil
}

// ArtifactForTask implements artifact.Store.
func (s *Store) ArtifactForTask(ctx context.Context, tenant, agentID, taskID, digest string) (*artifact.Artifact, error) {
	row, ok, err := one(s.read().ArtifactForTask(ctx, db.ArtifactForTaskParams{TenantID: tenant, AgentID: agentID, TaskID: taskID, Digest: digest}))
	if err != nil {
		return nil, s.explain(ctx, "read artifact of task "+taskID, err)
	}
	if !ok {
		return nil, artifact.NotFound(digest)
	}
	return artifactOf(row), nil
}

// ArtifactPiece implements artifact.Store.
func (s *Store) ArtifactPiece(ctx context.Context, uploadID string, at int64) (position int64, data []byte, err error) {
	row, ok, err := one(s.read().ArtifactChunk(ctx, db.ArtifactChunkParams{UploadID: uploadID, At: at}))
	if err != nil {
		return 0, nil, s.explain(ctx, fmt.Sprintf("read artifact at byte %d", at), err)
	}
	if !ok {
		return 0, nil, artifact.NotFound("of upload " + uploadID)
	}
	return row.Position, row.Data, nil
}

// DropUpload implements artifact.Store.
func (s *Store) DropUpload(ctx context.Context, tenant, digest, uploadID string) error {
	return s.write(ctx, "drop upload of "+digest, func(q *db.Queries) error {
		row, ok, err := one(q.LockArtifact(ctx, db.LockArtifactParams{TenantID: tenant, Digest: digest}))
		if err != nil || !ok || row.UploadID != uploadID || row.Complete {
			return err
		}
		return deleteArtifact(ctx, q, row)
	})
}

// RemoveArtifact implements artifact.Store.
//
// Who uses the artifact is read behind its lock: a task that takes it writes to
// its row, so either the task is seen here, or it does not find the artifact.
func (s *Store) RemoveArtifact(ctx context.Context, r artifact.Removal) (removed *artifact.Artifact, err error) {
	asked := r.UnusedSince.IsZero() && r.StalledSince.IsZero()
	err = s.write(ctx, "remove artifact "+r.Digest, func(q *db.Queries) error {
		removed = nil
		row, ok, err := one(q.LockArtifact(ctx, db.LockArtifactParams{TenantID: r.TenantID, Digest: r.Digest}))
		switch {
		case err != nil:
			return err
		case !ok && asked:
			return artifact.NotFound(r.Digest)
		case !ok:
			return nil
		case !asked && row.Complete && !row.LastUsedAt.Before(r.UnusedSince),
			!asked && !row.Complete && !row.UpdatedAt.Before(r.StalledSince):
			return nil
		}
		holder, held, err := one(q.ArtifactHolder(ctx, db.ArtifactHolderParams{TenantID: r.TenantID, Digest: r.Digest, Kept: artifact.KeptDeployments}))
		switch {
		case err != nil:
			return err
		case held && asked:
			return artifact.InUse(r.Digest, artifact.Use{
				TaskID: holder.ID, Type: api.TaskType(holder.Type), TargetName: holder.TargetLabel, State: api.TaskState(holder.State),
			})
		case held:
			return nil
		}
		removed = artifactOf(row)
		return deleteArtifact(ctx, q, row)
	})
	if err != nil {
		return nil, err
	}
	return removed, nil
}

// deleteArtifact forgets an artifact that is locked, and leaves its bytes to be
// reclaimed.
func deleteArtifact(ctx context.Context, q *db.Queries, row *db.Artifact) error {
	if _, err := q.DeleteArtifact(ctx, db.DeleteArtifactParams{TenantID: row.TenantID, Digest: row.Digest, UploadID: row.UploadID}); err != nil {
		return err
	}
	return q.TrashUpload(ctx, row.UploadID)
}

// CollectableArtifacts implements artifact.Store.
func (s *Store) CollectableArtifacts(ctx context.Context, unusedSince, stalledSince time.Time, limit int) (unused, stalled []artifact.Ref, err error) {
	complete, err := s.read().UnusedArtifacts(ctx, db.UnusedArtifactsParams{
		Before: column.At(unusedSince), Kept: artifact.KeptDeployments, Page: int64(page(limit)),
	})
	if err != nil {
		return nil, nil, s.explain(ctx, "read unused artifacts", err)
	}
	for _, r := range complete {
		unused = append(unused, artifact.Ref{TenantID: r.TenantID, Digest: r.Digest})
	}
	uploads, err := s.read().StalledArtifacts(ctx, db.StalledArtifactsParams{Before: column.At(stalledSince), Page: int64(page(limit))})
	if err != nil {
		return nil, nil, s.explain(ctx, "read stalled uploads", err)
	}
	for _, r := range uploads {
		stalled = append(stalled, artifact.Ref{TenantID: r.TenantID, Digest: r.Digest})
	}
	return unused, stalled, nil
}

// ReclaimArtifacts implements artifact.Store.
func (s *Store) ReclaimArtifacts(ctx context.Context, pieces int) (more bool, err error) {
	waiting, err := s.read().Trash(ctx)
	if err != nil || len(waiting) == 0 {
		return false, s.explain(ctx, "read what is to be reclaimed", err)
	}
	id := waiting[0]
	return true, s.write(ctx, "reclaim upload "+id, func(q *db.Queries) error {
		n, err := q.DeleteArtifactChunks(ctx, db.DeleteArtifactChunksParams{UploadID: id, Page: int64(pieces)})
		if err != nil || n >= int64(pieces) {
			return err
		}
		return q.ForgetTrash(ctx, id)
	})
}

func artifactOf(r *db.Artifact) *artifact.Artifact {
	return &artifact.Artifact{
		TenantID: r.TenantID, Digest: r.Digest, UploadID: r.UploadID, Name: r.Name, MediaType: r.MediaType, Notes: r.Notes,
		Size: r.Size, Received: r.Received, Complete: r.Complete, Sum: r.Sum, CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt.Time,
		UpdatedAt: r.UpdatedAt.Time, CompletedAt: r.CompletedAt.Time, LastUsedAt: r.LastUsedAt.Time,
	}
}
