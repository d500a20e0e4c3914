package api

import "time"

// Event is one thing that happened, as those who follow the server see it. Its
// kind says which of the fields mean something.
type Event struct {
	_ struct{} `json:"-" additionalProperties:"true"`
	// ID grows with each event, also from one stream to the next.
	ID        uint64    `json:"id" doc:"A number that grows with each event of one stream, also from one stream to the next."`
	At        time.Time `json:"at" doc:"When it happened."`
	Kind      string    `json:"kind" doc:"What happened, as in agent.stale, task.failed or command.expired."`
	AgentID   string    `json:"agentId,omitempty" doc:"The agent that it happened to, or that works on it."`
	AgentName string    `json:"agentName,omitempty" doc:"The agent's name."`
	TaskID    string    `json:"taskId,omitempty" doc:"The task."`
	TargetID  string    `json:"targetId,omitempty" doc:"The task's target."`
	Target    string    `json:"target,omitempty" doc:"The name of the target."`
	CommandID string    `json:"commandId,omitempty" doc:"The command."`
	RolloutID string    `json:"rolloutId,omitempty" doc:"The rollout."`
	// Type is the task's or the command's; of a rollout it is the release.
	Type   string `json:"type,omitempty" doc:"The type of the task or the command; of a rollout, the release."`
	Reason string `json:"reason,omitempty" doc:"Why, in words."`
	By     string `json:"by,omitempty" doc:"Who did it, when somebody did."`
}

// The kinds of events. The word before the dot is what it happened to.
const (
	EventAgentRegistered   = "agent.registered"
	EventAgentUpdated      = "agent.updated"
	EventAgentConnected    = "agent.connected"
	EventAgentDisconnected = "agent.disconnected"
	EventAgentLive         = "agent.live"
	EventAgentStale        = "agent.stale"
	EventAgentDead         = "agent.dead"
	EventAgentActivated    = "agent.activated"
	EventAgentDeactivated  = "agent.deactivated"
	EventAgentRevoked      = "agent.revoked"
	EventAgentDeleted      = "agent.deleted"
	EventAgentCloned       = "agent.cloned"

	EventTaskQueued    = "task.queued"
	EventTaskAssigned  = "task.assigned"
	EventTaskRunning   = "task.running"
	EventTaskSucceeded = "task.succeeded"
	EventTaskFailed    = "task.failed"
	EventTaskCancelled = "task.cancelled"
	EventTaskExpired   = "task.expired"

	EventCommandSent         = "command.sent"
	EventCommandDelivered    = "command.delivered"
	EventCommandAcknowledged = "command.acknowledged"
	EventCommandFailed       = "command.failed"
	EventCommandExpired      = "command.expired"

	EventRolloutRunning     = "rollout.running"
	EventRolloutPaused      = "rollout.paused"
	EventRolloutStopped     = "rollout.stopped"
	EventRolloutRollingBack = "rollout.rolling-back"
	EventRolloutCancelling  = "rollout.cancelling"
	EventRolloutSucceeded   = "rollout.succeeded"
	EventRolloutFailed      = "rollout.failed"
	EventRolloutRolledBack  = "rollout.rolled-back"
	EventRolloutCancelled   = "rollout.cancelled"
)
