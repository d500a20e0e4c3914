package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/store"
)

func testReports(t *testing.T, b *bench) {
	b.enrol(t, b.agent("a"), b.agent("b"), b.agent("c"), b.agent("out"))
	must(t, b.db.Exec(b.ctx, `UPDATE agents SET group_name = 'other' WHERE id = 'id-out'`))
	c := b.sent(t, command.Pick{Group: "web"})
	said := func(agent string, state api.CommandState, result, why string, after time.Duration) command.Report {
		r := b.report(c, "id-"+agent, state)
		r.Result, r.Error, r.At = []byte(result), why, b.now.Add(after)
		return r
	}
	moved := func(agent string, state api.CommandState, why string, after time.Duration) command.Transition {
		return command.Transition{
			Ref:       command.Ref{TenantID: tenant, CommandID: c.ID, AgentID: "id-" + agent},
			AgentName: agent, Type: "doctor", To: state, At: b.now.Add(after), Reason: why,
		}
	}
	strange, missing := said("a", api.CommandAcknowledged, "", "", 0), said("a", api.CommandAcknowledged, "", "", 0)
	strange.TenantID, missing.CommandID = "elsewhere", "nothing\x00\xff"

	// A mark and an answer in one batch; an answer that overtook its mark;
	// what concerns nobody.
	states, got := b.record(t,
		said("a", api.CommandDelivered, "", "", time.Second),
		said("a", api.CommandAcknowledged, `{"n": 1}`, "", 2*time.Second),
		said("b", api.CommandFailed, `null`, "no disk", 3*time.Second),
		said("b", api.CommandDelivered, "", "", 4*time.Second),
		said("out", api.CommandAcknowledged, "", "", 0), strange, missing,
	)
	same(t, "states", states, []api.CommandState{api.CommandDelivered, api.CommandAcknowledged, api.CommandFailed, api.CommandFailed, "", "", ""})
	same(t, "transitions", got, []command.Transition{
		moved("a", api.CommandDelivered, "", time.Second), moved("a", api.CommandAcknowledged, "", 2*time.Second), moved("b", api.CommandFailed, "no disk", 3*time.Second),
	})
	b.wantCounts(t, c, api.CommandCounts{Pending: 1, Acknowledged: 1, Failed: 1})

	// The first answer stands, in one batch and in the next.
	states, got = b.record(t,
		said("c", api.CommandDelivered, "", "", 5*time.Second), said("c", api.CommandDelivered, "", "", 6*time.Second),
		said("a", api.CommandFailed, `2`, "other", 5*time.Second), said("b", api.CommandAcknowledged, `2`, "", 5*time.Second),
	)
	same(t, "states", states, []api.CommandState{api.CommandDelivered, api.CommandDelivered, api.CommandAcknowledged, api.CommandFailed})
	same(t, "transitions", got, []command.Transition{moved("c", api.CommandDelivered, "", 5*time.Second)})

	// What comes at the expiry is late, and finds the command expired.
	states, got = b.record(t, said("c", api.CommandAcknowledged, `3`, "", time.Minute), said("c", api.CommandFailed, `4`, "", 7*time.Second))
	same(t, "states", states, []api.CommandState{api.CommandExpired, api.CommandExpired})
	same(t, "transitions", got, []command.Transition{moved("c", api.CommandExpired, command.NotAnswered, time.Minute)})
	b.wantCounts(t, c, api.CommandCounts{Acknowledged: 1, Failed: 1, Expired: 1})

	same(t, "deliveries", b.deliveries(t, c), []*command.Delivery{
		{AgentID: "id-a", AgentName: "a", State: api.CommandAcknowledged, DeliveredAt: b.now.Add(time.Second), EndedAt: b.now.Add(2 * time.Second), Result: []byte(`{"n": 1}`)},
		{AgentID: "id-b", AgentName: "b", State: api.CommandFailed, EndedAt: b.now.Add(3 * time.Second), Result: []byte(`null`), Error: "no disk"},
		{AgentID: "id-c", AgentName: "c", State: api.CommandExpired, DeliveredAt: b.now.Add(5 * time.Second), EndedAt: b.now.Add(time.Minute), Error: command.NotAnswered},
	})
	done, err := b.Command(b.ctx, tenant, c.ID)
	must(t, err)
	if !done.DoneAt.Equal(b.now.Add(time.Minute)) {
		t.Errorf("done at %v, want with the last recipient", done.DoneAt)
	}
	if outcomes, moved, err := b.RecordReports(b.ctx, nil); len(outcomes)+len(moved) != 0 || err != nil {
		t.Errorf("no reports give %v, %v, %v", outcomes, moved, err)
	}
}

// testReportsAnyAnswer: what one agent sends cannot fail the batch of all.
func testReportsAnyAnswer(t *testing.T, b *bench) {
	answers := []string{
		`"\u0000"`, `"\ud800"`, strings.Repeat("[", 9000) + strings.Repeat("]", 9000), `1e999999`, `{"a":1,"a":2}`, ``,
		`"` + strings.Repeat("x", command.MaxResultBytes-2) + `"`, "\"\xff\"",
	}
	var c *command.Command
	var reports []command.Report
	for i := range answers {
		b.enrol(t, b.agent(numbered("a", i)))
	}
	c = b.sent(t, command.Pick{})
	for i, text := range answers {
		r := b.report(c, "id-"+numbered("a", i), api.CommandFailed)
		r.Result, r.Error = []byte(text), "why\x00\xff\u2028"
		reports = append(reports, r)
	}
	b.record(t, reports...)
	for i, d := range b.deliveries(t, c) {
		if want := strings.ToValidUTF8(answers[i], "\ufffd"); string(d.Result) != want {
			t.Errorf("answer %d came back as %.80q, want %.80q", i, d.Result, want)
		}
		if d.Error != "why\ufffd\ufffd\u2028" {
			t.Errorf("error %q", d.Error)
		}
	}
	b.wantCounts(t, c, api.CommandCounts{Failed: len(answers)})
}

func testExpireCommands(t *testing.T, b *bench) {
	for i := range 10 {
		b.enrol(t, b.agent(numbered("a", i)))
	}
	c := b.sent(t, command.Pick{})
	later := b.sent(t, command.Pick{}, func(c *command.Command) { c.ExpiresAt = b.now.Add(time.Hour) })
	over := c.ExpiresAt
	marked := "id-" + numbered("a", 3)
	b.record(t, b.report(c, marked, api.CommandDelivered), b.report(c, "id-"+numbered("a", 4), api.CommandAcknowledged))
	if moved, more, err := b.ExpireCommands(b.ctx, over.Add(-time.Microsecond), 100); len(moved) != 0 || more || err != nil {
		t.Fatalf("before the time: %v, %v, %v", moved, more, err)
	}
	var all []command.Transition
	for round, more := 0, true; more; round++ {
		var moved []command.Transition
		var err error
		moved, more, err = b.ExpireCommands(b.ctx, over, 4)
		must(t, err)
		if len(moved) > 4 || round > 3 {
			t.Fatalf("round %d moved %d", round, len(moved))
		}
		all = append(all, moved...)
	}
	for _, m := range all {
		why := command.NotConnected
		if m.AgentID == marked {
			why = command.NotAnswered
		}
		same(t, "transition", m, command.Transition{
			Ref:       command.Ref{TenantID: tenant, CommandID: c.ID, AgentID: m.AgentID},
			AgentName: strings.TrimPrefix(m.AgentID, "id-"), Type: "doctor", To: api.CommandExpired, At: over, Reason: why,
		})
	}
	if len(all) != 9 {
		t.Errorf("%d recipients expired, want 9", len(all))
	}
	for _, d := range b.deliveries(t, c) {
		if d.State == api.CommandExpired && (d.Error == "" || !d.EndedAt.Equal(over)) {
			t.Errorf("expired: %+v", d)
		}
	}
	b.wantCounts(t, c, api.CommandCounts{Acknowledged: 1, Expired: 9})
	b.wantCounts(t, later, api.CommandCounts{Pending: 10})
}

// testReportsTwoServers: whoever reports what, and however often, on whichever
// server, while both sweep: each recipient ends once, and the counts are right.
func testReportsTwoServers(t *testing.T, b *bench) {
	const n = 60
	for i := range n {
		b.enrol(t, b.agent(numbered("a", i)))
	}
	commands := []*command.Command{b.sent(t, command.Pick{}), b.sent(t, command.Pick{}), b.sent(t, command.Pick{})}
	stores := []*store.Store{b.Store, b.open(t)}
	moved := make([][]command.Transition, 24)
	together(t, len(moved), func(i int) (err error) {
		if i%6 == 5 {
			moved[i], _, err = stores[i%2].ExpireCommands(b.ctx, commands[0].ExpiresAt, 40)
			return err
		}
		state := []api.CommandState{api.CommandDelivered, api.CommandAcknowledged, api.CommandFailed}[i%3]
		var reports []command.Report
		for k := range n {
			for _, c := range commands {
				r := b.report(c, "id-"+numbered("a", (k*7+i*13)%n), state)
				r.Error = fmt.Sprint(i)
				reports = append(reports, r)
			}
		}
		if i%2 == 1 {
			slices.Reverse(reports)
		}
		_, moved[i], err = stores[i%2].RecordReports(b.ctx, reports[:n])
		return err
	})
	rest, _, err := b.ExpireCommands(b.ctx, commands[0].ExpiresAt, 1000)
	must(t, err)
	ends := map[command.Ref]command.Transition{}
	marks := map[command.Ref]int{}
	for _, m := range append(slices.Concat(moved...), rest...) {
		if m.To == api.CommandDelivered {
			marks[m.Ref]++
		} else if first, twice := ends[m.Ref]; twice {
			t.Errorf("%v ended as %s and as %s", m.Ref, first.To, m.To)
		} else {
			ends[m.Ref] = m
		}
	}
	for _, c := range commands {
		var counts api.CommandCounts
		for _, d := range b.deliveries(t, c) {
			ref := command.Ref{TenantID: tenant, CommandID: c.ID, AgentID: d.AgentID}
			if ends[ref].To != d.State || ends[ref].Reason != d.Error {
				t.Errorf("%v is %s (%s), and was told to have become %s (%s)", ref, d.State, d.Error, ends[ref].To, ends[ref].Reason)
			}
			if marked := !d.DeliveredAt.IsZero(); marks[ref] > 1 || marked != (marks[ref] == 1) {
				t.Errorf("%v was told to be delivered %d times, and is marked: %v", ref, marks[ref], marked)
			}
			switch d.State {
			case api.CommandAcknowledged:
				counts.Acknowledged++
			case api.CommandFailed:
				counts.Failed++
			default:
				counts.Expired++
			}
		}
		b.wantCounts(t, c, counts)
	}
}

func testDeleteEnded(t *testing.T, b *bench) {
	for i := range 10 {
		b.enrol(t, b.agent(numbered("a", i)))
	}
	old, open := b.sent(t, command.Pick{}), b.sent(t, command.Pick{})
	nobody := b.sent(t, command.Pick{Group: "none"})
	b.answered(t, old, `"fine"`)
	must(t, b.DeleteAgent(b.ctx, tenant, "id-"+numbered("a", 1)))
	same(t, "recipients with one deleted", len(b.deliveries(t, old)), 10)
	if more, err := b.DeleteEndedCommands(b.ctx, b.now, 4); more || err != nil {
		t.Fatalf("what ended not before: %v, %v", more, err)
	}
	b.wantCounts(t, old, api.CommandCounts{Acknowledged: 10})
	for round, more := 0, true; more; round++ {
		var err error
		if more, err = b.DeleteEndedCommands(b.ctx, b.now.Add(time.Second), 4); err != nil || round > 2 {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	for _, c := range []*command.Command{old, nobody} {
		_, err := b.Command(b.ctx, tenant, c.ID)
		wantFault(t, err, fault.NotFound, "command_not_found")
		if ids, err := b.PendingRecipients(b.ctx, c.ID); len(ids) != 0 || err != nil {
			t.Errorf("recipients are left: %v, %v", ids, err)
		}
	}
	b.wantCounts(t, open, api.CommandCounts{Pending: 10})
	for i := range 10 {
		// A row that is left over would break this key.
		must(t, b.db.Exec(b.ctx, `INSERT INTO command_recipients (command_id, agent_id, agent_name, state)
			VALUES ('`+old.ID+`', 'id-`+numbered("a", i)+`', '', 'pending')`))
	}
}
