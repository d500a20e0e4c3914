package storetest

import (
	"testing"
	"time"

	"stella-ops.org/stella/internal/fleet"
)

func testClones(t *testing.T, b *bench) {
	web := b.agent("web")
	b.enrol(t, web)
	for _, c := range []struct{ said, want string }{{"first", "first"}, {"", "first"}, {"second", "second"}} {
		_, err := b.RecordHeartbeats(b.ctx, []fleet.Heartbeat{{TenantID: tenant, AgentID: web.ID, At: b.now.Add(time.Hour), Instance: c.said}})
		must(t, err)
		a, err := b.Agent(b.ctx, tenant, web.ID)
		must(t, err)
		if a.Instance != c.want {
			t.Errorf("after %q: the agent is at its start %q", c.said, a.Instance)
		}
	}
	at := b.now
	note := func(tenant, agent, held string, seen time.Time) {
		t.Helper()
		must(t, b.NoteClone(b.ctx, tenant, agent, fleet.Clone{SeenAt: seen, Held: held, Kept: "kept"}, at.Add(-time.Hour)))
	}
	note(tenant, "a", "first", at)
	note(tenant, "a", "second", at.Add(time.Minute))
	note(tenant, "b", "other", at.Add(-time.Minute))
	note("elsewhere", "a", "theirs", at)
	got, err := b.Clones(b.ctx, tenant, at)
	must(t, err)
	same(t, "since", got, map[string]fleet.Clone{"a": {SeenAt: at.Add(time.Minute), Held: "second", Kept: "kept"}})
	got, err = b.Clones(b.ctx, tenant, at.Add(-time.Minute))
	must(t, err)
	if len(got) != 2 || got["b"].Held != "other" {
		t.Errorf("%+v", got)
	}
	// What nobody has seen for long goes with the next note.
	must(t, b.NoteClone(b.ctx, "elsewhere", "c", fleet.Clone{SeenAt: at.Add(time.Hour)}, at.Add(time.Second)))
	got, err = b.Clones(b.ctx, tenant, at.Add(-24*time.Hour))
	must(t, err)
	if len(got) != 1 {
		t.Errorf("%+v", got)
	}
}
