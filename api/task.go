package api

import (
	"encoding/json"
	"strings"
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
	TaskID string   `json:"taskId" doc:"The task's id."`
	// Attempt is the fencing number; 0 stands for the current attempt.
	Attempt int64 `json:"attempt,omitempty" doc:"The fencing number; the current attempt when left out."`
}

// AgentTask is one attempt at a task as its agent gets it.
type AgentTask struct {
	ID       string          `json:"id" doc:"The task's id."`
	AgentID  string          `json:"agentId" doc:"The agent that it is for."`
	Attempt  int64           `json:"attempt" doc:"The fencing number; a report of an older one is refused."`
	Type     TaskType        `json:"type" doc:"What to do with the target."`
	TargetID string          `json:"targetId" doc:"The target's id."`
	Target   AgentTarget     `json:"target" doc:"The target, as the agent must know it."`
	Payload  json.RawMessage `json:"payload,omitempty" doc:"In the shape that the type asks for. For an agent that registered an encryption key it is in sealed, and left out here."`
	// Sealed is a SealedTask: payload and credentials, for the agent alone.
	Sealed *Sealed `json:"sealed,omitempty" doc:"Payload and credentials, as JSON with these two fields, for the agent alone; with an agent that registered an encryption key."`
	// Credentials is secret and lives no longer than the task. It travels in
	// Sealed alone: the agent fills it in here.
	Credentials    *Credentials `json:"-"`
	Timeout        int64        `json:"timeout" doc:"How long the task may run, in seconds."`
	Priority       TaskPriority `json:"priority" enum:"low,normal,high,critical" doc:"Which of several tasks comes first."`
	IdempotencyKey string       `json:"idempotencyKey" doc:"The same in every attempt: what was done under it need not be done again."`
	AssignedAt     time.Time    `json:"assignedAt" doc:"When the agent got this attempt."`
	ExpiresAt      time.Time    `json:"expiresAt" doc:"When this attempt ends at the latest."`
	Token          string       `json:"token,omitempty" doc:"A JWT for this attempt's endpoints alone."`
}

// AgentTarget is what an agent must know of a target.
type AgentTarget struct {
	Name        string       `json:"name" doc:"The target's name."`
	Kind        string       `json:"kind" doc:"docker, compose, ssh or host."`
	Environment string       `json:"environment,omitempty" doc:"The target's environment."`
	Config      TargetConfig `json:"config" doc:"How it is reached and where things go on it."`
}

// Credentials go with a task to its agent and nowhere else.
type Credentials struct {
	Registry *RegistryAuth `json:"registry,omitempty" doc:"The image registry's."`
	// Secrets are the values that secret://name stands for in the task and in
	// its target, by name. The server fills them in when an agent gets the
	// task; a request has none.
	Secrets map[string]string `json:"secrets,omitempty" doc:"Filled in by the server: the values of secret://name in the task and its target, by name."`
}

// SecretScheme begins a reference to a secret: secret://name.
const SecretScheme = "secret://"

// Secret returns the value that a reference (secret://name) stands for; false
// when it is no reference, or of a secret that did not come with the task.
func (c *Credentials) Secret(ref string) (string, bool) {
	name, ok := strings.CutPrefix(ref, SecretScheme)
	if !ok || c == nil {
		return "", false
	}
	value, ok := c.Secrets[name]
	return value, ok
}

// RegistryAuth logs in to an image registry.
type RegistryAuth struct {
	Username string `json:"username,omitempty" maxLength:"255" doc:"The user."`
	Password string `json:"password,omitempty" maxLength:"16384" doc:"The password."`
	// Token is a bearer token, instead of the two above.
	Token string `json:"token,omitempty" maxLength:"16384" doc:"A bearer token, instead of the two."`
}

// TaskRequest is POST /api/v1/tasks.
type TaskRequest struct {
	Type TaskType `json:"type" enum:"deploy,rollback,health-check,inspect,execute-command,upload-files,write-sticker,read-sticker" doc:"What to do with the target."`
	// Target is a target's id or name.
	Target      string          `json:"target" minLength:"1" maxLength:"255" doc:"The target's id or name."`
	Payload     json.RawMessage `json:"payload,omitempty" doc:"In the shape that the type asks for."`
	Credentials *Credentials    `json:"credentials,omitempty" doc:"Kept encrypted, never shown again."`
	Timeout     int64           `json:"timeout,omitempty" minimum:"0" maximum:"86400" doc:"How long the task may run, in seconds; 1800 when left out."`
	// DeliveryTimeout is how long the task may wait for an agent.
	DeliveryTimeout int64        `json:"deliveryTimeout,omitempty" minimum:"0" maximum:"604800" doc:"How long the task may wait for its agent, in seconds; 3600 when left out."`
	Priority        TaskPriority `json:"priority,omitempty" enum:"low,normal,high,critical" doc:"Which of several tasks for the same agent comes first; normal when left out."`
	// IdempotencyKey: a key that was seen returns the first task.
	IdempotencyKey string `json:"idempotencyKey,omitempty" maxLength:"255" doc:"Any text of yours. A key that was seen gives the task that was made with it, whatever else the request says."`
}

// TasksRequest is POST /api/v1/tasks/by-selector: the same task for every
// target that matches.
type TasksRequest struct {
	Selector        TargetSelector  `json:"selector" doc:"Which targets; every field that is set must match."`
	Type            TaskType        `json:"type" enum:"deploy,rollback,health-check,inspect,execute-command,upload-files,write-sticker,read-sticker" doc:"What to do with the targets."`
	Payload         json.RawMessage `json:"payload,omitempty" doc:"In the shape that the type asks for."`
	Credentials     *Credentials    `json:"credentials,omitempty" doc:"Kept encrypted, never shown again."`
	Timeout         int64           `json:"timeout,omitempty" minimum:"0" maximum:"86400" doc:"How long each task may run, in seconds; 1800 when left out."`
	DeliveryTimeout int64           `json:"deliveryTimeout,omitempty" minimum:"0" maximum:"604800" doc:"How long each task may wait for its agent, in seconds; 3600 when left out."`
	Priority        TaskPriority    `json:"priority,omitempty" enum:"low,normal,high,critical" doc:"Which of several tasks for the same agent comes first; normal when left out."`
	// IdempotencyKey: with a key that was seen, no target gets a second task.
	IdempotencyKey string `json:"idempotencyKey,omitempty" maxLength:"128" doc:"Any text of yours. With a key that was seen, no target gets a second task."`
}

// TargetSelector picks targets; every field that is set must match.
type TargetSelector struct {
	Kind        string            `json:"kind,omitempty" maxLength:"20" doc:"docker, compose, ssh or host."`
	Environment string            `json:"environment,omitempty" maxLength:"255" doc:"The targets' environment."`
	Labels      map[string]string `json:"labels,omitempty" doc:"Labels that the targets must have, with these values."`
}

// Task is a task as the API shows it; values of environment variables in its
// payload are masked, and its credentials are not there.
type Task struct {
	ID              string          `json:"id" doc:"The id."`
	Type            TaskType        `json:"type" doc:"What it does with its target."`
	TargetID        string          `json:"targetId" doc:"The target's id."`
	TargetName      string          `json:"targetName" doc:"The target's name."`
	AgentID         string          `json:"agentId,omitempty" doc:"The agent that has it, or had it last."`
	AgentName       string          `json:"agentName,omitempty" doc:"The agent's name."`
	State           TaskState       `json:"state" enum:"queued,assigned,running,succeeded,failed,cancelled,expired" doc:"Where it stands."`
	Reason          string          `json:"reason,omitempty" doc:"Why the task is in this state."`
	Attempt         int64           `json:"attempt" doc:"How often it was handed out."`
	Priority        TaskPriority    `json:"priority" enum:"low,normal,high,critical" doc:"Which of several tasks for the same agent comes first."`
	Payload         json.RawMessage `json:"payload,omitempty" doc:"In the shape of its type; values of environment variables are masked."`
	Timeout         int64           `json:"timeout" doc:"How long it may run, in seconds."`
	IdempotencyKey  string          `json:"idempotencyKey,omitempty" doc:"What the request gave."`
	CancelRequested bool            `json:"cancelRequested,omitempty" doc:"Whether the agent is asked to stop it."`
	CreatedBy       string          `json:"createdBy,omitempty" doc:"The name of the API token that made it."`
	CreatedAt       time.Time       `json:"createdAt" doc:"When it was queued."`
	ExpiresAt       time.Time       `json:"expiresAt" doc:"When the task expires if no agent has taken it."`
	AssignedAt      *time.Time      `json:"assignedAt,omitempty" doc:"When an agent got it last."`
	StartedAt       *time.Time      `json:"startedAt,omitempty" doc:"When the agent took it up."`
	FinishedAt      *time.Time      `json:"finishedAt,omitempty" doc:"When it was over."`
	Result          *TaskResult     `json:"result,omitempty" doc:"What came of it."`
}

// TaskList is the answer of GET /api/v1/tasks.
type TaskList struct {
	Items []Task `json:"items" nullable:"false" doc:"The tasks, of this page in a listing."`
	Next  string `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
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
	ErrSecretMissing     = "secret_missing"
	// ErrKeyMissing: the task has credentials, and its agent no key (or none
	// that is one) to seal them to.
	ErrKeyMissing = "encryption_key_missing"
	// ErrUntrusted: what the agent got as the task is not what the server
	// signed. ErrUnreadable: it is, and does not open with the agent's keys.
	ErrUntrusted         = "task_untrusted"
	ErrUnreadable        = "task_unreadable"
	ErrTargetUnreachable = "target_unreachable"
	ErrInternal          = "internal"
)

// TaskResult is how an attempt at a task ended.
type TaskResult struct {
	_           struct{}            `json:"-" additionalProperties:"true"`
	TaskID      string              `json:"taskId,omitempty" doc:"The task; the server knows it when it is left out."`
	Attempt     int64               `json:"attempt,omitempty" doc:"The attempt; the server knows it when it is left out."`
	Success     bool                `json:"success" required:"false" doc:"Whether the task did what it should."`
	StartedAt   time.Time           `json:"startedAt,omitzero" doc:"When the agent began."`
	CompletedAt time.Time           `json:"completedAt,omitzero" doc:"When the agent was done."`
	Outputs     map[string]any      `json:"outputs,omitempty" doc:"What the task produced, by name."`
	Artifacts   []ArtifactReference `json:"artifacts,omitempty" doc:"What the task left behind, as files."`
	Error       string              `json:"error,omitempty" doc:"What happened, to what, why, and what to do next."`
	ErrorType   string              `json:"errorType,omitempty" doc:"A stable word, as in health_check_failed."`
	Retriable   bool                `json:"retriable,omitempty" doc:"Whether the same task may well succeed later."`
	// RolledBack says that the target runs again what it ran before.
	RolledBack bool        `json:"rolledBack,omitempty" doc:"The target runs again what it ran before the task."`
	Logs       string      `json:"logs,omitempty" doc:"The end of the log."`
	Metrics    TaskMetrics `json:"metrics,omitzero" doc:"How long the parts of a deployment took."`
	Phases     []PhaseTime `json:"phases,omitempty" doc:"The phases that ran, in order."`
}

// TaskMetrics is how long the parts of a deployment took, in milliseconds.
type TaskMetrics struct {
	_                     struct{} `json:"-" additionalProperties:"true"`
	PullDurationMs        int64    `json:"pullDurationMs,omitempty" doc:"Getting the image or the files, in milliseconds."`
	DeployDurationMs      int64    `json:"deployDurationMs,omitempty" doc:"The whole deployment, in milliseconds."`
	HealthCheckDurationMs int64    `json:"healthCheckDurationMs,omitempty" doc:"Waiting until it was healthy, in milliseconds."`
}

// PhaseTime is one phase of a task with its time.
type PhaseTime struct {
	_          struct{}  `json:"-" additionalProperties:"true"`
	Name       string    `json:"name" doc:"The phase, as in pull or health-check."`
	State      string    `json:"state" doc:"started, done, failed or undone."`
	StartedAt  time.Time `json:"startedAt" doc:"When it began."`
	DurationMs int64     `json:"durationMs" doc:"How long it took, in milliseconds."`
}

// CompleteRequest is POST /api/v1/agents/{id}/tasks/{taskId}/complete.
type CompleteRequest struct {
	_       struct{} `json:"-" additionalProperties:"true"`
	Success bool     `json:"success" doc:"Whether the task did what it should."`
	// Attempt may be left out with a task's own token, which names it.
	Attempt int64       `json:"attempt,omitempty" doc:"The fencing number; needless with a task's own token, which names it."`
	Result  *TaskResult `json:"result,omitempty" doc:"What came of it."`
	Logs    string      `json:"logs,omitempty" maxLength:"1048576" doc:"The end of the log, when no entries were sent."`
}

// CompleteResponse says whether the result was taken. A result of an attempt
// that is over is not acknowledged, and need not be sent again either.
type CompleteResponse struct {
	Acknowledged bool   `json:"acknowledged" doc:"Whether the result counts. Either way it need not be sent again."`
	Reason       string `json:"reason,omitempty" doc:"Why it does not count."`
}

// CredentialsRequest is POST /api/v1/agents/{id}/tasks/{taskId}/credentials.
type CredentialsRequest struct {
	_       struct{} `json:"-" additionalProperties:"true"`
	Attempt int64    `json:"attempt,omitempty" doc:"The fencing number; the current attempt when left out."`
}

// LogRequest is POST /api/v1/agents/{id}/tasks/{taskId}/logs.
type LogRequest struct {
	_        struct{}   `json:"-" additionalProperties:"true"`
	Attempt  int64      `json:"attempt,omitempty" doc:"The fencing number; needless with a task's own token, which names it."`
	FirstSeq int64      `json:"firstSeq" minimum:"0" doc:"The number of the first entry."`
	Entries  []LogEntry `json:"entries" maxItems:"10000" doc:"The entries, in order and without a gap."`
}

// LogResponse says up to which entry a log is stored.
type LogResponse struct {
	LastSeq int64 `json:"lastSeq" doc:"The number up to which the log is stored: entries up to it need not be sent again."`
}

// LogEntry is one line of a task's log.
type LogEntry struct {
	_          struct{}  `json:"-" additionalProperties:"true"`
	Seq        int64     `json:"seq,omitempty" doc:"The number within the attempt, from 1."`
	At         time.Time `json:"at" doc:"When it was written."`
	Stream     string    `json:"stream" doc:"stdout, stderr, or system for what Stella itself says."`
	Text       string    `json:"text" doc:"The line, without its end; secrets are masked."`
	Phase      string    `json:"phase,omitempty" doc:"The phase that this entry begins or ends."`
	PhaseState string    `json:"phaseState,omitempty" doc:"started, done, failed or undone; only with a phase."`
	Lost       int64     `json:"lost,omitempty" doc:"How many lines were dropped just before this one."`
}

// TaskLogs is the answer of GET /api/v1/tasks/{id}/logs. With follow=true the
// same entries come as a stream of JSON lines instead.
type TaskLogs struct {
	Entries []LogEntry `json:"entries" nullable:"false" doc:"The entries, in order."`
}
