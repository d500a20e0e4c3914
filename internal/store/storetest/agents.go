package storetest

import (
	"slices"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

func testAgentLookup(t *testing.T, b *bench) {
	web := b.agent("web")
	// Its name is another agent's id: the id wins.
	odd := b.agent("id-web")
	b.enrol(t, web, odd)

	for _, key := range []string{"id-web", "web"} {
		got, err := b.Agent(b.ctx, tenant, key)
		must(t, err)
		same(t, "agent by "+key, got, web)
	}
	_, err := b.Agent(b.ctx, tenant, "nobody")
	wantFault(t, err, fault.NotFound, "agent_not_found")
	_, err = b.Agent(b.ctx, "elsewhere", "web")
	wantFault(t, err, fault.NotFound, "agent_not_found")

	got, err := b.Credential(b.ctx, web.CertificateFingerprint)
	must(t, err)
	same(t, "credential", got, &fleet.Credential{Agent: web})
	got, err = b.Credential(b.ctx, hash("no such certificate"))
	must(t, err)
	if got != nil {
		t.Errorf("an unknown certificate belongs to %s", got.Agent.ID)
	}
}

func testAgentFilters(t *testing.T, b *bench) {
	add := func(name string, change func(*fleet.Agent)) {
		a := b.agent(name)
		change(a)
		b.enrol(t, a)
	}
	add("plain", func(*fleet.Agent) {})
	add("bare", func(a *fleet.Agent) { a.Capabilities, a.Labels = nil, nil })
	add("deployer", func(a *fleet.Agent) { a.Capabilities = []string{"docker.deploy", "health_check"} })
	add("staging", func(a *fleet.Agent) {
		a.Environment, a.Group, a.Labels = "staging", "db", map[string]string{"zone": "b"}
	})
	add("stale", func(a *fleet.Agent) { a.Liveness = api.Stale })
	add("dead", func(a *fleet.Agent) { a.Liveness = api.Dead })
	add("resting", func(a *fleet.Agent) { a.Lifecycle = api.LifecycleInactive })
	add("gone", func(a *fleet.Agent) { a.Lifecycle = api.LifecycleRevoked })
	add("unwell", func(a *fleet.Agent) { a.ReportedStatus = "degraded" })

	all, err := b.Agents(b.ctx, tenant, fleet.Filter{Limit: 1000})
	must(t, err)
	if len(all) != 9 {
		t.Fatalf("%d agents, want 9", len(all))
	}
	filters := []fleet.Filter{
		{Capability: "docker.deploy"},
		{Capability: "docker.inspect"},
		{Capability: "host.health-check"},
		{Capability: "none"},
		{Group: "web"},
		{Group: "db"},
		{Environment: "staging"},
		{Name: "plain"},
		{Name: "nobody"},
		{Name: "plain", Group: "db"},
		{Labels: map[string]string{"zone": "a"}},
		{Labels: map[string]string{"zone": "b", "name": "x"}},
		{Status: "online", Capability: "docker.deploy", Labels: map[string]string{"zone": "a"}, Group: "web"},
	}
	for _, word := range []string{"active", "inactive", "revoked", "live", "stale", "dead", "online", "degraded", "offline", "ONLINE", "Stale"} {
		filters = append(filters, fleet.Filter{Status: word})
	}
	for _, f := range filters {
		f.Limit = 1000
		var want []string
		for _, a := range all {
			if f.Matches(a) {
				want = append(want, a.Name)
			}
		}
		got, err := b.Agents(b.ctx, tenant, f)
		must(t, err)
		same(t, "agents that match", names(got), want)
	}
	none, err := b.Agents(b.ctx, "elsewhere", fleet.Filter{Limit: 10})
	must(t, err)
	if len(none) != 0 {
		t.Errorf("another tenant sees %v", names(none))
	}
}

func testAgentPages(t *testing.T, b *bench) {
	var want []string
	for i := range 60 {
		a := b.agent(numbered("a", i))
		if i%3 == 0 {
			a.Labels = map[string]string{"third": "yes"}
			a.Capabilities = []string{"host"}
			want = append(want, a.Name)
		}
		b.enrol(t, a)
	}
	// Full pages, whatever the filter leaves out.
	for _, f := range []fleet.Filter{{Labels: map[string]string{"third": "yes"}}, {Capability: "host.deploy"}} {
		f.Limit = 7
		var got []string
		for {
			page, err := b.Agents(b.ctx, tenant, f)
			must(t, err)
			got = append(got, names(page)...)
			if len(page) < f.Limit {
				break
			}
			f.Query = behind(t, fleet.Schema, f.Query, page[len(page)-1])
		}
		same(t, "all pages", got, want)
	}
	// Ids sort byte by byte on every engine and in every locale.
	for _, id := range []string{"Z", "a", "B", "_", "-x", "0"} {
		a := b.agent("order" + id)
		a.ID = id
		b.enrol(t, a)
	}
	all, err := b.Agents(b.ctx, tenant, fleet.Filter{Limit: 1000})
	must(t, err)
	if !slices.IsSortedFunc(all, func(x, y *fleet.Agent) int {
		if x.ID < y.ID {
			return -1
		}
		return 1
	}) {
		t.Errorf("agents are not in the order of their ids: %v", names(all))
	}
}

func testAgentUpdate(t *testing.T, b *bench) {
	a := b.agent("web")
	b.enrol(t, a)
	later := b.now.Add(time.Minute)

	labels := map[string]string{"new": "label"}
	must(t, b.UpdateAgent(b.ctx, tenant, a.ID, &labels, nil, later))
	a.Labels, a.UpdatedAt = labels, later
	got, err := b.Agent(b.ctx, tenant, a.ID)
	must(t, err)
	same(t, "after labels", got, a)

	capabilities := []string{"host"}
	must(t, b.UpdateAgent(b.ctx, tenant, a.ID, nil, &capabilities, later))
	a.Capabilities, a.AllowedCapabilities = capabilities, capabilities
	got, err = b.Agent(b.ctx, tenant, a.ID)
	must(t, err)
	same(t, "after capabilities", got, a)

	labels = nil
	must(t, b.UpdateAgent(b.ctx, tenant, a.ID, &labels, nil, later))
	got, err = b.Agent(b.ctx, tenant, a.ID)
	must(t, err)
	if len(got.Labels) != 0 {
		t.Errorf("labels %v, want none", got.Labels)
	}
	wantFault(t, b.UpdateAgent(b.ctx, tenant, "nobody", &labels, nil, later), fault.NotFound, "agent_not_found")
}

func testLifecycle(t *testing.T, b *bench) {
	a := b.agent("web")
	b.enrol(t, a)
	unrevoked := []api.Lifecycle{api.LifecycleActive, api.LifecycleInactive}
	for _, step := range []struct {
		to    api.Lifecycle
		moved bool
		now   api.Lifecycle
	}{
		{api.LifecycleActive, false, api.LifecycleActive},
		{api.LifecycleInactive, true, api.LifecycleInactive},
		{api.LifecycleInactive, false, api.LifecycleInactive},
		{api.LifecycleActive, true, api.LifecycleActive},
		{api.LifecycleRevoked, true, api.LifecycleRevoked},
		{api.LifecycleRevoked, false, api.LifecycleRevoked},
		{api.LifecycleActive, false, api.LifecycleRevoked},
	} {
		moved, err := b.SetLifecycle(b.ctx, tenant, a.ID, unrevoked, step.to, b.now)
		must(t, err)
		got, err := b.Agent(b.ctx, tenant, a.ID)
		must(t, err)
		if moved != step.moved || got.Lifecycle != step.now {
			t.Fatalf("to %s: moved %v and now %s, want %v and %s", step.to, moved, got.Lifecycle, step.moved, step.now)
		}
	}
	if c, err := b.Credential(b.ctx, a.CertificateFingerprint); err != nil || !c.Ended(b.now) {
		t.Errorf("the certificate of a revoked agent is not revoked (error %v)", err)
	}
	_, err := b.SetLifecycle(b.ctx, tenant, "nobody", unrevoked, api.LifecycleInactive, b.now)
	wantFault(t, err, fault.NotFound, "agent_not_found")

	// Many who revoke at once: one did it.
	c := b.agent("c")
	b.enrol(t, c)
	moved := make([]bool, 20)
	together(t, len(moved), func(i int) (err error) {
		moved[i], err = b.SetLifecycle(b.ctx, tenant, c.ID, unrevoked, api.LifecycleRevoked, b.now)
		return err
	})
	if n := count(moved); n != 1 {
		t.Errorf("%d of %d say that they revoked the agent, want 1", n, len(moved))
	}
}

func count(list []bool) (n int) {
	for _, v := range list {
		if v {
			n++
		}
	}
	return n
}

func testAgentDelete(t *testing.T, b *bench) {
	a := b.agent("web")
	tok := b.token(t, "tok", 2)
	e := b.enrolment(a)
	e.TokenID = tok.ID
	must(t, b.Enrol(b.ctx, e))
	must(t, b.DeleteAgent(b.ctx, tenant, a.ID))

	if got, err := b.Credential(b.ctx, a.CertificateFingerprint); err != nil || got != nil {
		t.Errorf("the certificate of a deleted agent belongs to %v (error %v)", got, err)
	}
	if use, err := b.TokenUse(b.ctx, tok.ID, a.PublicKeyHash); err != nil || use != nil {
		t.Errorf("the token still gives out the deleted identity: %v (error %v)", use, err)
	}
	wantFault(t, b.DeleteAgent(b.ctx, tenant, a.ID), fault.NotFound, "agent_not_found")
	b.enrol(t, a) // name, id and key are free again
}

// testStatusColumn compares what SQL users see with the rule in Go.
func testStatusColumn(t *testing.T, b *bench) {
	for _, lifecycle := range []api.Lifecycle{api.LifecycleActive, api.LifecycleInactive, api.LifecycleRevoked} {
		for _, liveness := range []api.Liveness{api.Live, api.Stale, api.Dead} {
			for _, reported := range []string{"", "online", "degraded", "odd"} {
				a := b.agent(string(lifecycle) + "-" + string(liveness) + "-" + reported + "-")
				a.Lifecycle, a.Liveness, a.ReportedStatus = lifecycle, liveness, reported
				b.enrol(t, a)
				// The list asks the column, and then the rule.
				got, err := b.Agents(b.ctx, tenant, fleet.Filter{Status: string(a.Status()), Limit: 1000})
				must(t, err)
				if !slices.Contains(names(got), a.Name) {
					t.Errorf("agent %s has not the status %s in the database", a.Name, a.Status())
				}
			}
		}
	}
}
