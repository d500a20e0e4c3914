package storetest

import (
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/fleet"
)

// testCommandListings: commands, the recipients of one, and the commands of an
// agent.
func testCommandListings(t *testing.T, b *bench) {
	agents := make([]*fleet.Agent, 6)
	for i := range agents {
		agents[i] = b.agent(numbered("a", i))
		agents[i].Group = pick(i, "web", "db")
	}
	b.enrol(t, agents...)
	var last *command.Command
	for i := range 24 {
		to := pick(i, command.Pick{AgentID: agents[0].ID}, command.Pick{}, command.Pick{Group: "web"}, command.Pick{AgentID: agents[1].ID})
		last = b.sent(t, to, func(c *command.Command) {
			c.ID, c.Type = numbered("c", i), pick(i/2, "replay", "Doctor", "config-update")
			c.CreatedBy, c.CreatedAt = pick(i/3, "me", "You", "%"), b.now.Add(-time.Duration(i/3)*time.Hour)
		})
		switch i % 3 {
		case 0:
			b.answered(t, last, `{}`)
		case 1:
			ids, err := b.PendingRecipients(b.ctx, last.ID)
			must(t, err)
			b.record(t, b.report(last, ids[0], api.CommandDelivered))
			b.record(t, command.Report{Ref: b.report(last, ids[len(ids)-1], "").Ref, State: api.CommandFailed, At: b.now.Add(time.Second), Error: "100% full"})
		}
	}
	all, err := b.Commands(b.ctx, tenant, command.Filter{})
	must(t, err)
	agree(t, command.Schema, b.now, all, func(q filter.Query, limit int) ([]*command.Command, error) {
		return b.Commands(b.ctx, tenant, command.Filter{Query: q, Limit: limit})
	})
	mine, err := b.CommandsOf(b.ctx, tenant, agents[0].ID, command.ReceivedFilter{})
	must(t, err)
	if len(mine) == 0 || len(mine) == len(all) {
		t.Fatalf("%d of %d commands are the agent's", len(mine), len(all))
	}
	agree(t, command.ReceivedSchema, b.now, mine, func(q filter.Query, limit int) ([]*command.Received, error) {
		return b.CommandsOf(b.ctx, tenant, agents[0].ID, command.ReceivedFilter{Query: q, Limit: limit})
	})
	to := b.sent(t, command.Pick{})
	b.record(t, b.report(to, agents[0].ID, api.CommandDelivered), b.report(to, agents[1].ID, api.CommandDelivered),
		b.report(to, agents[1].ID, api.CommandAcknowledged), b.report(to, agents[2].ID, api.CommandFailed))
	deliveries := b.deliveries(t, to)
	agree(t, command.DeliverySchema, b.now, deliveries, func(q filter.Query, limit int) ([]*command.Delivery, error) {
		return b.Deliveries(b.ctx, tenant, to.ID, command.DeliveryFilter{Query: q, Limit: limit})
	})
}
