// Package deploy runs a deployment as a list of journaled steps, each with its
// undo, so that a target runs the old version or the new one and never
// neither, wherever the agent is killed.
//
// The package knows no Docker, no SSH and no files of a release: an executor
// gives it steps, a journal to write before and after each of them, and a log.
package deploy

import (
	"context"
	"encoding/json"
	"time"

	"stella-ops.org/stella/api"
)

// Journal keeps the record of a running task. Save returns when the record is
// on disk; after an error the caller must not act.
type Journal interface {
	Save(ctx context.Context, rec *Record) error
}

// Record is all that is needed to end a task after a crash of the agent. It
// holds no secret.
type Record struct {
	// Task is the task without its payload, credentials and token.
	Task      api.AgentTask `json:"task"`
	StartedAt time.Time     `json:"startedAt"`
	// Step is the step that was begun last, and Done says that it ended.
	Step string `json:"step,omitempty"`
	Done bool   `json:"done,omitempty"`
	// Committed says that the new version stands: what is left is finished,
	// not undone.
	Committed bool `json:"committed,omitempty"`
	// Failure is why the steps are being undone, once they are.
	Failure *Failure `json:"failure,omitempty"`
	// Phases are the phases begun so far, for the result.
	Phases []api.PhaseTime `json:"phases,omitempty"`
	// State is the executor's own, as it was at the last save.
	State json.RawMessage `json:"state,omitempty"`
}

// Failure is why a task failed, as its result will say.
type Failure struct {
	Type      string         `json:"type"`
	Message   string         `json:"message"`
	Retriable bool           `json:"retriable,omitempty"`
	Outputs   map[string]any `json:"outputs,omitempty"`
}

// Bare returns a copy of a task that is fit for a record: without what may
// hold secrets.
func Bare(task *api.AgentTask) api.AgentTask {
	bare := *task
	bare.Payload, bare.Sealed, bare.Credentials, bare.Token = nil, nil, nil, ""
	return bare
}

// Log takes what a task says while it runs. It never blocks for long and is
// safe for use by several goroutines.
type Log interface {
	// Line logs one line; stream is stdout, stderr or system.
	Line(stream, text string)
	// Phase logs that a phase was started, or ended as done, failed or undone.
	Phase(name, state string)
}
