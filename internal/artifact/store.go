package artifact

import (
	"context"
	"time"
)

// Store keeps artifacts. Every method is atomic and safe for concurrent use by
// many servers. A missing artifact is a fault of kind NotFound. What tasks do
// with artifacts, task.Store has.
type Store interface {
	// BeginArtifact adds an artifact, unless there is one with its digest, and
	// returns the one that there is. That one counts as used now, and takes
	// name, media type and notes where the new one has them. Another size is a
	// fault of kind Conflict.
	BeginArtifact(ctx context.Context, a *Artifact) (*Artifact, error)
	// AppendArtifact adds a piece to its upload, if it is the next one; false
	// when it is not. It returns the artifact as it is now.
	AppendArtifact(ctx context.Context, p Piece) (now *Artifact, appended bool, err error)
	// DropUpload forgets an upload that is not complete, if it is still there.
	DropUpload(ctx context.Context, tenant, digest, uploadID string) error

	// Artifact returns the artifact with that digest, or else the newest of
	// that name.
	Artifact(ctx context.Context, tenant, digestOrName string) (*Artifact, error)
	// Artifacts returns a page of artifacts, the newest first unless the filter
	// says another order.
	Artifacts(ctx context.Context, tenant string, f Filter) ([]*Artifact, error)
	// ArtifactUses returns the last tasks that were made with an artifact.
	ArtifactUses(ctx context.Context, tenant, digest string, limit int) ([]Use, error)
	// ArtifactForTask returns an artifact that a task was made with, while an
	// agent holds that task; otherwise it is missing.
	ArtifactForTask(ctx context.Context, tenant, agentID, taskID, digest string) (*Artifact, error)
	// ArtifactPiece returns the piece of an upload in which a place lies, and
	// where it begins; missing when the artifact was removed meanwhile.
	ArtifactPiece(ctx context.Context, uploadID string, at int64) (position int64, data []byte, err error)

	// RemoveArtifact forgets an artifact or an upload; its bytes stay until
	// Reclaim. Without conditions, an artifact that a task may still need (see
	// KeptDeployments) is a fault of kind Conflict; with them it is passed
	// over, as is what they do not fit, and nil is returned.
	RemoveArtifact(ctx context.Context, r Removal) (removed *Artifact, err error)
	// CollectableArtifacts returns complete artifacts that nothing needs and
	// that were not used since a time, and uploads that nobody continued since
	// another.
	CollectableArtifacts(ctx context.Context, unusedSince, stalledSince time.Time, limit int) (unused, stalled []Ref, err error)
	// ReclaimArtifacts deletes up to so many pieces of what was removed, and
	// reports whether there may be more.
	ReclaimArtifacts(ctx context.Context, pieces int) (more bool, err error)
}
