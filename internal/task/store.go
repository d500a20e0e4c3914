package task

import (
	"context"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/event"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/target"
)

// Store keeps tasks, their logs and the targets' history. Every method is
// atomic and safe for concurrent use by many servers. A missing task is a
// fault of kind NotFound.
type Store interface {
	// InsertTask adds a queued task, and keeps that it uses its artifacts. If
	// the tenant has one with the same idempotency key already, it adds
	// nothing and returns that one; otherwise it returns nil. An artifact that
	// is not there, or not complete, is the fault that Artifact.Missing makes.
	InsertTask(ctx context.Context, t *Task) (first *Task, err error)
	// CheckArtifacts returns the fault that InsertTask would for the task's
	// artifacts.
	CheckArtifacts(ctx context.Context, t *Task) error
	// TaskByKey returns the tenant's task with that idempotency key, or nil.
	TaskByKey(ctx context.Context, tenant, key string) (*Task, error)
	Task(ctx context.Context, tenant, id string) (*Task, error)
	// Tasks returns a page of tasks, the newest first unless the filter says
	// another order.
	Tasks(ctx context.Context, tenant string, f Filter) ([]*Task, error)

	// Queued returns tasks that the agent might take, in the order in which
	// it should: by priority, then targets with less at work first, then
	// age. They are queued, not past their expiry, on a target that names
	// this agent or is in sharedTargets, and, if changing, on a target where
	// no other change is at work.
	Queued(ctx context.Context, tenant, agentID string, sharedTargets []string, at time.Time, limit int) ([]Candidate, error)
	// ClaimTask moves a queued task to assigned, with the attempt raised. It
	// returns nil when it was not to be had: taken by another, cancelled,
	// the target busy with a change, the agent not active or full.
	ClaimTask(ctx context.Context, c Claim) (*Task, error)
	// HeldBy returns the tasks that are assigned to an agent or running there.
	HeldBy(ctx context.Context, agentID string) ([]*Task, error)
	// Assigned returns what all agents were given and have not begun, but for
	// what is to be cancelled.
	Assigned(ctx context.Context) ([]Held, error)
	// StartTask moves an assigned attempt to running; false if it is not so.
	StartTask(ctx context.Context, agentID string, ref Ref, at time.Time) (bool, error)
	// RenewLeases prolongs the leases of attempts that the agent holds.
	RenewLeases(ctx context.Context, agentID string, refs []Ref, until time.Time) error
	// FinishTask ends an assigned or running attempt and adds the deployment
	// to the history; false when the agent does not hold that attempt.
	FinishTask(ctx context.Context, f Finish) (bool, error)

	// CancelQueued ends a queued task; false when it is queued no more.
	CancelQueued(ctx context.Context, tenant, id, reason string, at time.Time) (bool, error)
	// RequestCancel notes that an assigned or running task should stop.
	RequestCancel(ctx context.Context, tenant, id string, at time.Time) (bool, error)
	// ExpireQueued ends tasks that waited too long and returns them.
	ExpireQueued(ctx context.Context, at time.Time) ([]*Task, error)
	// LeasesBefore returns the tasks whose lease ended before a time.
	LeasesBefore(ctx context.Context, at time.Time) ([]*Task, error)
	// Requeue gives an attempt whose lease ended back to the queue; false
	// when the lease was renewed or the attempt is over.
	Requeue(ctx context.Context, ref Ref, reason string, leaseBefore, at time.Time) (bool, error)
	// FailLost ends an attempt whose lease ended before a time; false when
	// it was renewed or the attempt is over.
	FailLost(ctx context.Context, f Finish, leaseBefore time.Time) (bool, error)
	// WaitingFor returns for whom tasks wait.
	WaitingFor(ctx context.Context, at time.Time) ([]Waiting, error)

	// AppendLog stores entries numbered from firstSeq, skips those that are
	// stored already, and returns the last number stored for the attempt.
	// maxBytes bounds an attempt's log; what is over is dropped for one
	// entry that says so.
	AppendLog(ctx context.Context, ref Ref, firstSeq int64, entries []api.LogEntry, maxBytes int64) (lastSeq int64, err error)
	// Log returns a task's entries after a position, over all attempts, and
	// the position behind them. The beginning is position 0.
	Log(ctx context.Context, taskID string, after int64, limit int) (entries []api.LogEntry, position int64, err error)

	// Deployments returns a target's history, the newest first.
	Deployments(ctx context.Context, tenant, targetID string, limit int) ([]*Deployment, error)

	// SharedTargets returns the tenant's targets that have a selector.
	SharedTargets(ctx context.Context, tenant string) ([]*target.Target, error)
	// Agent returns the agent with that id, or else with that name.
	Agent(ctx context.Context, tenant, idOrName string) (*fleet.Agent, error)
	// Agents returns a page of agents; see fleet.Store.
	Agents(ctx context.Context, tenant string, f fleet.Filter) ([]*fleet.Agent, error)
	// Target returns the target with that id, or else with that name.
	Target(ctx context.Context, tenant, idOrName string) (*target.Target, error)
	// Targets returns a page of targets; see target.Store.
	Targets(ctx context.Context, tenant string, f target.Filter) ([]*target.Target, error)
}

// Waker tells servers and followers that something is to be looked at. What
// it says may be lost: the store is the truth, and everybody who waits also
// looks by himself from time to time.
type Waker interface {
	// TaskQueued: a task waits for an agent; empty for any of the tenant's.
	TaskQueued(tenant, agentID string)
	// TaskCancel: the agent should stop an attempt.
	TaskCancel(agentID string, ref Ref, reason string)
	// TaskChanged: a task's state or log has grown.
	TaskChanged(tenant, taskID string)
	// Publisher tells people what became of tasks.
	event.Publisher
}

// Sealer encrypts what is kept at rest. The name is bound to the text: what
// was sealed under one name does not open under another.
type Sealer interface {
	Seal(name string, plain []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// Secrets are the named values that targets and tasks refer to.
type Secrets interface {
	// Check refuses names that no secret has; at is the field to blame.
	Check(ctx context.Context, tenant, at string, names []string) error
	// Values returns the values by name; one that is missing is a fault of kind
	// NotFound.
	Values(ctx context.Context, tenant string, names []string) (map[string]string, error)
}

// Envelope protects what goes to agents.
type Envelope interface {
	// SealTo encrypts for the agent that registered a public key, in base64,
	// and binds info to it. An error means that the key is none.
	SealTo(publicKey string, info, plain []byte) (keyID string, sealed []byte, err error)
	// Sign signs a message of a domain.
	Sign(domain string, message []byte) []byte
}

// TokenIssuer makes the token that an attempt carries.
type TokenIssuer interface {
	TaskToken(tenant, agentID, certFingerprint, taskID, targetID string, attempt int64, until time.Time) (string, error)
}
