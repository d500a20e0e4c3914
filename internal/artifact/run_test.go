package artifact_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/artifact"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/store/sqlite"
)

// The rules are tested with the stores, in storetest. Here: what is removed
// while the service runs gives its space back without waiting for its round,
// and so does what an earlier process left.
func TestRunReclaims(t *testing.T) {
	t.Parallel()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	service := func() *artifact.Service {
		return artifact.NewService(st, artifact.Options{}, time.Now, slog.New(slog.DiscardHandler))
	}
	s := service()
	remove := func(s *artifact.Service, content string) (uploadID string) {
		t.Helper()
		sum := sha256.Sum256([]byte(content))
		req := api.ArtifactRequest{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content))}
		a, err := s.Begin(t.Context(), "default", "me", req)
		if err == nil {
			_, err = s.Append(t.Context(), "default", a.Digest, 0, bytes.NewReader([]byte(content)))
		}
		if err == nil {
			err = s.Remove(t.Context(), "default", a.Digest)
		}
		if err != nil {
			t.Fatal(err)
		}
		return a.UploadID
	}
	gone := func(uploadID string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for {
			_, _, err := st.ArtifactPiece(ctx, uploadID, 0)
			if fault.KindOf(err) == fault.NotFound {
				return
			}
			if err != nil {
				t.Fatalf("its bytes are still there: %v", err)
			}
		}
	}
	earlier := remove(service(), "left by an earlier process")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	gone(earlier)
	gone(remove(s, "removed while it runs"))
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
