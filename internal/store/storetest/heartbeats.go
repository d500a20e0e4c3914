package storetest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store"
)

func testHeartbeats(t *testing.T, b *bench) {
	a, gone := b.agent("web"), b.agent("gone")
	gone.Lifecycle = api.LifecycleRevoked
	b.enrol(t, a, gone)

	beat := fleet.Heartbeat{
		TenantID: tenant, AgentID: a.ID, At: b.now.Add(time.Second), Status: "degraded", NotAccepting: "disk full", Transport: "grpc",
		ResourceUsage: &api.ResourceUsage{CPUPercent: 12.5, MemoryTotalBytes: 1 << 40}, Capabilities: []string{"host"},
	}
	record := func(beats ...fleet.Heartbeat) []fleet.Transition {
		t.Helper()
		back, err := b.RecordHeartbeats(b.ctx, beats)
		must(t, err)
		return back
	}
	check := func(what string) {
		t.Helper()
		got, err := b.Agent(b.ctx, tenant, a.ID)
		must(t, err)
		same(t, what, got, a)
	}
	if back := record(beat); len(back) != 0 {
		t.Errorf("an agent that was live came back: %v", back)
	}
	a.LastHeartbeat, a.ReportedStatus, a.NotAccepting, a.Transport = beat.At, beat.Status, beat.NotAccepting, beat.Transport
	a.ResourceUsage, a.Capabilities = beat.ResourceUsage, beat.Capabilities
	check("after a heartbeat")

	record(fleet.Heartbeat{TenantID: tenant, AgentID: a.ID, At: b.now.Add(2 * time.Second), Status: "online"})
	a.LastHeartbeat, a.ReportedStatus, a.NotAccepting, a.Transport = b.now.Add(2*time.Second), "online", "", ""
	check("what a heartbeat does not tell stays")

	// What one agent says must not fail what others say.
	record(fleet.Heartbeat{TenantID: tenant, AgentID: a.ID, At: b.now.Add(2500 * time.Millisecond), Status: "on\x00line", NotAccepting: "no\xfftasks"})
	a.LastHeartbeat, a.ReportedStatus, a.NotAccepting = b.now.Add(2500*time.Millisecond), "on\ufffdline", "no\ufffdtasks"
	check("what no database takes")

	record(fleet.Heartbeat{TenantID: tenant, AgentID: a.ID, At: b.now, Status: "old"})
	check("after an old heartbeat")

	record(fleet.Heartbeat{TenantID: tenant, AgentID: a.ID, At: b.now.Add(3 * time.Second), Status: "online", Capabilities: []string{}})
	a.LastHeartbeat, a.ReportedStatus, a.NotAccepting, a.Capabilities = b.now.Add(3*time.Second), "online", "", nil
	check("after all capabilities went")

	// Nobody, another tenant's, a revoked one: passed over. Of two beats of
	// one agent the later counts.
	back := record(
		fleet.Heartbeat{TenantID: tenant, AgentID: "nobody", At: b.now.Add(time.Hour)},
		fleet.Heartbeat{TenantID: "elsewhere", AgentID: a.ID, At: b.now.Add(time.Hour), Status: "degraded"},
		fleet.Heartbeat{TenantID: tenant, AgentID: gone.ID, At: b.now.Add(time.Hour)},
		fleet.Heartbeat{TenantID: tenant, AgentID: a.ID, At: b.now.Add(5 * time.Second), Status: "later\x00 \"quoted\""},
		fleet.Heartbeat{TenantID: tenant, AgentID: a.ID, At: b.now.Add(4 * time.Second), Status: "earlier"},
	)
	if len(back) != 0 {
		t.Errorf("transitions %v, want none", back)
	}
	a.LastHeartbeat, a.ReportedStatus = b.now.Add(5*time.Second), "later\ufffd \"quoted\""
	check("after a mixed batch")
	got, err := b.Agent(b.ctx, tenant, gone.ID)
	must(t, err)
	same(t, "revoked agent", got, gone)
}

func testHeartbeatBatch(t *testing.T, b *bench) {
	const n = 300
	beats := make([]fleet.Heartbeat, n)
	for i := range n {
		a := b.agent(numbered("a", i))
		if i%2 == 0 {
			a.Liveness = []api.Liveness{api.Stale, api.Dead}[i/2%2]
		}
		b.enrol(t, a)
		beats[i] = fleet.Heartbeat{TenantID: tenant, AgentID: a.ID, At: b.now.Add(time.Duration(i) * time.Millisecond), Status: "online"}
	}
	back, err := b.RecordHeartbeats(b.ctx, beats)
	must(t, err)
	if len(back) != n/2 {
		t.Errorf("%d agents came back, want %d", len(back), n/2)
	}
	for _, tr := range back {
		i := slices.IndexFunc(beats, func(h fleet.Heartbeat) bool { return h.AgentID == tr.AgentID })
		same(t, "transition", tr, fleet.Transition{
			TenantID: tenant, AgentID: beats[i].AgentID, Name: numbered("a", i), To: api.Live, At: beats[i].At,
		})
	}
	online, err := b.Agents(b.ctx, tenant, fleet.Filter{Status: "online", Limit: 1000})
	must(t, err)
	if len(online) != n {
		t.Errorf("%d agents are online, want %d", len(online), n)
	}
	back, err = b.RecordHeartbeats(b.ctx, beats)
	must(t, err)
	if len(back) != 0 {
		t.Errorf("%d agents came back again", len(back))
	}
	if _, err := b.RecordHeartbeats(b.ctx, nil); err != nil {
		t.Errorf("an empty batch: %v", err)
	}
}

func testSweep(t *testing.T, b *bench) {
	stale, dead := b.now.Add(-90*time.Second), b.now.Add(-390*time.Second)
	for name, heard := range map[string]time.Time{
		"live": stale, "stale": stale.Add(-time.Microsecond), "edge": dead, "dead": dead.Add(-time.Microsecond),
		"never": {}, "revoked": {}, "inactive": dead.Add(-time.Hour),
	} {
		a := b.agent(name)
		a.LastHeartbeat, a.CreatedAt = heard, dead.Add(-time.Hour)
		switch name {
		case "revoked":
			a.Lifecycle = api.LifecycleRevoked
		case "inactive":
			a.Lifecycle = api.LifecycleInactive
		}
		b.enrol(t, a)
	}
	sweep := func() map[string]api.Liveness {
		t.Helper()
		moved, err := b.SweepLiveness(b.ctx, stale, dead, b.now)
		must(t, err)
		got := map[string]api.Liveness{}
		for _, tr := range moved {
			if tr.TenantID != tenant || tr.AgentID != "id-"+tr.Name || !tr.At.Equal(b.now) {
				t.Errorf("odd transition %+v", tr)
			}
			got[tr.Name] = tr.To
		}
		return got
	}
	same(t, "first sweep", sweep(), map[string]api.Liveness{
		"stale": api.Stale, "edge": api.Stale, "dead": api.Dead, "never": api.Dead, "inactive": api.Dead,
	})
	same(t, "second sweep", sweep(), map[string]api.Liveness{})
	stale, dead = stale.Add(time.Second), dead.Add(time.Second)
	same(t, "a second later", sweep(), map[string]api.Liveness{"live": api.Stale, "edge": api.Dead})
}

// testSweepTwoServers: each transition is announced by one server.
func testSweepTwoServers(t *testing.T, b *bench) {
	const n = 200
	for i := range n {
		b.enrol(t, b.agent(numbered("a", i)))
	}
	stores := []*store.Store{b.Store, b.open(t)}
	moved := make([][]fleet.Transition, 16)
	together(t, len(moved), func(i int) (err error) {
		moved[i], err = stores[i%2].SweepLiveness(b.ctx, b.now.Add(time.Minute), b.now.Add(-time.Minute), b.now)
		return err
	})
	seen := map[string]int{}
	for _, tr := range slices.Concat(moved...) {
		seen[tr.AgentID]++
	}
	if len(seen) != n {
		t.Errorf("%d agents turned stale, want %d", len(seen), n)
	}
	for id, times := range seen {
		if times != 1 {
			t.Errorf("agent %s turned stale %d times", id, times)
		}
	}
}

// testBatchesTwoServers: batches that name the same agents in different orders
// do not block each other, and an agent comes back once.
func testBatchesTwoServers(t *testing.T, b *bench) {
	const n = 100
	var beats []fleet.Heartbeat
	for i := range n {
		a := b.agent(numbered("a", i))
		a.Liveness = api.Dead
		b.enrol(t, a)
		beats = append(beats, fleet.Heartbeat{TenantID: tenant, AgentID: a.ID, At: b.now.Add(time.Second), Status: "online"})
	}
	reverse := slices.Clone(beats)
	slices.Reverse(reverse)
	stores := []*store.Store{b.Store, b.open(t)}
	back := make([][]fleet.Transition, 12)
	together(t, len(back), func(i int) (err error) {
		if i%3 == 2 {
			back[i], err = stores[i%2].SweepLiveness(b.ctx, b.now.Add(-time.Minute), b.now.Add(-time.Hour), b.now)
			return err
		}
		back[i], err = stores[i%2].RecordHeartbeats(b.ctx, [][]fleet.Heartbeat{beats, reverse}[i%2])
		return err
	})
	var ids []string
	for _, tr := range slices.Concat(back...) {
		ids = append(ids, tr.AgentID)
	}
	slices.SortFunc(ids, strings.Compare)
	if len(ids) != n || len(slices.Compact(ids)) != n {
		t.Errorf("%d transitions, want one for each of %d agents", len(ids), n)
	}
}
