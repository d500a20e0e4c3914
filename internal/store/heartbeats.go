package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// beat is a heartbeat as the statements read it. What it does not tell stays
// as it was.
type beat struct {
	Tenant       string             `json:"tenant"`
	ID           string             `json:"id"`
	At           int64              `json:"at"` // microseconds since 1970
	Status       string             `json:"status"`
	NotAccepting string             `json:"notAccepting"`
	Transport    string             `json:"transport"`
	Usage        *api.ResourceUsage `json:"usage,omitempty"`
	Capabilities *[]string          `json:"capabilities,omitempty"`
	Instance     string             `json:"instance,omitempty"`
	Boot         int64              `json:"boot"` // 0 for one that is not signed itself
	Number       int64              `json:"number"`
}

// RecordHeartbeats implements fleet.Store. A beat that is older than the last
// one known is passed over, by its number when it has one and by its time otherwise,
// and so is one of a revoked agent.
func (s *Store) RecordHeartbeats(ctx context.Context, beats []fleet.Heartbeat) ([]fleet.Transition, error) {
	if len(beats) == 0 {
		return nil, nil
	}
	batch, err := encodeBeats(beats)
	if err != nil {
		return nil, err
	}
	at := make(map[string]time.Time, len(beats))
	for _, b := range beats {
		if b.At.After(at[b.AgentID]) {
			at[b.AgentID] = b.At
		}
	}
	var back []fleet.Transition
	err = s.write(ctx, "record heartbeats", func(q *db.Queries) error {
		rows, err := q.LockReturning(ctx, batch)
		if err != nil {
			return err
		}
		back = nil
		for _, r := range rows {
			back = append(back, fleet.Transition{
				TenantID: r.TenantID, AgentID: r.ID, Name: r.Name, To: api.Live, At: column.At(at[r.ID]).Time,
			})
		}
		return q.RecordHeartbeats(ctx, batch)
	})
	if err != nil {
		return nil, err
	}
	return back, nil
}

// encodeBeats makes one JSON array of a batch, with the latest beat of each
// agent: an update from a list takes any of several rows for one agent.
func encodeBeats(beats []fleet.Heartbeat) (column.Raw, error) {
	type key struct{ tenant, id string }
	latest := make(map[key]beat, len(beats))
	for _, h := range beats {
		k := key{h.TenantID, h.AgentID}
		b := beat{
			Tenant: h.TenantID, ID: h.AgentID, At: h.At.UnixMicro(),
			Status: cleanText(h.Status), NotAccepting: cleanText(h.NotAccepting), Transport: h.Transport, Usage: h.ResourceUsage,
			Instance: cleanText(h.Instance), Boot: h.Signed.Boot, Number: h.Signed.Number,
		}
		if h.Capabilities != nil {
			b.Capabilities = &h.Capabilities
		}
		if old, ok := latest[k]; !ok || old.At <= b.At {
			latest[k] = b
		}
	}
	list := slices.SortedFunc(maps.Values(latest), func(a, b beat) int { return cmp.Compare(a.ID, b.ID) })
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("encode heartbeats: %w", err)
	}
	return raw, nil
}

// SweepLiveness implements fleet.Store. An agent that was live and has been
// silent long enough to be dead is returned as dead only. Revoked agents are
// left alone.
func (s *Store) SweepLiveness(ctx context.Context, staleBefore, deadBefore, at time.Time) ([]fleet.Transition, error) {
	var moved []fleet.Transition
	err := s.write(ctx, "sweep liveness", func(q *db.Queries) error {
		rows, err := q.SweepLiveness(ctx, db.SweepLivenessParams{StaleBefore: column.At(staleBefore), DeadBefore: column.At(deadBefore)})
		if err != nil {
			return err
		}
		moved = nil
		for _, r := range rows {
			moved = append(moved, fleet.Transition{
				TenantID: r.TenantID, AgentID: r.ID, Name: r.Name, To: api.Liveness(r.Liveness), At: column.At(at).Time,
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return moved, nil
}
