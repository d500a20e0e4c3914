package deploy

import (
	"context"
	"time"
)

// The phases of a deployment, in their order; a plan's steps bear their names.
const (
	PhasePull        = "pull"
	PhaseVerify      = "verify"
	PhasePreHook     = "pre-hook"
	PhaseBackup      = "backup"
	PhaseSwitch      = "switch"
	PhaseHealthCheck = "health-check"
	PhasePostHook    = "post-hook"
	PhaseSticker     = "sticker"
	PhaseCleanup     = "cleanup"
)

// The states of a phase.
const (
	PhaseStarted = "started"
	PhaseDone    = "done"
	PhaseFailed  = "failed"
	PhaseUndone  = "undone"
)

// Step is one phase of a plan.
type Step struct {
	// Name is the phase's name, unique in its plan.
	Name string
	// Do does the step. It stops soon after ctx has ended and returns an
	// error then; what it leaves half done is for Undo. Before the commit it
	// is called at most once, whatever crashes.
	Do func(ctx context.Context) error
	// Undo brings back what was before Do; nil when Do changes nothing. It is
	// called whenever Do was begun, with no word on how far Do came, and may
	// be called again after it has succeeded: it looks at what is there and
	// not at what should be. Its ctx outlives a cancel.
	Undo func(ctx context.Context) error
	// Changes says that the step changes what the target runs; undoing it is
	// what a result calls a roll back.
	Changes bool
}

// Plan is a deployment as steps around a commit point.
type Plan struct {
	// State points to the executor's own value. It goes as JSON into every
	// record, and is all that a plan for Resume may be made from.
	State any
	// Steps are done in order; the new version stands once the last has been
	// journaled. Until then a failure, cancel, timeout or crash undoes all
	// that were begun, in reverse order.
	Steps []Step
	// Finish is what is left to do after that. These steps have only Do, are
	// repeated after a crash, and their failure is a warning: the new version
	// runs.
	Finish []Step
	// Secrets are masked in a failure's message and outputs, which go into the
	// journal. Nothing else of a record may hold any.
	Secrets []string
	// Outputs are the outputs of a success.
	Outputs func() map[string]any
	// Restored says, after a step that Changes was undone, whether the target
	// runs something again and, in a sentence, what.
	Restored func() (running bool, sentence string)
	// Standing looks at the target after an undo has failed, and says in a
	// sentence what is there and what to do by hand.
	Standing func(ctx context.Context) string
}

// Limits of what a cancel does not reach.
const (
	undoTimeout   = 5 * time.Minute
	finishTimeout = 2 * time.Minute
	tries         = 4
	firstBackoff  = 500 * time.Millisecond
)

type checkpointKey struct{}

// Checkpoint saves the plan's state in the middle of a step, for a Do whose
// Undo must know that a certain point was reached. After an error the step
// must not go on. ctx is the one that Do was given.
func Checkpoint(ctx context.Context) error {
	save, ok := ctx.Value(checkpointKey{}).(func(context.Context) error)
	if !ok {
		return nil
	}
	return save(ctx)
}

func withCheckpoint(ctx context.Context, save func(context.Context) error) context.Context {
	return context.WithValue(ctx, checkpointKey{}, save)
}
