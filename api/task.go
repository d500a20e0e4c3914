package api

import (
	"encoding/json"
	"time"
)

// TaskType is what a task does to its target.
type TaskType string

// The task types.
const (
	TaskDeploy         TaskType = "deploy"
	TaskRollback       TaskType = "rollback"
	TaskHealthCheck    TaskType = "health-check"
	TaskInspect        TaskType = "inspect"
	TaskExecuteCommand TaskType = "execute-command"
	TaskUploadFiles    TaskType = "upload-files"
	TaskWriteSticker   TaskType = "write-sticker"
	TaskReadSticker    TaskType = "read-sticker"
)

// TaskState is where a task stands.
type TaskState string

// The task states; the last four are final.
const (
	TaskQueued    TaskState = "queued"
	TaskAssigned  TaskState = "assigned"
	TaskRunning   TaskState = "running"
	TaskSucceeded TaskState = "succeeded"
	TaskFailed    TaskState = "failed"
	TaskCancelled TaskState = "cancelled"
	TaskExpired   TaskState = "expired"
)

// Final reports whether a task in this state will never change again.
func (s TaskState) Final() bool {
	switch s {
	case TaskSucceeded, TaskFailed, TaskCancelled, TaskExpired:
		return true
	}
	return false
}

// TaskPriority orders tasks that wait for the same agent.
type TaskPriority string

// The priorities.
const (
	PriorityLow      TaskPriority = "low"
	PriorityNormal   TaskPriority = "normal"
	PriorityHigh     TaskPriority = "high"
	PriorityCritical TaskPriority = "critical"
)

// TaskRef names one attempt at a task.
type TaskRef struct {
	_      struct{} `json:"-" additionalProperties:"true"`
	TaskID string   `json:"taskId"`
	// Attempt is the fencing number; 0 stands for the current attempt.
	Attempt int64 `json:"attempt,omitempty"`
}

// AgentTask is one attempt at a task as its agent gets it.
type AgentTask struct {
	ID       string          `json:"id"`
	Attempt  int64           `json:"attempt" doc:"The fencing number; a report of an older one is refused."`
	Type     TaskType        `json:"type"`
	TargetID string          `json:"targetId"`
	Target   AgentTarget     `json:"target"`
	Payload  json.RawMessage `json:"payload" doc:"In the shape that the type asks for."`
	// Credentials is secret and lives no longer than the task.
	Credentials    *Credentials `json:"credentials,omitempty"`
	Timeout        int64        `json:"timeout" doc:"How long the task may run, in seconds."`
	Priority       TaskPriority `json:"priority"`
	IdempotencyKey string       `json:"idempotencyKey"`
	AssignedAt     time.Time    `json:"assignedAt"`
	ExpiresAt      time.Time    `json:"expiresAt" doc:"When this attempt ends at the latest."`
	Token          string       `json:"token,omitempty" doc:"A JWT for this attempt's endpoints alone."`
}

// AgentTarget is what an agent must know of a target.
type AgentTarget struct {
	Name        string       `json:"name"`
	Kind        string       `json:"kind"`
	Environment string       `json:"environment,omitempty"`
	Config      TargetConfig `json:"config"`
}

// Credentials go with a task to its agent and nowhere else.
type Credentials struct {
	Registry *RegistryAuth `json:"registry,omitempty"`
}

// RegistryAuth logs in to an image registry.
type RegistryAuth struct {
	Username string `json:"username,omitempty" maxLength:"255"`
	Password string `json:"password,omitempty" maxLength:"16384"`
	// Token is a bearer token, instead of the two above.
	Token string `json:"token,omitempty" maxLength:"16384"`
}

// TaskRequest is POST /api/v1/tasks.
type TaskRequest struct {
	Type TaskType `json:"type" enum:"deploy,rollback,health-check,inspect,execute-command,upload-files,write-sticker,read-sticker"`
	// Target is a target's id or name.
	Target      string          `json:"target" minLength:"1" maxLength:"255" doc:"The target's id or name."`
	Payload     json.RawMessage `json:"payload,omitempty" doc:"In the shape that the type asks for."`
	Credentials *Credentials    `json:"credentials,omitempty" doc:"Kept encrypted, never shown again."`
	Timeout     int64           `json:"timeout,omitempty" minimum:"0" maximum:"86400" doc:"How long the task may run, in seconds; 1800 when left out."`
	// DeliveryTimeout is how long the task may wait for an agent.
	DeliveryTimeout int64        `json:"deliveryTimeout,omitempty" minimum:"0" maximum:"604800" doc:"How long the task may wait for its agent, in seconds; 3600 when left out."`
	Priority        TaskPriority `json:"priority,omitempty" enum:"low,normal,high,critical"`
	// IdempotencyKey: a key that was seen returns the first task.
	IdempotencyKey string `json:"idempotencyKey,omitempty" maxLength:"255"`
}

// TasksRequest is POST /api/v1/tasks/by-selector: the same task for every
// target that matches.
type TasksRequest struct {
	Selector        TargetSelector  `json:"selector" doc:"Which targets; every field that is set must match."`
	Type            TaskType        `json:"type" enum:"deploy,rollback,health-check,inspect,execute-command,upload-files,write-sticker,read-sticker"`
	Payload         json.RawMessage `json:"payload,omitempty" doc:"In the shape that the type asks for."`
	Credentials     *Credentials    `json:"credentials,omitempty" doc:"Kept encrypted, never shown again."`
	Timeout         int64           `json:"timeout,omitempty" minimum:"0" maximum:"86400" doc:"How long each task may run, in seconds; 1800 when left out."`
	DeliveryTimeout int64           `json:"deliveryTimeout,omitempty" minimum:"0" maximum:"604800" doc:"How long each task may wait for its agent, in seconds; 3600 when left out."`
	Priority        TaskPriority    `json:"priority,omitempty" enum:"low,normal,high,critical"`
	// IdempotencyKey: with a key that was seen, no target gets a second task.
	IdempotencyKey string `json:"idempotencyKey,omitempty" maxLength:"128"`
}

// TargetSelector picks targets; every field that is set must match.
type TargetSelector struct {
	Kind        string            `json:"kind,omitempty" maxLength:"20"`
	Environment string            `json:"environment,omitempty" maxLength:"255"`
	Labels      map[string]string `json:"labels,omitempty"`
}

// Task is a task as the API shows it; values of environment variables in its
// payload are masked, and its credentials are not there.
type Task struct {
	ID              string          `json:"id"`
	Type            TaskType        `json:"type"`
	TargetID        string          `json:"targetId"`
	TargetName      string          `json:"targetName"`
	AgentID         string          `json:"agentId,omitempty"`
	AgentName       string          `json:"agentName,omitempty"`
	State           TaskState       `json:"state"`
	Reason          string          `json:"reason,omitempty" doc:"Why the task is in this state."`
	Attempt         int64           `json:"attempt"`
	Priority        TaskPriority    `json:"priority"`
	Payload         json.RawMessage `json:"payload,omitempty"`
	Timeout         int64           `json:"timeout"`
	IdempotencyKey  string          `json:"idempotencyKey,omitempty"`
	CancelRequested bool            `json:"cancelRequested,omitempty"`
	CreatedBy       string          `json:"createdBy,omitempty"`
	CreatedAt       time.Time       `json:"createdAt"`
	ExpiresAt       time.Time       `json:"expiresAt" doc:"When the task expires if no agent has taken it."`
	AssignedAt      *time.Time      `json:"assignedAt,omitempty"`
	StartedAt       *time.Time      `json:"startedAt,omitempty"`
	FinishedAt      *time.Time      `json:"finishedAt,omitempty"`
	Result          *TaskResult     `json:"result,omitempty"`
}

// TaskList is the answer of GET /api/v1/tasks.
type TaskList struct {
	Items []Task `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Words that TaskResult.ErrorType takes.
const (
	ErrDigestMismatch    = "digest_mismatch"
	ErrPullFailed        = "pull_failed"
	ErrPreHookFailed     = "pre_hook_failed"
	ErrPostHookFailed    = "post_hook_failed"
	ErrSwitchFailed      = "switch_failed"
	ErrHealthCheckFailed = "health_check_failed"
	ErrRollbackFailed    = "rollback_failed"
	ErrNothingToRestore  = "nothing_to_roll_back_to"
	ErrCommandFailed     = "command_failed"
	ErrTimeout           = "timeout"
	ErrCancelled         = "cancelled"
	ErrAgentLost         = "agent_lost"
	ErrAgentRestarted    = "agent_restarted"
	ErrUnsupported       = "unsupported"
	ErrInvalidPayload    = "invalid_payload"
	ErrTargetUnreachable = "target_unreachable"
	ErrInternal          = "internal"
)

// TaskResult is how an attempt at a task ended.
type TaskResult struct {
	_           struct{}            `json:"-" additionalProperties:"true"`
	TaskID      string              `json:"taskId,omitempty"`
	Attempt     int64               `json:"attempt,omitempty"`
	Success     bool                `json:"success" required:"false"`
	StartedAt   time.Time           `json:"startedAt,omitzero"`
	CompletedAt time.Time           `json:"completedAt,omitzero"`
	Outputs     map[string]any      `json:"outputs,omitempty" doc:"What the task produced, by name."`
	Artifacts   []ArtifactReference `json:"artifacts,omitempty"`
	Error       string              `json:"error,omitempty" doc:"What happened, to what, why, and what to do next."`
	ErrorType   string              `json:"errorType,omitempty" doc:"A stable word, as in health_check_failed."`
	Retriable   bool                `json:"retriable,omitempty" doc:"Whether the same task may well succeed later."`
	// RolledBack says that the target runs again what it ran before.
	RolledBack bool        `json:"rolledBack,omitempty" doc:"The target runs again what it ran before the task."`
	Logs       string      `json:"logs,omitempty" doc:"The end of the log."`
	Metrics    TaskMetrics `json:"metrics,omitzero"`
	Phases     []PhaseTime `json:"phases,omitempty" doc:"The phases that ran, in order."`
}

// TaskMetrics is how long the parts of a deployment took, in milliseconds.
type TaskMetrics struct {
	_                     struct{} `json:"-" additionalProperties:"true"`
	PullDurationMs        int64    `json:"pullDurationMs,omitempty"`
	DeployDurationMs      int64    `json:"deployDurationMs,omitempty"`
	HealthCheckDurationMs int64    `json:"healthCheckDurationMs,omitempty"`
}

// PhaseTime is one phase of a task with its time.
type PhaseTime struct {
	_          struct{}  `json:"-" additionalProperties:"true"`
	Name       string    `json:"name"`
	State      string    `json:"state" doc:"started, done, failed or undone."`
	StartedAt  time.Time `json:"startedAt"`
	DurationMs int64     `json:"durationMs"`
}

// CompleteRequest is POST /api/v1/agents/{id}/tasks/{taskId}/complete.
type CompleteRequest struct {
	_       struct{} `json:"-" additionalProperties:"true"`
	Success bool     `json:"success"`
	// Attempt may be left out with a task's own token, which names it.
	Attempt int64       `json:"attempt,omitempty"`
	Result  *TaskResult `json:"result,omitempty"`
	Logs    string      `json:"logs,omitempty" maxLength:"1048576"`
}

// CompleteResponse says whether the result was taken. A result of an attempt
// that is over is not acknowledged, and need not be sent again either.
type CompleteResponse struct {
	Acknowledged bool   `json:"acknowledged"`
	Reason       string `json:"reason,omitempty"`
}

// LogRequest is POST /api/v1/agents/{id}/tasks/{taskId}/logs.
type LogRequest struct {
	_        struct{}   `json:"-" additionalProperties:"true"`
	Attempt  int64      `json:"attempt,omitempty"`
	FirstSeq int64      `json:"firstSeq" minimum:"0" doc:"The number of the first entry."`
	Entries  []LogEntry `json:"entries" maxItems:"10000"`
}

// LogResponse says up to which entry a log is stored.
type LogResponse struct {
	LastSeq int64 `json:"lastSeq"`
}

// LogEntry is one line of a task's log.
type LogEntry struct {
	_          struct{}  `json:"-" additionalProperties:"true"`
	Seq        int64     `json:"seq,omitempty"`
	At         time.Time `json:"at"`
	Stream     string    `json:"stream" doc:"stdout, stderr, or system for what Stella itself says."`
	Text       string    `json:"text"`
	Phase      string    `json:"phase,omitempty" doc:"The phase that this entry begins or ends."`
	PhaseState string    `json:"phaseState,omitempty" doc:"started, done, failed or undone; only with a phase."`
	Lost       int64     `json:"lost,omitempty" doc:"How many lines were dropped just before this one."`
}

// TaskLogs is the answer of GET /api/v1/tasks/{id}/logs. With follow=true the
// same entries come as a stream of JSON lines instead.
type TaskLogs struct {
	Entries []LogEntry `json:"entries"`
}
