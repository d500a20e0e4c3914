package command_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// modelCommand is a command as it must be.
type modelCommand struct {
	id         string
	expires    time.Time
	recipients map[string]*modelRecipient // by the agent's id
	done       bool                       // and checked; once more at the end
}

// modelRecipient is the documented state machine. That a command has expired
// shows by the next sweep; from its expiry on no answer counts.
type modelRecipient struct {
	marked time.Time        // the first mark that counts
	answer api.CommandState // the first answer in time
	result string
	late   bool // somebody was told that it has expired
}

type modelAgent struct {
	*fleet.Agent
	live bool
}

// model drives two servers over one store and compares all that they say.
type model struct {
	b        *bench
	run      string
	servers  []*server
	agents   []*modelAgent
	commands []*modelCommand
	n        int // of answers
}

// TestRecipientsEndOnce has people, agents, servers and the clock do whatever
// comes to their mind, and holds the service to the package's drawing.
func TestRecipientsEndOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// A database is dear: the runs share one, each with agents of its own.
		b := newBench(t)
		servers := []*server{b.serve(b.store), b.serve(b.store)}
		run := 0
		// As a plain TB: a bubble has no deadline to ask for.
		rapid.Check(struct{ testing.TB }{t}, func(rt *rapid.T) {
			run++
			b.told.reset()
			m := &model{b: b, run: fmt.Sprintf("r%d", run), servers: servers}
			m.enrol(rt)
			m.enrol(rt)
			defer m.end(rt)
			rt.Repeat(map[string]func(*rapid.T){
				"send": m.send, "deliver": m.deliver, "deliver more": m.deliver, "answer": m.answer, "answer more": m.answer,
				"answer together": m.answerTogether, "pass time": m.passTime, "pass time to the edge": m.toTheEdge, "restart": m.restart,
				"enrol": m.enrol, "delete": m.delete, "deactivate": m.deactivate, "ask": m.ask, "": m.check,
			})
		})
	})
}

func (m *model) enrol(t *rapid.T) {
	if len(m.agents) >= 8 {
		t.Skip("enough agents")
	}
	group := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "group")
	name := fmt.Sprintf("%s-a%d", m.run, len(m.agents))
	m.agents = append(m.agents, &modelAgent{m.b.agent(name, func(a *fleet.Agent) { a.Group = m.run + group }), true})
}

func (m *model) server(t *rapid.T) *server { return rapid.SampledFrom(m.servers).Draw(t, "server") }

func (m *model) send(t *rapid.T) {
	c := &modelCommand{recipients: map[string]*modelRecipient{}}
	seconds := rapid.Int64Range(1, 6).Draw(t, "expires in")
	c.expires = time.Now().Add(time.Duration(seconds) * time.Second)
	to := command.Recipient{Scope: rapid.SampledFrom([]api.CommandScope{api.ScopeAgent, api.ScopeGroup, api.ScopeAll}).Draw(t, "scope")}
	there := to.Scope == api.ScopeAll
	switch to.Scope {
	case api.ScopeAgent:
		a := rapid.SampledFrom(m.agents).Draw(t, "agent")
		there, to.Name = m.exists(a), rapid.SampledFrom([]string{a.ID, a.Name}).Draw(t, "by")
		c.recipients[a.ID] = &modelRecipient{}
	case api.ScopeGroup:
		to.Name = m.run + rapid.SampledFrom([]string{"x", "y"}).Draw(t, "group")
	}
	for _, a := range m.agents {
		in := to.Scope == api.ScopeAll || to.Scope == api.ScopeGroup && a.Group == to.Name
		there = there || in && m.exists(a)
		if in && m.exists(a) && a.live {
			c.recipients[a.ID] = &modelRecipient{}
		}
	}
	got, err := m.server(t).Send(m.b.ctx, tenant, "tester", to, api.CommandRequest{Type: "doctor", ExpiresIn: seconds})
	if !there {
		if fault.KindOf(err) != fault.NotFound {
			t.Fatalf("sent to %+v, who is not there: %v", to, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("send: %v", err)
	}
	if got.Recipients != len(c.recipients) || got.Done() != (len(c.recipients) == 0) {
		t.Fatalf("sent to %+v: %d recipients, done %v; want %d", to, got.Recipients, got.Done(), len(c.recipients))
	}
	c.id = got.ID
	m.commands = append(m.commands, c)
}

// exists: a deleted agent has no tenant any more.
func (m *model) exists(a *modelAgent) bool { return a.TenantID != "" }

// pick draws a command and an agent, mostly one of its recipients.
func (m *model) pick(t *rapid.T) (*modelCommand, *modelAgent) {
	if len(m.commands) == 0 {
		t.Skip("no command yet")
	}
	c := rapid.SampledFrom(m.commands).Draw(t, "command")
	if rapid.Bool().Draw(t, "the latest") {
		c = m.commands[len(m.commands)-1]
	}
	return c, rapid.SampledFrom(m.agents).Draw(t, "agent")
}

func (m *model) deliver(t *rapid.T) {
	c, a := m.pick(t)
	m.server(t).Delivered(tenant, c.id, a.ID)
	if r := c.recipients[a.ID]; r != nil && r.marked.IsZero() && r.answer == "" && time.Now().Before(c.expires) {
		r.marked = time.Now()
	}
}

func (m *model) draw(t *rapid.T) (api.CommandAck, api.CommandState) {
	m.n++
	ack := api.CommandAck{Result: fmt.Appendf(nil, "%d", m.n)}
	if rapid.Bool().Draw(t, "fails") {
		ack.Status, ack.Error = api.CommandFailed, "why"
		return ack, api.CommandFailed
	}
	return ack, api.CommandAcknowledged
}

func (m *model) answer(t *rapid.T) {
	c, a := m.pick(t)
	ack, state := m.draw(t)
	as := *a.Agent
	as.TenantID = tenant // who was deleted in this moment may still answer
	got, err := m.server(t).Acknowledge(m.b.ctx, &as, c.id, ack)
	r := c.recipients[a.ID]
	if r == nil {
		if fault.KindOf(err) != fault.Forbidden || fault.CodeOf(err) != "not_a_recipient" {
			t.Fatalf("%s is no recipient, and was told %+v, %v", a.ID, got, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("answer: %v", err)
	}
	if r.answer == "" && time.Now().Before(c.expires) {
		r.answer, r.result = state, string(ack.Result)
	}
	m.told(t, c, r, got)
}

// told checks what somebody who answered was told.
func (m *model) told(t *rapid.T, c *modelCommand, r *modelRecipient, got api.CommandAckResponse) {
	want := r.answer
	if want == "" {
		want, r.late = api.CommandExpired, true
	}
	if got.State != want || got.Acknowledged != (want != api.CommandExpired) || (got.Reason == "") == (want == api.CommandExpired) {
		t.Fatalf("the answer to %s was told %+v, and %s stands", c.id, got, want)
	}
}

// answerTogether has one recipient answer several times at once, to both
// servers: one of the answers stands, and all are told which.
func (m *model) answerTogether(t *rapid.T) {
	c, a := m.pick(t)
	r := c.recipients[a.ID]
	if r == nil {
		t.Skip("no recipient")
	}
	as := *a.Agent
	as.TenantID = tenant
	type reply struct {
		api.CommandAckResponse
		err error
	}
	replies := make(chan reply)
	acks := make([]api.CommandAck, 4)
	for i := range acks {
		acks[i], _ = m.draw(t)
		go func() {
			got, err := m.servers[i%2].Acknowledge(m.b.ctx, &as, c.id, acks[i])
			replies <- reply{got, err}
		}()
	}
	var all []api.CommandAckResponse
	for range acks {
		got := <-replies
		if got.err != nil {
			t.Fatalf("answer: %v", got.err)
		}
		all = append(all, got.CommandAckResponse)
	}
	if r.answer == "" && time.Now().Before(c.expires) {
		// Whichever it was: the store says.
		d := m.b.deliveries(c.id)[a.ID]
		if !slices.ContainsFunc(acks, func(k api.CommandAck) bool { return string(k.Result) == string(d.Result) }) {
			t.Fatalf("%s stands, which nobody has answered", d.Result)
		}
		r.answer, r.result = d.State, string(d.Result)
	}
	for _, got := range all {
		m.told(t, c, r, got)
	}
}

func (m *model) passTime(t *rapid.T) {
	time.Sleep(time.Duration(rapid.IntRange(1, 2500).Draw(t, "ms")) * time.Millisecond) //nolint:forbidigo // the bubble's clock
}

// toTheEdge goes to the moment in which a command expires, or just beside it.
func (m *model) toTheEdge(t *rapid.T) {
	c, _ := m.pick(t)
	beside := time.Duration(rapid.IntRange(-1, 1).Draw(t, "beside")) * time.Microsecond
	time.Sleep(time.Until(c.expires.Add(beside))) //nolint:forbidigo // the bubble's clock
}

// restart ends a server's service and begins another over the same store.
func (m *model) restart(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "server")
	m.servers[i].stop()
	if rapid.Bool().Draw(t, "a process of its own") {
		m.servers[i] = m.b.serve(m.b.store)
		return
	}
	m.servers[i] = m.b.run(m.servers[i].Service)
}

func (m *model) delete(t *rapid.T) {
	a := rapid.SampledFrom(m.agents).Draw(t, "agent")
	if !m.exists(a) {
		t.Skip("deleted")
	}
	must(m.b.t, m.b.store.DeleteAgent(m.b.ctx, tenant, a.ID))
	a.TenantID = ""
}

func (m *model) deactivate(t *rapid.T) {
	a := rapid.SampledFrom(m.agents).Draw(t, "agent")
	if !m.exists(a) {
		t.Skip("deleted")
	}
	from, to := api.LifecycleActive, api.LifecycleInactive
	if !a.live {
		from, to = to, from
	}
	_, err := m.b.store.SetLifecycle(m.b.ctx, tenant, a.ID, []api.Lifecycle{from}, to, time.Now())
	must(m.b.t, err)
	a.live = !a.live
}

// ask compares what is to be sent: nothing that was marked on this server, and
// all that nobody has marked.
func (m *model) ask(t *rapid.T) {
	c, a := m.pick(t)
	s := m.server(t)
	_, ids, err := s.ForServer(m.b.ctx, tenant, c.id)
	must(m.b.t, err)
	list, err := s.PendingOf(m.b.ctx, tenant, a.ID)
	must(m.b.t, err)
	for id, r := range c.recipients {
		open := r.answer == "" && time.Now().Before(c.expires)
		listed := slices.Contains(ids, id)
		if listed && !open || !listed && open && r.marked.IsZero() {
			t.Fatalf("command %s is to be sent to %s: %v; it is open: %v, marked at %v", c.id, id, listed, open, r.marked)
		}
		if id == a.ID && listed != slices.ContainsFunc(list, func(p *command.Command) bool { return p.ID == c.id }) {
			t.Fatalf("command %s is to be sent to %s: %v; the agent's own list says otherwise", c.id, id, listed)
		}
	}
}

// check compares every recipient, and holds the promises that need no model.
func (m *model) check(t *rapid.T) {
	synctest.Wait()
	now := time.Now()
	for _, c := range m.commands {
		if c.done {
			continue
		}
		got, err := m.b.store.Command(m.b.ctx, tenant, c.id)
		must(m.b.t, err)
		deliveries := m.b.deliveries(c.id)
		if len(deliveries) != len(c.recipients) || got.Recipients != len(c.recipients) {
			t.Fatalf("command %s has %d recipients (says %d), and was sent to %d", c.id, len(deliveries), got.Recipients, len(c.recipients))
		}
		counts := map[api.CommandState]int{}
		for id, r := range c.recipients {
			d := deliveries[id]
			if d == nil {
				t.Fatalf("command %s has lost its recipient %s", c.id, id)
			}
			counts[d.State]++
			m.checkRecipient(t, c, r, d, now)
			m.checkEvents(t, c, d)
		}
		if want := (api.CommandCounts{
			Pending: counts[api.CommandPending], Delivered: counts[api.CommandDelivered], Acknowledged: counts[api.CommandAcknowledged],
			Failed: counts[api.CommandFailed], Expired: counts[api.CommandExpired],
		}); got.Counts != want || got.Done() != (want.Pending+want.Delivered == 0) {
			t.Fatalf("command %s counts %+v (done %v), and has %+v", c.id, got.Counts, got.Done(), want)
		}
		c.done = got.Done()
	}
}

func (m *model) checkRecipient(t *rapid.T, c *modelCommand, r *modelRecipient, d *command.Delivery, now time.Time) {
	// A sweep comes each second, and one second after a start.
	started := m.servers[0].since
	if s := m.servers[1].since; s.Before(started) {
		started = s
	}
	sweptBy := c.expires
	if started.After(sweptBy) {
		sweptBy = started
	}
	sweptBy = sweptBy.Add(time.Second)
	const delay = 200 * time.Millisecond
	switch {
	case r.answer != "":
		if d.State != r.answer || string(d.Result) != r.result || !d.EndedAt.Before(c.expires) {
			t.Fatalf("%s ended as %s (%s) at %v, want %s (%s)", d.AgentID, d.State, d.Result, d.EndedAt, r.answer, r.result)
		}
	case d.State == api.CommandExpired:
		if now.Before(c.expires) || d.EndedAt.Before(c.expires) {
			t.Fatalf("%s expired at %v, before its time %v", d.AgentID, d.EndedAt, c.expires)
		}
		if why := map[bool]string{true: command.NotConnected, false: command.NotAnswered}[d.DeliveredAt.IsZero()]; d.Error != why {
			t.Fatalf("%s expired for %q, want %q", d.AgentID, d.Error, why)
		}
	case d.State.Final():
		t.Fatalf("%s is %s, and nobody has answered", d.AgentID, d.State)
	case r.late || now.After(sweptBy):
		t.Fatalf("%s is %s at %v, and should have expired at %v", d.AgentID, d.State, now, c.expires)
	case d.State == api.CommandDelivered && r.marked.IsZero():
		t.Fatalf("%s is delivered, and nobody has said so", d.AgentID)
	case d.State == api.CommandPending && !r.marked.IsZero() && now.Sub(r.marked) > delay:
		t.Fatalf("%s is pending, and was delivered at %v", d.AgentID, r.marked)
	}
}

// checkEvents: each transition was told once.
func (m *model) checkEvents(t *rapid.T, c *modelCommand, d *command.Delivery) {
	told := map[string]int{}
	for _, e := range m.b.told.of(c.id) {
		if e.Kind == api.EventCommandSent {
			continue
		}
		if e.AgentID == d.AgentID {
			told[e.Kind]++
		}
		if e.AgentID == d.AgentID && (e.AgentName != d.AgentName || e.Type != "doctor" || e.Kind != api.EventCommandDelivered && e.Reason != d.Error) {
			t.Fatalf("event %+v about %+v", e, d)
		}
	}
	want := map[string]int{}
	if !d.DeliveredAt.IsZero() {
		want[api.EventCommandDelivered] = 1
	}
	if d.State.Final() {
		want["command."+string(d.State)] = 1
	}
	if fmt.Sprint(told) != fmt.Sprint(want) {
		t.Fatalf("%s is %s, delivered at %v, and was told %v", d.AgentID, d.State, d.DeliveredAt, told)
	}
}

// end checks all that is over once more, and leaves nothing that the next run
// would find.
func (m *model) end(t *rapid.T) {
	for _, c := range m.commands {
		c.done = false
	}
	time.Sleep(7 * time.Second) //nolint:forbidigo // the bubble's clock
	if !t.Failed() {
		m.check(t)
	}
	for _, a := range m.agents {
		if m.exists(a) {
			must(m.b.t, m.b.store.DeleteAgent(m.b.ctx, tenant, a.ID))
		}
	}
}
