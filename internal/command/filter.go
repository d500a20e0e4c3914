package command

import (
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/filter"
)

var states = []string{
	string(api.CommandPending), string(api.CommandDelivered), string(api.CommandAcknowledged), string(api.CommandFailed), string(api.CommandExpired),
}

// Schema is what commands can be asked by.
var Schema = &filter.Schema{
	Of: "commands", ID: "id", Order: "-id",
	Fields: []filter.Field{
		{Name: "id", Sortable: true},
		{Name: "type", Sortable: true},
		{Name: "scope", Kind: filter.Word, Words: []string{string(api.ScopeAgent), string(api.ScopeGroup), string(api.ScopeAll)}},
		{Name: "recipient"},
		{Name: "recipients", Kind: filter.Number},
		{Name: "pending", Kind: filter.Number},
		{Name: "delivered", Kind: filter.Number},
		{Name: "acknowledged", Kind: filter.Number},
		{Name: "failed", Kind: filter.Number},
		{Name: "expired", Kind: filter.Number},
		{Name: "done", Kind: filter.Bool},
		{Name: "createdBy", Aliases: []string{"by"}},
		{Name: "createdAt", Aliases: []string{"created"}, Kind: filter.Time, Sortable: true},
		{Name: "expiresAt", Aliases: []string{"expires"}, Kind: filter.Time},
	},
}

var _ filter.Row = (*Command)(nil)

// Field implements filter.Row.
func (c *Command) Field(name string, _ time.Time) any {
	switch name {
	case "id":
		return c.ID
	case "type":
		return c.Type
	case "scope":
		return string(c.To.Scope)
	case "recipient":
		return c.To.Name
	case "recipients":
		return int64(c.Recipients)
	case "pending":
		return int64(c.Counts.Pending)
	case "delivered":
		return int64(c.Counts.Delivered)
	case "acknowledged":
		return int64(c.Counts.Acknowledged)
	case "failed":
		return int64(c.Counts.Failed)
	case "expired":
		return int64(c.Counts.Expired)
	case "done":
		return c.Done()
	case "createdBy":
		return c.CreatedBy
	case "createdAt":
		return c.CreatedAt
	case "expiresAt":
		return c.ExpiresAt
	}
	return nil
}

// Filter picks commands; the newest come first.
type Filter struct {
	Type string
	// Query is what else must match, the order, and where the page begins.
	Query filter.Query
	Limit int
}

// Where is all that a command must match, as one expression.
func (f *Filter) Where() filter.Expr { return filter.All(filter.Is("type", f.Type), f.Query.Where) }

// DeliverySchema is what the recipients of a command can be asked by.
var DeliverySchema = &filter.Schema{
	Of: "recipients", ID: "agent", Order: "agent",
	Fields: []filter.Field{
		{Name: "agent", Aliases: []string{"agentId"}, Sortable: true},
		{Name: "agentName", Aliases: []string{"name"}},
		{Name: "state", Kind: filter.Word, Words: states},
		{Name: "deliveredAt", Aliases: []string{"delivered"}, Kind: filter.Time},
		{Name: "endedAt", Aliases: []string{"ended"}, Kind: filter.Time},
		{Name: "error"},
	},
}

var _ filter.Row = (*Delivery)(nil)

// Field implements filter.Row.
func (d *Delivery) Field(name string, _ time.Time) any {
	switch name {
	case "agent":
		return d.AgentID
	case "agentName":
		return d.AgentName
	case "state":
		return string(d.State)
	case "deliveredAt":
		return d.DeliveredAt
	case "endedAt":
		return d.EndedAt
	case "error":
		return d.Error
	}
	return nil
}

// DeliveryFilter picks recipients of a command, in the order of their ids.
type DeliveryFilter struct {
	State api.CommandState
	Query filter.Query
	Limit int
}

// Where is all that a recipient must match, as one expression.
func (f *DeliveryFilter) Where() filter.Expr {
	return filter.All(filter.Is("state", string(f.State)), f.Query.Where)
}

// ReceivedSchema is what one agent's commands can be asked by.
var ReceivedSchema = &filter.Schema{
	Of: "commands of an agent", ID: "id", Order: "-id",
	Fields: []filter.Field{
		{Name: "id", Sortable: true},
		{Name: "type"},
		{Name: "state", Kind: filter.Word, Words: states},
		{Name: "createdAt", Aliases: []string{"created"}, Kind: filter.Time},
		{Name: "expiresAt", Aliases: []string{"expires"}, Kind: filter.Time},
	},
}

var _ filter.Row = (*Received)(nil)

// Field implements filter.Row.
func (r *Received) Field(name string, now time.Time) any {
	if name == "state" {
		return string(r.State)
	}
	return r.Command.Field(name, now)
}

// ReceivedFilter picks commands of one agent; the newest come first.
type ReceivedFilter struct {
	State api.CommandState
	Query filter.Query
	Limit int
}

// Where is all that a command of an agent must match, as one expression.
func (f *ReceivedFilter) Where() filter.Expr {
	return filter.All(filter.Is("state", string(f.State)), f.Query.Where)
}
