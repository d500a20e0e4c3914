package storetest

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// command returns a command that is not yet inserted.
func (b *bench) command(to command.Pick) *command.Command {
	c := &command.Command{
		ID: newID(), TenantID: tenant, Type: "doctor", Payload: []byte(`{"deep": true}`), To: command.Recipient{Scope: api.ScopeAll},
		CreatedBy: "me", CreatedAt: b.now, ExpiresAt: b.now.Add(time.Minute),
	}
	switch {
	case to.AgentID != "":
		c.To = command.Recipient{Scope: api.ScopeAgent, Name: to.AgentID}
	case to.Group != "":
		c.To = command.Recipient{Scope: api.ScopeGroup, Name: to.Group}
	}
	return c
}

// sent adds a command with the recipients that are picked.
func (b *bench) sent(t testing.TB, to command.Pick, change ...func(*command.Command)) *command.Command {
	t.Helper()
	c := b.command(to)
	for _, f := range change {
		f(c)
	}
	_, err := b.InsertCommand(b.ctx, c, to, true)
	must(t, err)
	return c
}

// answered has every recipient answer.
func (b *bench) answered(t testing.TB, c *command.Command, result string) {
	t.Helper()
	ids, err := b.PendingRecipients(b.ctx, c.ID)
	must(t, err)
	reports := make([]command.Report, len(ids))
	for i, id := range ids {
		reports[i] = command.Report{
			Ref: command.Ref{TenantID: tenant, CommandID: c.ID, AgentID: id}, State: api.CommandAcknowledged, At: b.now, Result: []byte(result),
		}
	}
	_, _, err = b.RecordReports(b.ctx, reports)
	must(t, err)
}

// report is one about a command, by an agent.
func (b *bench) report(c *command.Command, agentID string, state api.CommandState) command.Report {
	return command.Report{Ref: command.Ref{TenantID: tenant, CommandID: c.ID, AgentID: agentID}, State: state, At: b.now}
}

// record records reports and returns the states that they met.
func (b *bench) record(t testing.TB, reports ...command.Report) ([]api.CommandState, []command.Transition) {
	t.Helper()
	outcomes, moved, err := b.RecordReports(b.ctx, reports)
	must(t, err)
	states := make([]api.CommandState, len(outcomes))
	for i, o := range outcomes {
		if !o.Exists && o.State != "" {
			t.Errorf("report %d met a state of a command that is not there", i)
		}
		states[i] = o.State
	}
	return states, moved
}

// deliveries returns all recipients of a command.
func (b *bench) deliveries(t testing.TB, c *command.Command) []*command.Delivery {
	t.Helper()
	list, err := b.Deliveries(b.ctx, tenant, c.ID, command.DeliveryFilter{})
	must(t, err)
	return list
}

// wantCounts checks a command's counts against its recipients, and whether it
// is done.
func (b *bench) wantCounts(t testing.TB, c *command.Command, want api.CommandCounts) {
	t.Helper()
	got, err := b.Command(b.ctx, tenant, c.ID)
	must(t, err)
	same(t, "counts of command "+c.ID, got.Counts, want)
	if sum := want.Pending + want.Delivered + want.Acknowledged + want.Failed + want.Expired; sum != got.Recipients {
		t.Errorf("the counts make %d, and there are %d recipients", sum, got.Recipients)
	}
	if got.Done() != (want.Pending+want.Delivered == 0) {
		t.Errorf("done at %v with %+v", got.DoneAt, want)
	}
}

// testCommandPick: who is picked is fixed with the insert.
func testCommandPick(t *testing.T, b *bench) {
	for name, change := range map[string]func(*fleet.Agent){
		"a": func(*fleet.Agent) {}, "b": func(*fleet.Agent) {},
		"db":       func(a *fleet.Agent) { a.Group = "db" },
		"stale":    func(a *fleet.Agent) { a.Liveness = api.Stale },
		"dead":     func(a *fleet.Agent) { a.Liveness = api.Dead },
		"inactive": func(a *fleet.Agent) { a.Lifecycle = api.LifecycleInactive },
		"revoked":  func(a *fleet.Agent) { a.Lifecycle = api.LifecycleRevoked },
	} {
		a := b.agent(name)
		change(a)
		b.enrol(t, a)
	}
	for what, c := range map[string]struct {
		pick command.Pick
		want []string
	}{
		"all":                     {command.Pick{}, []string{"id-a", "id-b", "id-db"}},
		"a group":                 {command.Pick{Group: "web"}, []string{"id-a", "id-b"}},
		"an empty group":          {command.Pick{Group: "none"}, nil},
		"one that is dead":        {command.Pick{AgentID: "id-dead"}, []string{"id-dead"}},
		"one that is inactive":    {command.Pick{AgentID: "id-inactive"}, []string{"id-inactive"}},
		"one that is revoked":     {command.Pick{AgentID: "id-revoked"}, nil},
		"one that is not there":   {command.Pick{AgentID: "id-nobody"}, nil},
		"who can what nobody can": {command.Pick{Capabilities: []string{"command.x"}}, nil},
	} {
		sent := b.sent(t, c.pick)
		var got []string
		for _, d := range b.deliveries(t, sent) {
			got = append(got, d.AgentID)
			same(t, "delivery", d, &command.Delivery{AgentID: d.AgentID, AgentName: strings.TrimPrefix(d.AgentID, "id-"), State: api.CommandPending})
		}
		same(t, what, got, c.want)
		stored, err := b.Command(b.ctx, tenant, sent.ID)
		must(t, err)
		same(t, what, stored, sent)
		b.wantCounts(t, sent, api.CommandCounts{Pending: len(c.want)})

		again := b.command(c.pick)
		n, err := b.InsertCommand(b.ctx, again, c.pick, false)
		must(t, err)
		if n != len(c.want) {
			t.Errorf("%s: %d recipients, want %d", what, n, len(c.want))
		}
		if _, err := b.Command(b.ctx, tenant, again.ID); n == 0 {
			wantFault(t, err, fault.NotFound, "command_not_found")
		} else {
			must(t, err)
		}
	}
	elsewhere := b.command(command.Pick{})
	elsewhere.TenantID = "elsewhere"
	if n, err := b.InsertCommand(b.ctx, elsewhere, command.Pick{AgentID: "id-a"}, false); n != 0 || err != nil {
		t.Errorf("another tenant's command has %d recipients, error %v", n, err)
	}

	// What was fixed stays, whatever becomes of the agents.
	c := b.sent(t, command.Pick{Group: "web"})
	must(t, b.DeleteAgent(b.ctx, tenant, "id-a"))
	b.enrol(t, b.agent("late"))
	same(t, "recipients later", len(b.deliveries(t, c)), 2)
}

// testCommandCapable: the database picks whom fleet.Agent.Can picks.
func testCommandCapable(t *testing.T, b *bench) {
	names := []string{"command", "command.x", "command.x.y", "command.xx", "x", "x.y", "health_check", "x.health-check", "docker"}
	// One in four of them, drawn by a hash.
	some := func(what string) (list []string) {
		for _, n := range names {
			if hash(what + n)[0] < '4' {
				list = append(list, n)
			}
		}
		return list
	}
	var agents []*fleet.Agent
	for i := range 150 {
		a := b.agent(numbered("a", i))
		a.Capabilities = some(a.ID)
		if i%2 == 0 {
			a.AllowedCapabilities = some("allowed to " + a.ID)
		}
		agents = append(agents, a)
		b.enrol(t, a)
	}
	for _, pick := range [][]string{{"command.x", "x"}, {"command.x.y", "x.y"}, {"command.x.health-check", "x.health-check"}, {"docker"}} {
		var want, got []string
		for _, a := range agents {
			if slices.ContainsFunc(pick, a.Can) {
				want = append(want, a.ID)
			}
		}
		for _, d := range b.deliveries(t, b.sent(t, command.Pick{Capabilities: pick})) {
			got = append(got, d.AgentID)
		}
		if len(want) == 0 || len(want) == len(agents) {
			t.Fatalf("%d agents can %v: that shows nothing", len(want), pick)
		}
		same(t, "who can "+pick[0], got, want)
	}
}

func testCommandLists(t *testing.T, b *bench) {
	for i := range 5 {
		b.enrol(t, b.agent(numbered("a", i)))
	}
	one, other := "id-"+numbered("a", 1), "id-"+numbered("a", 2)
	var all, doctors, mine []string // the newest first
	for i := range 12 {
		pick := []command.Pick{{}, {AgentID: one}, {AgentID: other}}[i%3]
		c := b.sent(t, pick, func(c *command.Command) {
			if i%2 == 1 {
				c.Type = "drain"
			}
		})
		all = append([]string{c.ID}, all...)
		if c.Type == "doctor" {
			doctors = append([]string{c.ID}, doctors...)
		}
		if pick.AgentID != other {
			mine = append([]string{c.ID}, mine...)
		}
	}
	pages := func(f command.Filter) (ids []string) {
		for f.Limit = 5; ; {
			list, err := b.Commands(b.ctx, tenant, f)
			must(t, err)
			for _, c := range list {
				ids = append(ids, c.ID)
			}
			if len(list) < f.Limit {
				return ids
			}
			f.Query = behind(t, command.Schema, f.Query, list[len(list)-1])
		}
	}
	same(t, "all", pages(command.Filter{}), all)
	same(t, "of a type", pages(command.Filter{Type: "doctor"}), doctors)
	pagesOf := func(f command.ReceivedFilter) (ids []string) {
		for f.Limit = 3; ; {
			list, err := b.CommandsOf(b.ctx, tenant, one, f)
			must(t, err)
			for _, c := range list {
				ids = append(ids, c.ID)
				if f.State != "" && c.State != f.State {
					t.Errorf("command %s is %s, asked for %s", c.ID, c.State, f.State)
				}
			}
			if len(list) < f.Limit {
				return ids
			}
			f.Query = behind(t, command.ReceivedSchema, f.Query, list[len(list)-1])
		}
	}
	same(t, "of an agent", pagesOf(command.ReceivedFilter{}), mine)
	for _, id := range mine[2:] {
		b.record(t, b.report(&command.Command{ID: id}, one, api.CommandDelivered))
	}
	same(t, "pending of an agent", pagesOf(command.ReceivedFilter{State: api.CommandPending}), mine[:2])
	same(t, "delivered of an agent", pagesOf(command.ReceivedFilter{State: api.CommandDelivered}), mine[2:])
	if list, err := b.CommandsOf(b.ctx, "elsewhere", one, command.ReceivedFilter{}); err != nil || len(list) != 0 {
		t.Errorf("another tenant sees %d commands of the agent, error %v", len(list), err)
	}

	for at, want := range map[time.Time]int{b.now: 2, b.now.Add(time.Minute): 0} {
		list, err := b.PendingCommands(b.ctx, tenant, one, at, 100)
		must(t, err)
		var ids []string
		for _, c := range list {
			ids = append([]string{c.ID}, ids...) // they come the oldest first
		}
		same(t, "pending", ids, mine[:want])
	}

	c := b.sent(t, command.Pick{})
	b.record(t, b.report(c, one, api.CommandDelivered))
	for _, f := range []command.DeliveryFilter{{Limit: 2}, {Limit: 2, State: api.CommandPending}} {
		var ids []string
		for {
			list, err := b.Deliveries(b.ctx, tenant, c.ID, f)
			must(t, err)
			for _, d := range list {
				ids = append(ids, d.AgentID)
			}
			if len(list) < f.Limit {
				break
			}
			f.Query = behind(t, command.DeliverySchema, f.Query, list[len(list)-1])
		}
		if want := map[api.CommandState]int{"": 5, api.CommandPending: 4}[f.State]; len(ids) != want || !slices.IsSorted(ids) {
			t.Errorf("recipients in state %q: %v, want %d in their order", f.State, ids, want)
		}
	}
	_, err := b.Deliveries(b.ctx, "elsewhere", c.ID, command.DeliveryFilter{})
	wantFault(t, err, fault.NotFound, "command_not_found")
	_, err = b.Command(b.ctx, "elsewhere", c.ID)
	wantFault(t, err, fault.NotFound, "command_not_found")
}

// testCommandUnsent: pages that leave nothing out, and nothing of the dead.
func testCommandUnsent(t *testing.T, b *bench) {
	for i := range 7 {
		a := b.agent(numbered("a", i))
		b.enrol(t, a)
	}
	var want []command.Ref
	for range 3 {
		c := b.sent(t, command.Pick{})
		for i := range 7 {
			want = append(want, command.Ref{TenantID: tenant, CommandID: c.ID, AgentID: "id-" + numbered("a", i)})
		}
	}
	b.sent(t, command.Pick{}, func(c *command.Command) { c.CreatedAt = b.now.Add(time.Second) })
	b.sent(t, command.Pick{}, func(c *command.Command) { c.ExpiresAt = b.now })
	slices.SortFunc(want, func(x, y command.Ref) int {
		return cmp.Or(cmp.Compare(x.AgentID, y.AgentID), cmp.Compare(x.CommandID, y.CommandID))
	})
	b.record(t, command.Report{Ref: want[4], State: api.CommandDelivered, At: b.now}, command.Report{Ref: want[9], State: api.CommandAcknowledged, At: b.now})
	want = slices.Delete(slices.Delete(want, 9, 10), 4, 5)
	_, err := b.SetLifecycle(b.ctx, tenant, want[0].AgentID, []api.Lifecycle{api.LifecycleActive}, api.LifecycleRevoked, b.now)
	must(t, err)
	must(t, b.db.Exec(b.ctx, `UPDATE agents SET liveness = 'dead' WHERE id = '`+want[len(want)-1].AgentID+`'`))
	want = want[3 : len(want)-3]
	var got []command.Ref
	for after := (command.Ref{}); ; after = got[len(got)-1] {
		refs, err := b.UnsentCommands(b.ctx, b.now, b.now, after, 4)
		must(t, err)
		if got = append(got, refs...); len(refs) < 4 {
			break
		}
	}
	same(t, "unsent", got, want)
}
