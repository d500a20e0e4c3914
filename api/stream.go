package api

import (
	"encoding/json"
	"time"
)

// SubprotocolProto is the WebSocket subprotocol of an agent's task stream in
// which each binary message is one frame of link.proto. A stream without a
// subprotocol carries StreamMessages as JSON.
const SubprotocolProto = "stella.v1.proto"

// The types of messages on a task stream without a subprotocol. A receiver
// passes over a type that it does not know.
const (
	// Down, from the server.
	StreamWelcome        = "welcome"
	StreamTaskAssigned   = "task_assigned"
	StreamTaskCancelled  = "task_cancelled"
	StreamLogAck         = "log_ack"
	StreamResultAck      = "result_ack"
	StreamHeartbeatAck   = "heartbeat_ack"
	StreamCommand        = "command"
	StreamCommandReceipt = "command_receipt"

	// Up, from the agent.
	StreamHello        = "hello"
	StreamHeartbeat    = "heartbeat"
	StreamTaskAccepted = "task_accepted"
	StreamTaskLog      = "task_log"
	StreamTaskResult   = "task_result"
	StreamCommandAck   = "command_ack"
)

// StreamMessage is one message of a task stream, either way; Type says which of
// the other fields mean something. An agent may leave out Attempt: the attempt
// that came over the same stream is meant.
type StreamMessage struct {
	_    struct{} `json:"-" additionalProperties:"true"`
	Type string   `json:"type"`

	Task    *AgentTask `json:"task,omitempty"`
	TaskID  string     `json:"taskId,omitempty"`
	Attempt int64      `json:"attempt,omitempty"`
	Reason  string     `json:"reason,omitempty"`

	// A result, and its acknowledgement.
	Success bool `json:"success,omitempty"`
	// Result is a TaskResult, or with a command_ack any JSON.
	Result   json.RawMessage `json:"result,omitempty"`
	Logs     string          `json:"logs,omitempty"`
	Accepted *bool           `json:"accepted,omitempty"`

	// A part of a log, and its acknowledgement.
	FirstSeq int64      `json:"firstSeq,omitempty"`
	LastSeq  int64      `json:"lastSeq,omitempty"`
	Entries  []LogEntry `json:"entries,omitempty"`

	// A command, its answer, and the answer's receipt. Status is acknowledged or
	// failed; with a heartbeat it is the agent's own.
	Command   *AgentCommand `json:"command,omitempty"`
	CommandID string        `json:"commandId,omitempty"`
	Status    string        `json:"status,omitempty"`
	Error     string        `json:"error,omitempty"`

	// A heartbeat, or what a hello says of the agent.
	ResourceUsage *ResourceUsage `json:"resourceUsage,omitempty"`
	Capabilities  []string       `json:"capabilities,omitempty"`
	RunningTasks  []TaskRef      `json:"runningTasks,omitempty"`
	NotAccepting  string         `json:"notAccepting,omitempty"`
	MaxTasks      int            `json:"maxTasks,omitempty"`
	Commands      bool           `json:"commands,omitempty"`

	// What the server says of itself.
	HeartbeatIntervalMs int64      `json:"heartbeatIntervalMs,omitempty"`
	ReconnectWindowMs   int64      `json:"reconnectWindowMs,omitempty"`
	ServerTime          *time.Time `json:"serverTime,omitempty"`
	Server              string     `json:"server,omitempty"`
}
