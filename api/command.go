package api

import (
	"encoding/json"
	"time"
)

// CommandState is how far a command has come with one recipient.
type CommandState string

// The states of a command with a recipient. A command begins as pending, and
// ends as acknowledged, failed or expired, once.
const (
	CommandPending      CommandState = "pending"
	CommandDelivered    CommandState = "delivered"
	CommandAcknowledged CommandState = "acknowledged"
	CommandFailed       CommandState = "failed"
	CommandExpired      CommandState = "expired"
)

// Final reports whether the state is the last.
func (s CommandState) Final() bool {
	return s == CommandAcknowledged || s == CommandFailed || s == CommandExpired
}

// CommandScope is whom a command was sent to.
type CommandScope string

// The scopes of a command.
const (
	ScopeAgent CommandScope = "agent"
	ScopeGroup CommandScope = "group"
	ScopeAll   CommandScope = "all"
)

// CommandRequest sends a command to an agent, a group, or all live agents.
type CommandRequest struct {
	Type    string          `json:"type" minLength:"1" maxLength:"64" doc:"config-update, deep-trace, replay, a built-in one (doctor, renew-certificate, update, drain, resume, collect-logs), or one that the agents declare as a capability."`
	Payload json.RawMessage `json:"payload,omitempty" doc:"What the command's handler gets; any JSON."`
	// ExpiresIn is in seconds; 0 stands for 60.
	ExpiresIn int64 `json:"expiresIn,omitempty" minimum:"0" maximum:"86400" doc:"Seconds until the command expires with those that have not answered; 60 when left out."`
}

// Command is a command as the API shows it.
type Command struct {
	ID      string          `json:"id" doc:"The id."`
	Type    string          `json:"type" doc:"What the agents are to do, as in doctor."`
	Payload json.RawMessage `json:"payload,omitempty" doc:"What the command's handler gets; any JSON."`
	Scope   CommandScope    `json:"scope" enum:"agent,group,all" doc:"Whom it was sent to: one agent, a group, or all live agents."`
	// Recipient names the agent or the group; it is empty for all.
	Recipient string `json:"recipient,omitempty" doc:"The agent or the group that it was sent to."`
	// Recipients is how many agents it was sent to; it does not change.
	Recipients int           `json:"recipients" doc:"How many agents it was sent to. Who they are was fixed when it was sent."`
	Counts     CommandCounts `json:"counts" doc:"How many recipients are in which state."`
	Done       bool          `json:"done" doc:"Whether every recipient has answered, or the time for it is over."`
	CreatedBy  string        `json:"createdBy" doc:"The name of the API token that sent it."`
	CreatedAt  time.Time     `json:"createdAt" doc:"When it was sent."`
	ExpiresAt  time.Time     `json:"expiresAt" doc:"When it expires with those that have not answered."`
}

// CommandCounts says how many recipients are in each state.
type CommandCounts struct {
	Pending      int `json:"pending" doc:"It waits to be delivered."`
	Delivered    int `json:"delivered" doc:"It was written to the agent's connection."`
	Acknowledged int `json:"acknowledged" doc:"The agent answered that all is well."`
	Failed       int `json:"failed" doc:"The agent answered that it failed."`
	Expired      int `json:"expired" doc:"The agent did not answer in time."`
}

// CommandDelivery is a command with one of its recipients.
type CommandDelivery struct {
	AgentID     string          `json:"agentId" doc:"The recipient's id."`
	AgentName   string          `json:"agentName" doc:"The recipient's name."`
	State       CommandState    `json:"state" enum:"pending,delivered,acknowledged,failed,expired" doc:"How far the command has come with it."`
	DeliveredAt *time.Time      `json:"deliveredAt,omitempty" doc:"When it was written to the agent's connection."`
	EndedAt     *time.Time      `json:"endedAt,omitempty" doc:"When the agent answered, or the command expired."`
	Result      json.RawMessage `json:"result,omitempty" doc:"What the agent answered; any JSON."`
	Error       string          `json:"error,omitempty" doc:"Why it failed, or was not answered."`
}

// CommandProgress is the answer of GET /api/v1/commands/{id}: the command, and
// a page of its recipients in the order of their ids.
type CommandProgress struct {
	Command
	Deliveries []CommandDelivery `json:"deliveries" nullable:"false" doc:"A page of the recipients."`
	Next       string            `json:"next,omitempty" doc:"Give it back as ?cursor= to get the recipients that follow."`
}

// CommandList is the answer of GET /api/v1/commands, the newest first.
type CommandList struct {
	Items []Command `json:"items" nullable:"false" doc:"The commands of this page."`
	Next  string    `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
}

// AgentCommand is a command as an agent gets it: as the data of an event of its
// stream, in a frame of its link, or in a heartbeat's answer.
type AgentCommand struct {
	_         struct{}        `json:"-" additionalProperties:"true"`
	ID        string          `json:"id" doc:"The command's id, to acknowledge it by."`
	Type      string          `json:"type" doc:"What to do, as in doctor. An agent answers failed to a type that it does not know."`
	Payload   json.RawMessage `json:"payload,omitempty" doc:"What the command's handler gets; any JSON."`
	CreatedAt time.Time       `json:"createdAt" doc:"When it was sent."`
	ExpiresAt time.Time       `json:"expiresAt" doc:"When it is of no use any more."`
	// Signature is on the CommandText; it is left out for others than the agent.
	Signature []byte `json:"signature,omitempty" doc:"The server's Ed25519 signature on this command for this agent: see the protocol's page. Left out in the list that people get, and of commands that are over."`
}

// AgentCommandItem is a command in the list of one agent's commands.
type AgentCommandItem struct {
	AgentCommand
	State CommandState `json:"state" enum:"pending,delivered,acknowledged,failed,expired" doc:"How far it has come with this agent."`
}

// AgentCommandList is the answer of GET /api/v1/agents/{id}/commands, the
// newest first.
type AgentCommandList struct {
	Items []AgentCommandItem `json:"items" nullable:"false" doc:"The commands of this page."`
	Next  string             `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
}

// CommandAck is POST /api/v1/agents/{id}/commands/{commandId}/ack: how a
// command ended on the agent. An empty one says that all is well.
type CommandAck struct {
	_      struct{}        `json:"-" additionalProperties:"true"`
	Status CommandState    `json:"status,omitempty" enum:"acknowledged,failed" doc:"acknowledged when left out, or failed."`
	Result json.RawMessage `json:"result,omitempty" doc:"What the command brought; any JSON, of at most 256 KiB."`
	Error  string          `json:"error,omitempty" maxLength:"4096" doc:"Why it failed."`
}

// CommandAckResponse says what stands: the first answer does, and another one
// changes nothing.
type CommandAckResponse struct {
	Acknowledged bool         `json:"acknowledged" doc:"Whether the command ended by an answer of this agent, this one or an earlier one."`
	State        CommandState `json:"state" enum:"pending,delivered,acknowledged,failed,expired" doc:"The state that the command has with this agent now."`
	Reason       string       `json:"reason,omitempty" doc:"Why the answer came to nothing, when it did."`
}
