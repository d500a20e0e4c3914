// Package rollout deploys one version to many targets: some at a time, with a
// look before going on, and back again when too many fail.
//
// A rollout is one row with its targets in it. Any server takes its next step,
// as often as it likes: a step is decided from what the row and the tasks say,
// written only if nobody has written since, and acted upon afterwards, under
// names that make a second try the same as the first. So a server that dies in
// the midst loses nothing, and two that act at once do nothing twice.
//
// The package knows no SQL, no HTTP and no executor; a target's own rollback
// when its health check fails is its executor's doing.
package rollout

import (
	"encoding/json"
	"time"

	"stella-ops.org/stella/api"
)

// Rollout is one version on its way to many targets.
type Rollout struct {
	ID       string
	TenantID string
	State    api.RolloutState
	Reason   string
	Plan     Plan
	// ReleaseID and ReleaseName are the version's, when it has a name.
	ReleaseID   string
	ReleaseName string
	// Payload is what people see; Sealed holds payload and credentials,
	// encrypted.
	Payload json.RawMessage
	Sealed  []byte
	Targets []Target

	IdempotencyKey string
	// Version grows with each write: who writes must have read the last one.
	Version    int64
	CreatedBy  string
	CreatedAt  time.Time
	UpdatedAt  time.Time
	FinishedAt time.Time
}

// Plan is how a rollout goes.
type Plan struct {
	MaxParallel int `json:"maxParallel"`
	// MaxFailures is at how many failed targets it stops.
	MaxFailures int `json:"maxFailures"`
	// PauseAfter is after how many targets it waits for a person; 0 for never,
	// and once a person has said to go on.
	PauseAfter int           `json:"pauseAfter,omitempty"`
	OnFailure  api.OnFailure `json:"onFailure"`
	// Forgiven is how many failures a person has seen when the rollout was
	// resumed: they count no more.
	Forgiven int `json:"forgiven,omitempty"`

	// What each target's task gets.
	Timeout         int64            `json:"timeout,omitempty"`         // in seconds
	DeliveryTimeout int64            `json:"deliveryTimeout,omitempty"` // in seconds
	Priority        api.TaskPriority `json:"priority,omitempty"`
}

// Target is one target's part in a rollout.
type Target struct {
	ID    string                 `json:"id"`
	Name  string                 `json:"name"`
	State api.RolloutTargetState `json:"state"`
	// Reason is why, in words.
	Reason string `json:"reason,omitempty"`
	// From is what ran before, and FromTask the task that had brought it;
	// empty when nothing was deployed there before.
	// Looked says that this was looked at.
	From     string `json:"from,omitempty"`
	FromTask string `json:"fromTask,omitempty"`
	Looked   bool   `json:"looked,omitempty"`
	// Try counts the deployments that were begun here; each has a name of its
	// own, so that it is queued once.
	Try int `json:"try,omitempty"`
	// Task is the deployment's; empty until it is queued.
	Task string `json:"task,omitempty"`
	// Undo says that the target is to go back; UndoTask is the task that does.
	Undo       bool      `json:"undo,omitempty"`
	UndoTask   string    `json:"undoTask,omitempty"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	// Unclear says that nobody knows what the failed task has left.
	Unclear bool `json:"unclear,omitempty"`
}

// inFlight says that a task of the target's is to be queued, or is not over.
func (t *Target) inFlight() bool {
	return t.State == api.RolloutTargetRunning || t.State == api.RolloutTargetRollingBack
}

// Counts counts the targets by state.
func (r *Rollout) Counts() map[api.RolloutTargetState]int {
	n := map[api.RolloutTargetState]int{}
	for i := range r.Targets {
		n[r.Targets[i].State]++
	}
	return n
}

// failures are those that count: not the ones that a person has seen.
func (r *Rollout) failures() int {
	n := 0
	for i := range r.Targets {
		if r.Targets[i].State == api.RolloutTargetFailed {
			n++
		}
	}
	return n - r.Plan.Forgiven
}

// Event says that the rollout came to its state.
func (r *Rollout) Event() api.Event {
	return api.Event{
		At: r.UpdatedAt, Kind: "rollout." + string(r.State), RolloutID: r.ID, Type: r.ReleaseID, Reason: r.Reason, By: r.CreatedBy,
	}
}
