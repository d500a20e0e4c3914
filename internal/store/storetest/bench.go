package storetest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

// Benchmark measures what the fleet's size asks of a store.
func Benchmark(b *testing.B, fresh func(t testing.TB) Database) {
	b.Run("Enrol", func(b *testing.B) { benchEnrol(b, newBench(b, fresh(b))) })
	b.Run("Heartbeats10k", func(b *testing.B) { benchHeartbeats(b, newBench(b, fresh(b))) })
	b.Run("Sweep10k", func(b *testing.B) { benchSweep(b, newBench(b, fresh(b))) })
	b.Run("ClaimAndFinish", func(b *testing.B) { benchClaim(b, newBench(b, fresh(b))) })
	b.Run("List10k", func(b *testing.B) { benchList(b, newBench(b, fresh(b))) })
	b.Run("Credential", func(b *testing.B) { benchCertificate(b, newBench(b, fresh(b))) })
	b.Run("AppendLog", func(b *testing.B) { benchLog(b, newBench(b, fresh(b))) })
	b.Run("Audit1", func(b *testing.B) { benchAudit(b, newBench(b, fresh(b)), 1, 1) })
	b.Run("Audit64", func(b *testing.B) { benchAudit(b, newBench(b, fresh(b)), 64, 1) })
	b.Run("Audit64AtTwoServers", func(b *testing.B) { benchAudit(b, newBench(b, fresh(b)), 64, 2) })
	b.Run("AuditVerify20k", func(b *testing.B) { benchVerify(b, newBench(b, fresh(b))) })
	b.Run("CertificateCounts10k", func(b *testing.B) { benchCertificateCounts(b, newBench(b, fresh(b))) })
	b.Run("Commands", func(b *testing.B) { benchCommands(b, newBench(b, fresh(b))) })
}

// parallel runs f once for each of n, on 64 goroutines.
func parallel(t testing.TB, n int, f func(i int) error) {
	t.Helper()
	parallelBy(t, 64, n, f)
}

// parallelBy is parallel on some other number of goroutines.
func parallelBy(t testing.TB, goroutines, n int, f func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
}

// fleet enrols agents.
func (b *bench) fleet(t testing.TB, n int) []*fleet.Agent {
	t.Helper()
	agents := make([]*fleet.Agent, n)
	for i := range agents {
		agents[i] = b.agent(numbered("a", i))
	}
	parallel(t, n, func(i int) error { return b.Enrol(b.ctx, b.enrolment(agents[i])) })
	return agents
}

func benchEnrol(t *testing.B, b *bench) {
	tok := b.token(t, "tok", 1<<30)
	agents := make([]*fleet.Agent, t.N)
	for i := range agents {
		agents[i] = b.agent(numbered("a", i))
	}
	t.ResetTimer()
	parallel(t, t.N, func(i int) error {
		e := b.enrolment(agents[i])
		e.TokenID = tok.ID
		return b.Enrol(b.ctx, e)
	})
	t.ReportMetric(float64(t.N)/t.Elapsed().Seconds(), "agents/s")
}

func benchHeartbeats(t *testing.B, b *bench) {
	agents := b.fleet(t, 10_000)
	beats := make([]fleet.Heartbeat, len(agents))
	for i, a := range agents {
		beats[i] = fleet.Heartbeat{
			TenantID: tenant, AgentID: a.ID, Status: "online", Capabilities: a.Capabilities,
			ResourceUsage: &api.ResourceUsage{CPUPercent: 12.5, MemoryPercent: 40, DiskFreeBytes: 1 << 40, Load1: 0.7},
		}
	}
	at := b.now
	for t.Loop() {
		at = at.Add(time.Second)
		for i := range beats {
			beats[i].At = at
		}
		if _, err := b.RecordHeartbeats(b.ctx, beats); err != nil {
			t.Fatal(err)
		}
	}
	t.ReportMetric(float64(t.N*len(beats))/t.Elapsed().Seconds(), "beats/s")
}

func benchSweep(t *testing.B, b *bench) {
	b.fleet(t, 10_000)
	for t.Loop() {
		if _, err := b.SweepLiveness(b.ctx, b.now.Add(-time.Minute), b.now.Add(-time.Hour), b.now); err != nil {
			t.Fatal(err)
		}
	}
}

func benchClaim(t *testing.B, b *bench) {
	const agents = 100
	b.fleet(t, agents)
	queue := make([]*task.Task, t.N)
	targets := make([]string, agents)
	for i := range targets {
		targets[i] = b.target(t, numbered("t", i), "id-"+numbered("a", i)).ID
	}
	parallel(t, t.N, func(i int) error {
		queue[i] = b.queued(targets[i%agents])
		queue[i].Changing = false
		_, err := b.InsertTask(b.ctx, queue[i])
		return err
	})
	t.ResetTimer()
	parallel(t, t.N, func(i int) error {
		c := b.claim(queue[i], "id-"+numbered("a", i%agents))
		c.MaxActive = 1000
		k, err := b.ClaimTask(b.ctx, c)
		if err != nil {
			return err
		}
		_, err = b.FinishTask(b.ctx, task.Finish{
			Ref: task.Ref{ID: k.ID, Attempt: k.Attempt}, AgentID: k.AgentID, State: api.TaskSucceeded, At: b.now,
			Result: &api.TaskResult{TaskID: k.ID, Success: true},
		})
		return err
	})
	t.ReportMetric(float64(t.N)/t.Elapsed().Seconds(), "tasks/s")
}

func benchList(t *testing.B, b *bench) {
	b.fleet(t, 10_000)
	for name, f := range map[string]fleet.Filter{
		"First100":     {Limit: 100},
		"Last100":      {Limit: 100, Query: behind(t, fleet.Schema, filter.Query{}, &fleet.Agent{ID: "id-" + numbered("a", 9_899)})},
		"Filter100":    {Limit: 100, Query: asked(t, `status=online and (env=prod or label.zone ~ "b*") and capability=docker.deploy`, "")},
		"Sorted100":    {Limit: 100, Query: asked(t, "", "-createdAt,-name")},
		"ByName":       {Limit: 100, Name: numbered("a", 5_000)},
		"NoneInStatus": {Limit: 100, Status: "dead"},
		"OneByLabel":   {Limit: 100, Labels: map[string]string{"name": numbered("a", 9_999)}},
		"NoneCan":      {Limit: 100, Capability: "host.deploy"},
	} {
		t.Run(name, func(t *testing.B) {
			for t.Loop() {
				if _, err := b.Agents(b.ctx, tenant, f); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// asked is what somebody asks of agents.
func asked(t testing.TB, text, order string) filter.Query {
	t.Helper()
	q, err := fleet.Schema.Query(filter.Request{Filter: text, Sort: order}, time.Time{})
	must(t, err)
	return q
}

func benchCertificate(t *testing.B, b *bench) {
	agents := b.fleet(t, 1000)
	t.ResetTimer()
	parallel(t, t.N, func(i int) error {
		_, err := b.Credential(b.ctx, agents[i%len(agents)].CertificateFingerprint)
		return err
	})
}

func benchLog(t *testing.B, b *bench) {
	k := b.insert(t, b.target(t, "web", "id-a").ID)
	lines := b.lines(1, 50)
	seq := int64(1)
	for t.Loop() {
		if _, err := b.AppendLog(b.ctx, task.Ref{ID: k.ID, Attempt: 1}, seq, lines, 1<<40); err != nil {
			t.Fatal(err)
		}
		seq += int64(len(lines))
	}
}
