package command

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fleet"
)

// Store keeps commands and their recipients. Every method is atomic and safe
// for concurrent use by many servers. A missing command is a fault of kind
// NotFound.
type Store interface {
	// InsertCommand adds a command, and as its recipients those whom to picks
	// at this moment, in one transaction. It fills in how many they are. If it
	// picks nobody, nothing is added, unless the command may be for nobody.
	InsertCommand(ctx context.Context, c *Command, to Pick, mayBeForNobody bool) (recipients int, err error)
	Command(ctx context.Context, tenant, id string) (*Command, error)
	Commands(ctx context.Context, tenant string, f Filter) ([]*Command, error)
	CommandsOf(ctx context.Context, tenant, agentID string, f ReceivedFilter) ([]*Received, error)
	Deliveries(ctx context.Context, tenant, id string, f DeliveryFilter) ([]*Delivery, error)

	// PendingRecipients returns the ids of a command's recipients that are
	// pending, in their order.
	PendingRecipients(ctx context.Context, id string) ([]string, error)
	// PendingCommands returns the commands that are pending for an agent and
	// expire after a time, the oldest first.
	PendingCommands(ctx context.Context, tenant, agentID string, at time.Time, limit int) ([]*Command, error)
	// UnsentCommands returns what is pending for agents that are not dead, was
	// sent before a time and expires after another, in the order of agents and
	// commands, after a ref.
	UnsentCommands(ctx context.Context, sentBefore, at time.Time, after Ref, limit int) ([]Ref, error)

	// RecordReports has deliveries take reports (see Delivery.Take), in their
	// order, and returns what each met and all that moved. A report of another
	// tenant, or about a recipient who is none, changes nothing.
	RecordReports(ctx context.Context, reports []Report) ([]Outcome, []Transition, error)
	// ExpireCommands ends what is open of commands whose time is over. It
	// handles at most limit recipients and says whether there may be more.
	// Each transition is returned once, whatever the number of servers.
	ExpireCommands(ctx context.Context, at time.Time, limit int) (moved []Transition, more bool, err error)
	// DeleteEndedCommands removes commands that ended before a time. It
	// removes at most limit recipients and says whether there may be more.
	DeleteEndedCommands(ctx context.Context, before time.Time, limit int) (more bool, err error)

	// Agent returns the agent with that id, or else with that name.
	Agent(ctx context.Context, tenant, idOrName string) (*fleet.Agent, error)
	// Agents returns a page of agents in the order of their ids.
	Agents(ctx context.Context, tenant string, f fleet.Filter) ([]*fleet.Agent, error)
}

// Pick says which agents become recipients.
type Pick struct {
	// AgentID picks one agent, unless it is revoked. Without it, all agents are
	// picked that are active and live, and pass the rest.
	AgentID string
	Group   string // empty: of any group
	// Capabilities, when there are any, leave only agents that can one of
	// them, by the rule of fleet.Agent.Can.
	Capabilities []string
}

// Report is a mark or an answer: State is delivered, acknowledged or failed.
type Report struct {
	Ref
	State  api.CommandState
	At     time.Time // when it came to the server
	Result json.RawMessage
	Error  string
}

// Outcome is what a report met.
type Outcome struct {
	// Exists: the tenant has the command.
	Exists bool
	// State is how it stands with the recipient after the report; empty when
	// the agent is none.
	State     api.CommandState
	ExpiresAt time.Time
}

// Transition is one change of a recipient's state.
type Transition struct {
	Ref
	AgentName string
	Type      string
	To        api.CommandState
	At        time.Time
	Reason    string // why it failed or expired
}

// Why a command expired with a recipient.
const (
	NotConnected = "the agent was not connected until the command expired"
	NotAnswered  = "the command was delivered, and the agent did not answer until it expired"
)

// Take is the rule of how a report moves a delivery: nothing moves what has
// ended, a mark moves only what is pending, and what comes at the expiry or
// later finds the command expired. It reports whether the delivery moved.
func (d *Delivery) Take(r *Report, expiresAt time.Time) bool {
	switch {
	case d.State.Final():
		return false
	case !r.At.Before(expiresAt):
		d.Error = NotAnswered
		if d.State == api.CommandPending {
			d.Error = NotConnected
		}
		d.State, d.EndedAt = api.CommandExpired, r.At
	case r.State != api.CommandDelivered:
		d.State, d.EndedAt, d.Result, d.Error = r.State, r.At, r.Result, r.Error
	case d.State == api.CommandPending:
		d.State, d.DeliveredAt = api.CommandDelivered, r.At
	default:
		return false
	}
	return true
}

// event makes what is published of a transition.
func (t *Transition) event() api.Event {
	return api.Event{
		At: t.At, Kind: kinds[t.To], AgentID: t.AgentID, AgentName: t.AgentName, CommandID: t.CommandID, Type: t.Type, Reason: t.Reason,
	}
}

var kinds = map[api.CommandState]string{
	api.CommandDelivered:    api.EventCommandDelivered,
	api.CommandAcknowledged: api.EventCommandAcknowledged,
	api.CommandFailed:       api.EventCommandFailed,
	api.CommandExpired:      api.EventCommandExpired,
}

// reason says why an answer came to nothing; empty when it did not.
func (o *Outcome) reason(at time.Time) string {
	if o.State != api.CommandExpired {
		return ""
	}
	if late := at.Sub(o.ExpiresAt); late >= 0 {
		return fmt.Sprintf("the answer came %.1f s after the command had expired", late.Seconds())
	}
	return "the command expired before the answer could be stored"
}
