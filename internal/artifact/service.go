package artifact

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// Options are the limits that an installation may set.
type Options struct {
	// MaxBytes is the most that one artifact may hold; 2 GiB when 0.
	MaxBytes int64
	// Grace is how long a complete artifact that nothing needs stays after its
	// last use; a day when 0.
	Grace time.Duration
}

// Service holds the rules about artifacts. It is safe for concurrent use.
type Service struct {
	store   Store
	opts    Options
	now     func() time.Time
	log     *slog.Logger
	removed chan struct{} // has a value when there are bytes to reclaim
}

// NewService returns a service over a store.
func NewService(store Store, opts Options, now func() time.Time, log *slog.Logger) *Service {
	if opts.MaxBytes == 0 {
		opts.MaxBytes = 2 << 30
	}
	if opts.Grace == 0 {
		opts.Grace = 24 * time.Hour
	}
	return &Service{store: store, opts: opts, now: now, log: log, removed: make(chan struct{}, 1)}
}

// Begin begins an upload, or takes up one that is there, and says how far it
// has come; what is complete needs no upload. It is idempotent.
func (s *Service) Begin(ctx context.Context, tenant, by string, req api.ArtifactRequest) (*Artifact, error) {
	if err := validate(&req, s.opts.MaxBytes); err != nil {
		return nil, err
	}
	now := s.now()
	a := &Artifact{
		TenantID: tenant, Digest: req.Digest, UploadID: uuid.Must(uuid.NewV7()).String(), Name: req.Name, MediaType: req.MediaType,
		Notes: req.Notes, Size: req.Size, Complete: req.Size == 0, CreatedBy: by, CreatedAt: now, UpdatedAt: now, LastUsedAt: now,
	}
	if a.Complete {
		a.CompletedAt = now
	}
	return s.store.BeginArtifact(ctx, a)
}

// storeWithin is how long storing one piece may take, whether its sender is
// still there or not: what came counts.
const storeWithin = 30 * time.Second

// Append reads the rest of an upload from a place on, as far as it comes, and
// blocks until it has ended. Each piece is durable before the next is read, so
// whatever ends it, the upload can be taken up behind the last whole piece.
//
// A place that is not where the upload goes on is a fault of kind Conflict
// whose cause is a [WrongOffset]. Content that does not have the digest is one
// of kind Invalid, and the upload is forgotten. An error of body comes back with
// what came before it stored. What is complete already is returned as it is,
// and nothing is read.
func (s *Service) Append(ctx context.Context, tenant, digest string, offset int64, body io.Reader) (*Artifact, error) {
	a, err := s.store.Artifact(ctx, tenant, digest)
	switch {
	case err != nil:
		return nil, err
	case a.Complete:
		return a, nil
	case offset != a.Received:
		return nil, wrongOffset(a, offset)
	}
	sum, err := resume(a.Sum)
	if err != nil {
		return nil, fmt.Errorf("upload of %s: %w", digest, err)
	}
	buf := make([]byte, min(PieceBytes, a.Size-a.Received))
	for !a.Complete {
		n, readErr := io.ReadFull(body, buf[:min(int64(len(buf)), a.Size-a.Received)])
		if n > 0 {
			if a, err = s.append(context.WithoutCancel(ctx), a, sum, buf[:n]); err != nil {
				return nil, err
			}
		}
		switch {
		case errors.Is(readErr, io.EOF), errors.Is(readErr, io.ErrUnexpectedEOF):
			return a, nil // the rest comes another time
		case readErr != nil:
			return a, readErr
		}
	}
	return a, nil
}

// append stores one piece, and looks at the digest when it is the last.
func (s *Service) append(ctx context.Context, a *Artifact, sum hash.Hash, data []byte) (*Artifact, error) {
	ctx, cancel := context.WithTimeout(ctx, storeWithin)
	defer cancel()
	sum.Write(data)
	last := a.Received+int64(len(data)) == a.Size
	if last {
		if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != a.Digest {
			if err := s.store.DropUpload(ctx, a.TenantID, a.Digest, a.UploadID); err != nil {
				return nil, err
			}
			s.reclaimSoon()
			s.log.WarnContext(ctx, "an upload was dropped: its content has another digest", "announced", a.Digest, "content", got)
			return nil, mismatch(a.Digest, got)
		}
	}
	state, err := marshal(sum)
	if err != nil {
		return nil, fmt.Errorf("upload of %s: %w", a.Digest, err)
	}
	now, appended, err := s.store.AppendArtifact(ctx, Piece{
		TenantID: a.TenantID, Digest: a.Digest, UploadID: a.UploadID, Position: a.Received, Data: data, Sum: state, Complete: last, At: s.now(),
	})
	switch {
	case err != nil:
		return nil, err
	case !appended && now.Complete:
		return now, nil // another upload of the same bytes was faster
	case !appended:
		return nil, wrongOffset(now, a.Received)
	}
	if now.Complete {
		s.log.InfoContext(ctx, "artifact complete", "digest", now.Digest, "name", now.Name, "size", now.Size, "by", now.CreatedBy)
	}
	return now, nil
}

// resume returns a hash as it was when its state was kept.
func resume(state []byte) (hash.Hash, error) {
	sum := sha256.New()
	if len(state) == 0 {
		return sum, nil
	}
	u, ok := sum.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, errors.New("the hash cannot be taken up")
	}
	return sum, u.UnmarshalBinary(state)
}

func marshal(sum hash.Hash) ([]byte, error) {
	m, ok := sum.(encoding.BinaryMarshaler)
	if !ok {
		return nil, errors.New("the hash cannot be kept")
	}
	return m.MarshalBinary()
}

// Get returns the artifact with that digest, or else the newest of that name,
// and the last tasks that were made with it.
func (s *Service) Get(ctx context.Context, tenant, digestOrName string) (*Artifact, []Use, error) {
	const few = 20
	a, err := s.store.Artifact(ctx, tenant, digestOrName)
	if err != nil {
		return nil, nil, err
	}
	uses, err := s.store.ArtifactUses(ctx, tenant, a.Digest, few)
	return a, uses, err
}

// Complete returns an artifact as Get does, and a fault of kind Conflict when
// its upload is not complete.
func (s *Service) Complete(ctx context.Context, tenant, digestOrName string) (*Artifact, error) {
	a, err := s.store.Artifact(ctx, tenant, digestOrName)
	if err == nil && !a.Complete {
		return nil, fault.New(fault.Conflict, "artifact_incomplete",
			"only %d of %d bytes of artifact %s are stored: push it again with `stella artifact push`, which goes on from there", a.Received, a.Size, a.Digest)
	}
	return a, err
}

// ForTask returns an artifact that a task was made with, for the agent that
// holds the task. Anything else is missing: whether it exists is none of the
// agent's business.
func (s *Service) ForTask(ctx context.Context, tenant, agentID, taskID, digest string) (*Artifact, error) {
	return s.store.ArtifactForTask(ctx, tenant, agentID, taskID, digest)
}

// Remove forgets an artifact, or an upload that is not complete. One that a
// task may still need is a fault of kind Conflict.
func (s *Service) Remove(ctx context.Context, tenant, digest string) error {
	if _, err := s.store.RemoveArtifact(ctx, Removal{TenantID: tenant, Digest: digest}); err != nil {
		return err
	}
	s.reclaimSoon()
	return nil
}
