package artifact

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// collectEvery is how often a server looks for what may go, and half of it
	// how far apart servers are by chance.
	collectEvery = 10 * time.Minute
	// uploadGrace is how long an upload waits to be continued.
	uploadGrace = 24 * time.Hour
	// collectBatch is how many artifacts go in one round, and reclaimPieces how
	// many pieces in one transaction: others want to write too.
	collectBatch  = 100
	reclaimPieces = 16
)

// Run removes what nothing needs any more, and uploads that nobody continued,
// until ctx ends. Any number of servers may do so at the same time.
func (s *Service) Run(ctx context.Context) error {
	s.reclaimSoon()                                 // what another process had no time for
	next := time.NewTimer(rand.N(collectEvery / 2)) //nolint:gosec // spreading load needs no secret
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.removed:
		case <-next.C:
			if err := s.Collect(ctx); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "artifacts were not collected", "error", err)
			}
			next.Reset(collectEvery + rand.N(collectEvery/2)) //nolint:gosec // as above
		}
		if err := s.Reclaim(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "the bytes of removed artifacts were not reclaimed", "error", err)
		}
	}
}

// Collect removes the complete artifacts that no task may still need and that
// were not used for the grace period, and the uploads that nobody continued for
// a day. Their bytes stay until Reclaim.
func (s *Service) Collect(ctx context.Context) error {
	now := s.now()
	unusedSince, stalledSince := now.Add(-s.opts.Grace), now.Add(-uploadGrace)
	for {
		unused, stalled, err := s.store.CollectableArtifacts(ctx, unusedSince, stalledSince, collectBatch)
		if err != nil {
			return err
		}
		n := 0
		for _, ref := range append(unused, stalled...) {
			a, err := s.store.RemoveArtifact(ctx, Removal{TenantID: ref.TenantID, Digest: ref.Digest, UnusedSince: unusedSince, StalledSince: stalledSince})
			if err != nil {
				return err
			}
			if a == nil {
				continue // somebody has just used it, or another server was faster
			}
			n++
			s.log.InfoContext(ctx, "artifact removed: nothing needs it any more", "digest", a.Digest, "name", a.Name,
				"size", a.Size, "complete", a.Complete, "last_used", a.LastUsedAt)
		}
		if n == 0 {
			return nil
		}
	}
}

// Reclaim deletes the bytes of what was removed, in small steps.
func (s *Service) Reclaim(ctx context.Context) error {
	for {
		more, err := s.store.ReclaimArtifacts(ctx, reclaimPieces)
		if err != nil || !more {
			return err
		}
	}
}

func (s *Service) reclaimSoon() {
	select {
	case s.removed <- struct{}{}:
	default: // it is known already
	}
}
