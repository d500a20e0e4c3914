// Package task knows the work: tasks on targets, their states, who may take
// one, and what came of it.
//
// A task is claimed by the server that holds its agent's link. Each claim
// raises the task's attempt (the fencing number) and sets a lease, which the
// agent's heartbeats prolong; a report of an older attempt is refused. So any
// server may die, and any message may be lost or come twice:
//
//	queued ──claim──▶ assigned ──accepted──▶ running ──result──▶ succeeded | failed | cancelled
//	   │  ▲               │                     │
//	   │  └───lease lost──┴─────────────────────┘   (another agent may take it)
//	   └──▶ cancelled | expired                     (nobody took it)
//
// The package knows no SQL, no HTTP and no carrier.
package task

import (
	"encoding/json"
	"time"

	"stella-ops.org/stella/api"
)

// Task is one operation on one target.
type Task struct {
	ID       string
	TenantID string
	Type     api.TaskType
	TargetID string
	// TargetName and AgentName are for people; the store fills them in.
	TargetName string
	AgentName  string

	State  api.TaskState
	Reason string
	// Changing tasks run one at a time on a target.
	Changing   bool
	Capability string
	Priority   int // higher goes first

	// Payload is what people see; Sealed holds the whole of payload and
	// credentials, encrypted.
	Payload json.RawMessage
	Sealed  []byte
	// Artifacts are those of Stella's store that the task needs. The store
	// keeps which they are, and does not fill them in.
	Artifacts []Artifact

	Timeout        time.Duration // of the execution
	IdempotencyKey string

	AgentID         string
	Attempt         int64
	LeaseUntil      time.Time
	CancelRequested bool

	CreatedBy  string
	CreatedAt  time.Time
	ExpiresAt  time.Time // when it is no use any more to hand it out
	AssignedAt time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	Result     *api.TaskResult
}

// Ref names one attempt at a task.
type Ref struct {
	ID      string
	Attempt int64
}

// Priorities as numbers, for ordering.
var priorities = map[api.TaskPriority]int{
	api.PriorityLow: -1, "": 0, api.PriorityNormal: 0, api.PriorityHigh: 1, api.PriorityCritical: 2,
}

// PriorityName is the word for a priority's number.
func PriorityName(n int) api.TaskPriority {
	switch {
	case n < 0:
		return api.PriorityLow
	case n == 0:
		return api.PriorityNormal
	case n == 1:
		return api.PriorityHigh
	}
	return api.PriorityCritical
}

// PriorityNumber is the number of a priority's word.
func PriorityNumber(word api.TaskPriority) int { return priorities[word] }

// A type's needs: the capability is the target's kind with this word behind
// it, and changing types exclude each other on a target.
var types = map[api.TaskType]struct {
	capability string
	changing   bool
}{
	api.TaskDeploy:         {"deploy", true},
	api.TaskRollback:       {"rollback", true},
	api.TaskHealthCheck:    {"health-check", false},
	api.TaskInspect:        {"inspect", false},
	api.TaskExecuteCommand: {"execute", false},
	api.TaskUploadFiles:    {"upload", true},
	api.TaskWriteSticker:   {"sticker", true},
	api.TaskReadSticker:    {"sticker", false},
}

// Deployment is one entry of a target's history: a release that ran well from
// then on.
type Deployment struct {
	TaskID    string // of the deploy or rollback that brought it
	TenantID  string
	TargetID  string
	ReleaseID string
	Digest    string
	// Payload and Sealed are the deploy's, so that it can be repeated.
	Payload json.RawMessage
	Sealed  []byte
	At      time.Time
}

// Candidate is a queued task, as far as claiming must know it: a payload may
// be large, and most candidates are only looked at.
type Candidate struct {
	Ref        Ref
	Capability string
}

// Claim takes a task for an agent.
type Claim struct {
	Ref     Ref // as it was queued; the claim raises the attempt by one
	AgentID string
	// MaxActive is how many tasks the agent may hold at a time.
	MaxActive  int
	LeaseUntil time.Time
	At         time.Time
}

// Finish ends an attempt.
type Finish struct {
	Ref     Ref
	AgentID string
	State   api.TaskState
	Reason  string
	Result  *api.TaskResult
	At      time.Time
	// Deployment is what runs on the target from now on, if that changed.
	Deployment *Deployment
}

// Held says that an agent was given an attempt.
type Held struct {
	TenantID string
	AgentID  string
	Ref      Ref
}

// Waiting says that a tenant has queued tasks for an agent; AgentID is empty
// for targets that several agents may serve.
type Waiting struct {
	TenantID string
	AgentID  string
}
