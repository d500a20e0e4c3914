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
	Type string   `json:"type" doc:"What the message is; a receiver passes over a type that it does not know."`

	Task *AgentTask `json:"task,omitempty" doc:"task_assigned: the task."`
	// Signature is on the bytes of the task, as they stand in the message.
	Signature []byte `json:"signature,omitempty" doc:"task_assigned: the server's Ed25519 signature on the text stella/v1/task, a NUL, and the task's JSON byte for byte as it stands here."`
	TaskID    string `json:"taskId,omitempty" doc:"Messages about a task: its id."`
	Attempt   int64  `json:"attempt,omitempty" doc:"Messages about a task: the attempt. An agent may leave it out: the attempt that came over the same stream is meant."`
	Reason    string `json:"reason,omitempty" doc:"task_cancelled, result_ack, command_receipt: why."`

	// A result, and its acknowledgement.
	Success bool `json:"success,omitempty" doc:"task_result: whether the task did what it should."`
	// Result is a TaskResult, or with a command_ack any JSON.
	Result   json.RawMessage `json:"result,omitempty" doc:"task_result: a TaskResult; command_ack: any JSON."`
	Logs     string          `json:"logs,omitempty" doc:"task_result: the end of the log."`
	Accepted *bool           `json:"accepted,omitempty" doc:"result_ack, command_receipt: whether the answer was taken."`

	// A part of a log, and its acknowledgement.
	FirstSeq int64      `json:"firstSeq,omitempty" doc:"task_log: the number of the first entry."`
	LastSeq  int64      `json:"lastSeq,omitempty" doc:"log_ack: the number up to which the log is stored."`
	Entries  []LogEntry `json:"entries,omitempty" doc:"task_log: the entries."`

	// A command, its answer, and the answer's receipt. Status is acknowledged or
	// failed; with a heartbeat it is the agent's own.
	Command   *AgentCommand `json:"command,omitempty" doc:"command: the command."`
	CommandID string        `json:"commandId,omitempty" doc:"command_ack, command_receipt: the command's id."`
	Status    string        `json:"status,omitempty" doc:"command_ack: acknowledged (when left out) or failed; heartbeat: online or degraded."`
	Error     string        `json:"error,omitempty" doc:"command_ack: why it failed."`

	// A heartbeat, or what a hello says of the agent.
	ResourceUsage *ResourceUsage `json:"resourceUsage,omitempty" doc:"heartbeat: the load of the agent's machine."`
	Capabilities  []string       `json:"capabilities,omitempty" doc:"hello, heartbeat: what the agent can do."`
	RunningTasks  []TaskRef      `json:"runningTasks,omitempty" doc:"hello, heartbeat: the tasks that the agent has taken and not finished."`
	NotAccepting  string         `json:"notAccepting,omitempty" doc:"hello, heartbeat: why the agent wants no new tasks, when it does not."`
	MaxTasks      int            `json:"maxTasks,omitempty" doc:"hello: how many tasks the agent runs at a time."`
	Commands      bool           `json:"commands,omitempty" doc:"hello: whether the agent takes commands on this stream."`

	// What the server says of itself.
	HeartbeatIntervalMs int64      `json:"heartbeatIntervalMs,omitempty" doc:"welcome: how often the agent is to report, in milliseconds."`
	ReconnectWindowMs   int64      `json:"reconnectWindowMs,omitempty" doc:"welcome, heartbeat_ack: after losing the server, wait a random part of this, in milliseconds, before connecting again."`
	ServerTime          *time.Time `json:"serverTime,omitempty" doc:"welcome, heartbeat_ack: the server's clock, to measure skew by."`
	Server              string     `json:"server,omitempty" doc:"welcome: the server's name."`
}
