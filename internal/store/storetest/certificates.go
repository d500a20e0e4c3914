package storetest

import (
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
)

// testCertificateCounts: each agent is counted once, whatever its tenant, and in
// all times within which its certificate ends.
func testCertificateCounts(t *testing.T, b *bench) {
	if none, err := b.CertificateCounts(b.ctx, b.now); err != nil || len(none) != 0 {
		t.Fatalf("of nobody: %+v, %v", none, err)
	}
	const day = 24 * time.Hour
	must(t, b.db.Exec(b.ctx, `INSERT INTO tenants (id) VALUES ('other')`))
	for name, c := range map[string]struct {
		ends     time.Duration
		liveness api.Liveness
		trust    string
	}{
		"long-ended": {-40 * day, api.Dead, "old"}, "ended-now": {0, api.Live, "new"}, "soon": {time.Microsecond, api.Live, "new"},
		"hour": {time.Hour, api.Live, "new"}, "day": {day, api.Live, "new"}, "week": {7 * day, api.Live, "new"}, "month": {30 * day, api.Live, "new"},
		"far": {90 * day, api.Live, "new"}, "revoked": {0, api.Live, "new"}, "theirs": {day, api.Live, "new"},
	} {
		a := b.agent(name)
		a.CertificateNotAfter, a.Liveness, a.Trust = b.now.Add(c.ends), c.liveness, c.trust
		if name == "theirs" {
			a.TenantID = "other"
		}
		if name == "revoked" {
			a.Lifecycle = api.LifecycleRevoked
		}
		b.enrol(t, a)
	}
	got, err := b.CertificateCounts(b.ctx, b.now)
	must(t, err)
	counts := map[string]*enroll.CertificateCount{}
	for _, c := range got {
		counts[c.Trust] = c
	}
	same(t, "the counts", counts, map[string]*enroll.CertificateCount{
		"old": {Trust: "old", Liveness: api.Dead, Agents: 1, Ended: 1},
		"new": {Trust: "new", Liveness: api.Live, Agents: 8, Ended: 1, WithinHour: 2, WithinDay: 4, WithinWeek: 5, WithinMonth: 6},
	})
}

// benchCertificateCounts is what a scrape of the metrics costs the database, now
// and then.
func benchCertificateCounts(t *testing.B, b *bench) {
	const many = 10_000
	b.fleet(t, many)
	t.ResetTimer()
	for range t.N {
		if _, err := b.CertificateCounts(b.ctx, b.now); err != nil {
			t.Fatal(err)
		}
	}
	t.ReportMetric(float64(t.Elapsed().Milliseconds())/float64(t.N), "ms/10k-agents")
}
