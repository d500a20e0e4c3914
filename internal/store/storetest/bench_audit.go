package storetest

import (
	"testing"

	"stella-ops.org/stella/internal/access"
)

// benchAudit has writers add lines, each one after the other, at one server or
// several.
func benchAudit(t *testing.B, b *bench, writers, servers int) {
	logs := make([]*access.Log, servers)
	for i := range logs {
		logs[i] = b.auditLog(t, b.open(t))
	}
	t.ResetTimer()
	b.fill(t, logs, writers, t.N)
	t.ReportMetric(float64(t.N)/t.Elapsed().Seconds(), "lines/s")
	t.StopTimer()
	if c, err := b.AuditChain(b.ctx, tenant); err != nil || c.Head.Seq != int64(t.N) {
		t.Fatalf("of %d lines there are %d, %v", t.N, c.Head.Seq, err)
	}
}

// fill adds lines as registrations do.
func (b *bench) fill(t testing.TB, logs []*access.Log, writers, lines int) {
	t.Helper()
	parallelBy(t, writers, lines, func(i int) error {
		logs[i%len(logs)].Audit(b.ctx, access.Event{
			TenantID: tenant, At: b.now, Actor: "agent:" + numbered("a", i), Action: "agent.register", Object: numbered("a", i),
			Remote: "10.0.0.1:1234", Outcome: "ok", Detail: numbered("host", i),
		})
		return nil
	})
}

func benchVerify(t *testing.B, b *bench) {
	const lines = 20_000
	log := b.auditLog(t, b.Store)
	b.fill(t, []*access.Log{log}, 64, lines)
	for t.Loop() {
		b.holds(t, log, 1, lines)
	}
	t.ReportMetric(float64(t.N)*lines/t.Elapsed().Seconds(), "lines/s")
}
