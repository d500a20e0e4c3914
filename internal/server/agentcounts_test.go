package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/obs/metrics"
)

// However many scrape, and however often, the agents are counted twice a minute at
// the most; also when that fails, and then they are missing and not zero.
func TestAgentsAreCountedNowAndThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		var failure error
		var log bytes.Buffer
		c := &agentCounts{now: time.Now, log: slog.New(slog.NewTextHandler(&log, nil)), read: func(ctx context.Context, at time.Time) ([]*enroll.CertificateCount, error) {
			if _, bounded := ctx.Deadline(); !bounded || !at.Equal(time.Now()) {
				t.Errorf("asked at %s, bounded %t", at, bounded)
			}
			asked++
			return []*enroll.CertificateCount{
				{Trust: "a", Liveness: api.Live, Agents: 5, Ended: 1}, {Trust: "b", Liveness: api.Live, Agents: 2}, {Trust: "b", Liveness: api.Dead, Agents: 1, WithinDay: 1},
			}, failure
		}}
		for range 100 {
			for range 10 {
				if got := c.byTrust("b"); len(got) != 6 {
					t.Fatalf("%v", got)
				}
				c.ending()
			}
			time.Sleep(time.Second) //nolint:forbidigo // in a bubble it is instant
		}
		if asked != 4 {
			t.Errorf("in 100 s the database was asked %d times", asked)
		}
		want := []metrics.Sample{
			{Labels: []string{"current", "live"}, Value: 2},
			{Labels: []string{"current", "stale"}},
			{Labels: []string{"current", "dead"}, Value: 1},
			{Labels: []string{"outdated", "live"}, Value: 5},
			{Labels: []string{"outdated", "stale"}},
			{Labels: []string{"outdated", "dead"}},
		}
		if diff := cmp.Diff(want, c.byTrust("b")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}

		failure = errors.New("the database is away")
		time.Sleep(countsFresh) //nolint:forbidigo // as above
		asked = 0
		for range 50 {
			if got := c.ending(); len(got) != 0 {
				t.Fatalf("what is not known is told: %v", got)
			}
		}
		if asked != 1 || strings.Count(log.String(), "away") != 1 {
			t.Errorf("asked %d times: %s", asked, log.String())
		}
		failure = nil
		time.Sleep(countsFresh) //nolint:forbidigo // as above
		if got := c.ending(); len(got) != 12 {
			t.Errorf("it does not come back: %v", got)
		}
	})
}

// What agents may say has bounds as a label, and the parts are counted together
// all the same.
func TestBootstrapLabelsAreBounded(t *testing.T) {
	t.Parallel()
	r := metrics.New(nil)
	m := newMeter(r)
	for i := range 1000 {
		m.Bootstrapped(strings.Repeat("e", 1+i%100), strings.Repeat("p", 1+i%200), "")
	}
	if a, b := m.environments.Of("one more"), m.platforms.Of("one more"); a != metrics.Others || b != metrics.Others {
		t.Errorf("one more is %q, and %q", a, b)
	}
}
