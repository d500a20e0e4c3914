package api

import (
	"encoding/json"
	"time"
)

// RolloutState is where a rollout stands.
type RolloutState string

// The states of a rollout; the last four are final, but that a person may still
// have it rolled back.
const (
	RolloutRunning     RolloutState = "running"
	RolloutPaused      RolloutState = "paused"       // by a person, or by its plan; resume goes on
	RolloutStopped     RolloutState = "stopped"      // too many failed; resume goes on
	RolloutRollingBack RolloutState = "rolling-back" // targets go back to what they ran before
	RolloutCancelling  RolloutState = "cancelling"   // waits for the tasks that were begun
	RolloutSucceeded   RolloutState = "succeeded"
	RolloutFailed      RolloutState = "failed"
	RolloutRolledBack  RolloutState = "rolled-back"
	RolloutCancelled   RolloutState = "cancelled"
)

// Final reports whether a rollout in this state goes on no more by itself, and
// cannot be resumed.
func (s RolloutState) Final() bool {
	switch s {
	case RolloutSucceeded, RolloutFailed, RolloutRolledBack, RolloutCancelled:
		return true
	}
	return false
}

// RolloutTargetState is where one target of a rollout stands.
type RolloutTargetState string

// The states of a target in a rollout.
const (
	RolloutTargetPending        RolloutTargetState = "pending"
	RolloutTargetRunning        RolloutTargetState = "running"
	RolloutTargetSucceeded      RolloutTargetState = "succeeded"
	RolloutTargetFailed         RolloutTargetState = "failed"
	RolloutTargetRollingBack    RolloutTargetState = "rolling-back"
	RolloutTargetRolledBack     RolloutTargetState = "rolled-back"
	RolloutTargetRollbackFailed RolloutTargetState = "rollback-failed"
	RolloutTargetSkipped        RolloutTargetState = "skipped" // the rollout ended before its turn
)

// OnFailure is what a rollout does when too many targets failed.
type OnFailure string

// What a rollout may do when too many targets failed. A target whose new
// version is not healthy goes back by itself in any case.
const (
	// OnFailureStop leaves things as they are.
	OnFailureStop OnFailure = "stop"
	// OnFailureRollbackFailed brings back targets that failed and did not come
	// back by themselves.
	OnFailureRollbackFailed OnFailure = "rollback-failed"
	// OnFailureRollbackAll brings back those that succeeded too.
	OnFailureRollbackAll OnFailure = "rollback-all"
)

// RolloutRequest is POST /api/v1/rollouts: one deployment to many targets.
type RolloutRequest struct {
	// Targets or Filter say which; targets are taken in the order given.
	Targets []string `json:"targets,omitempty" maxItems:"500" doc:"The targets' ids or names, in the order in which they have their turn."`
	Filter  string   `json:"filter,omitempty" maxLength:"2000" doc:"Or: what the targets must match, as in environment=production and label.tier=web; they have their turn by name."`
	// Payload is a DeployPayload, the same for each target.
	Payload         json.RawMessage `json:"payload" doc:"What to deploy: a DeployPayload, the same for each target."`
	Credentials     *Credentials    `json:"credentials,omitempty" doc:"Kept encrypted, never shown again."`
	Strategy        string          `json:"strategy,omitempty" enum:"rolling,all-at-once" doc:"rolling (when left out): maxParallel at a time; all-at-once: as many as the agents take."`
	MaxParallel     int             `json:"maxParallel,omitempty" minimum:"0" maximum:"500" doc:"rolling: how many targets are worked on at a time; 1 when left out."`
	MaxFailures     int             `json:"maxFailures,omitempty" minimum:"0" maximum:"500" doc:"At how many failed targets it stops; 1 when left out."`
	PauseAfter      int             `json:"pauseAfter,omitempty" minimum:"0" maximum:"500" doc:"After how many targets it pauses until somebody resumes it; never when left out."`
	OnFailure       OnFailure       `json:"onFailure,omitempty" enum:"stop,rollback-failed,rollback-all" doc:"What to do when it stops for its failures; stop when left out. A target whose new version is not healthy goes back by itself in any case."`
	Timeout         int64           `json:"timeout,omitempty" minimum:"0" maximum:"86400" doc:"How long each task may run, in seconds; 1800 when left out."`
	DeliveryTimeout int64           `json:"deliveryTimeout,omitempty" minimum:"0" maximum:"604800" doc:"How long each task may wait for its agent, in seconds; 3600 when left out."`
	Priority        TaskPriority    `json:"priority,omitempty" enum:"low,normal,high,critical" doc:"Which of several tasks for the same agent comes first; normal when left out."`
	// IdempotencyKey: a key that was seen returns the first rollout.
	IdempotencyKey string `json:"idempotencyKey,omitempty" maxLength:"128" doc:"Any text of yours. A key that was seen gives the rollout that was made with it, whatever else the request says."`
}

// Task is the request for one of the targets.
func (r *RolloutRequest) Task(target string) TaskRequest {
	return TaskRequest{
		Type: TaskDeploy, Target: target, Payload: r.Payload, Credentials: r.Credentials,
		Timeout: r.Timeout, DeliveryTimeout: r.DeliveryTimeout, Priority: r.Priority,
	}
}

// RolloutPreview is what a rollout would do.
type RolloutPreview struct {
	Targets []RolloutPreviewTarget `json:"targets" nullable:"false" doc:"The targets, in the order in which they would have their turn."`
	// Problems counts the targets that could not be served.
	Problems int `json:"problems" doc:"How many targets have a problem. With any, the rollout is refused."`
}

// RolloutPreviewTarget is what a rollout would do on one target.
type RolloutPreviewTarget struct {
	ID          string     `json:"id" doc:"The target's id."`
	Name        string     `json:"name" doc:"The target's name."`
	Kind        string     `json:"kind" doc:"docker, compose, ssh or host."`
	Environment string     `json:"environment,omitempty" doc:"The target's environment."`
	From        string     `json:"from,omitempty" doc:"The release that was deployed there last; empty when there was none."`
	FromDigest  string     `json:"fromDigest,omitempty" doc:"docker: its digest."`
	FromAt      *time.Time `json:"fromAt,omitempty" doc:"When it was deployed."`
	To          string     `json:"to,omitempty" doc:"The release that would be deployed; empty when its id is to be its task's."`
	ToDigest    string     `json:"toDigest,omitempty" doc:"docker: its digest."`
	// Problem is why the target could not be served now.
	Problem string `json:"problem,omitempty" doc:"Why it could not be deployed there now, and what to do."`
}

// Rollout is a rollout as the API shows it; values of environment variables in
// its payload are masked, and its credentials are not there.
type Rollout struct {
	ID          string                     `json:"id" doc:"The id."`
	State       RolloutState               `json:"state" enum:"running,paused,stopped,rolling-back,cancelling,succeeded,failed,rolled-back,cancelled" doc:"Where it stands."`
	Reason      string                     `json:"reason,omitempty" doc:"Why it is in this state."`
	ReleaseID   string                     `json:"releaseId,omitempty" doc:"The release that is deployed, when it has an id of its own."`
	ReleaseName string                     `json:"releaseName,omitempty" doc:"The release's name."`
	MaxParallel int                        `json:"maxParallel" doc:"How many targets are worked on at a time."`
	MaxFailures int                        `json:"maxFailures" doc:"At how many failed targets it stops."`
	PauseAfter  int                        `json:"pauseAfter,omitempty" doc:"After how many targets it will pause."`
	OnFailure   OnFailure                  `json:"onFailure" enum:"stop,rollback-failed,rollback-all" doc:"What it does when it stops for its failures."`
	Counts      map[RolloutTargetState]int `json:"counts" doc:"How many targets are in each state."`
	Total       int                        `json:"total" doc:"How many targets there are."`
	CreatedBy   string                     `json:"createdBy,omitempty" doc:"The name of the API token that made it."`
	CreatedAt   time.Time                  `json:"createdAt" doc:"When it was made."`
	UpdatedAt   time.Time                  `json:"updatedAt" doc:"When it moved last."`
	FinishedAt  *time.Time                 `json:"finishedAt,omitempty" doc:"When it was over."`
	// Payload and Targets are there where one rollout is shown.
	Payload json.RawMessage `json:"payload,omitempty" doc:"What is deployed, with the values of environment variables masked; where one rollout is shown."`
	Targets []RolloutTarget `json:"targets,omitempty" doc:"Its targets, in their order; where one rollout is shown."`
}

// RolloutTarget is one target of a rollout.
type RolloutTarget struct {
	ID     string             `json:"id" doc:"The target's id."`
	Name   string             `json:"name" doc:"The target's name, as it was."`
	State  RolloutTargetState `json:"state" enum:"pending,running,succeeded,failed,rolling-back,rolled-back,rollback-failed,skipped" doc:"Where it stands."`
	Reason string             `json:"reason,omitempty" doc:"Why, in words."`
	From   string             `json:"from,omitempty" doc:"The release that was deployed there before."`
	TaskID string             `json:"taskId,omitempty" doc:"The task that deploys."`
	// RollbackTaskID is the task that brings the target back.
	RollbackTaskID string     `json:"rollbackTaskId,omitempty" doc:"The task that rolls back."`
	StartedAt      *time.Time `json:"startedAt,omitempty" doc:"When its turn came."`
	FinishedAt     *time.Time `json:"finishedAt,omitempty" doc:"When its task was over."`
}

// RolloutList is the answer of GET /api/v1/rollouts.
type RolloutList struct {
	Items []Rollout `json:"items" nullable:"false" doc:"The rollouts of this page, without their payloads and targets."`
	Next  string    `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
}

// RolloutResume is POST /api/v1/rollouts/{id}/resume.
type RolloutResume struct {
	// RetryFailed gives the targets that failed another turn.
	RetryFailed bool `json:"retryFailed,omitempty" doc:"Whether the targets that failed have another turn."`
}
