package server

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/obs/metrics"
)

// agentCounts is how many agents there are, how soon their certificates end, and
// under which trust they were issued. To count them reads them all, so that what
// was counted is good for a while: however many scrape, and however often, the
// database is asked twice a minute at the most. It is safe for concurrent use.
type agentCounts struct {
	read func(ctx context.Context, at time.Time) ([]*enroll.CertificateCount, error)
	now  func() time.Time
	log  *slog.Logger

	mu   sync.Mutex
	last []*enroll.CertificateCount // nil when they could not be counted
	at   time.Time
}

const (
	countsFresh = 30 * time.Second
	// countsPatience is how long a scrape waits for the database.
	countsPatience = 5 * time.Second
)

// get counts, or returns what was counted lately; ok is false when the agents
// cannot be counted now. It blocks while another one counts.
func (c *agentCounts) get() (counts []*enroll.CertificateCount, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if age := now.Sub(c.at); age >= 0 && age < countsFresh && !c.at.IsZero() {
		return c.last, c.last != nil
	}
	// What could not be counted is not tried again and again either.
	c.at, c.last = now, nil
	ctx, cancel := context.WithTimeout(context.Background(), countsPatience)
	defer cancel()
	counts, err := c.read(ctx, now)
	if err != nil {
		c.log.WarnContext(ctx, "the agents were not counted, and are missing from the metrics until they are", "error", err, "retry", countsFresh.String())
		return nil, false
	}
	if counts == nil {
		counts = []*enroll.CertificateCount{}
	}
	c.last = counts
	return counts, true
}

var livenesses = []api.Liveness{api.Live, api.Stale, api.Dead}

// byLiveness returns what reads a count for each liveness.
func (c *agentCounts) byLiveness(count func(*enroll.CertificateCount) int) func() []metrics.Sample {
	return func() []metrics.Sample { return c.sum(nil, count) }
}

// ending is how many certificates end soon, by how soon.
func (c *agentCounts) ending() []metrics.Sample {
	var out []metrics.Sample
	for _, within := range []struct {
		label string
		count func(*enroll.CertificateCount) int
	}{
		{"1h", func(n *enroll.CertificateCount) int { return n.WithinHour }},
		{"1d", func(n *enroll.CertificateCount) int { return n.WithinDay }},
		{"7d", func(n *enroll.CertificateCount) int { return n.WithinWeek }},
		{"30d", func(n *enroll.CertificateCount) int { return n.WithinMonth }},
	} {
		out = append(out, c.sum([]string{within.label}, within.count)...)
	}
	return out
}

// byTrust is how many agents have followed the last change of the authority, and
// how many have not. Which trusts there were, nobody has to know.
func (c *agentCounts) byTrust(current string) []metrics.Sample {
	of := func(followed bool) func(*enroll.CertificateCount) int {
		return func(n *enroll.CertificateCount) int {
			if (n.Trust == current) == followed {
				return n.Agents
			}
			return 0
		}
	}
	return append(c.sum([]string{"current"}, of(true)), c.sum([]string{"outdated"}, of(false))...)
}

// sum adds up a count for each liveness, which is the label behind the others.
func (c *agentCounts) sum(labels []string, count func(*enroll.CertificateCount) int) []metrics.Sample {
	counts, ok := c.get()
	if !ok {
		return nil
	}
	total := map[api.Liveness]int{}
	for _, n := range counts {
		total[n.Liveness] += count(n)
	}
	var out []metrics.Sample
	for _, l := range livenesses {
		out = append(out, metrics.Sample{Labels: append(append([]string{}, labels...), string(l)), Value: float64(total[l])})
	}
	return out
}
