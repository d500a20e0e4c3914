package load

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// beats counts the heartbeats of one measurement.
type beats struct {
	latency *latencies // from when it was due to its answer
	late    *latencies // from when it was due to when it was sent

	sentCount  atomic.Int64
	ackedCount atomic.Int64

	mu      sync.Mutex
	heard   []bool // which agents had an answer
	lastAck time.Time
}

func newBeats(agents int) *beats {
	return &beats{latency: newLatencies(), late: newLatencies(), heard: make([]bool, agents)}
}

func (b *beats) sent(late time.Duration) {
	b.sentCount.Add(1)
	b.late.record(late)
}

func (b *beats) acked(agent int, took time.Duration, now time.Time) {
	b.latency.record(took)
	b.mu.Lock()
	b.heard[agent] = true
	if now.After(b.lastAck) {
		b.lastAck = now
	}
	b.mu.Unlock()
	b.ackedCount.Add(1)
}

// until returns the time of the last answer.
func (b *beats) until() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lastAck
}

// who returns which agents had an answer.
func (b *beats) who() []bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.heard)
}
