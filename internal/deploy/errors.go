package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"stella-ops.org/stella/api"
)

// The causes with which a runner ends a task's context (by
// context.WithCancelCause or context.WithTimeoutCause). They decide what the
// result says.
var (
	// ErrCancelled says that somebody cancelled the task.
	ErrCancelled = errors.New("the task was cancelled")
	// ErrTimeout says that the task ran for longer than it may.
	ErrTimeout = errors.New("the task's timeout ran out")
	// ErrStopping says that the agent itself is being stopped.
	ErrStopping = errors.New("the agent was stopped")
)

// Error is an error that knows how a result names it. A step returns one to
// say more than that something went wrong.
type Error struct {
	// Type is one of the api.Err… words.
	Type string
	// Message says what happened, to what, why, and what to do next.
	Message   string
	Retriable bool
	Outputs   map[string]any
	// Cause is what lies below, if anything; the message already says it.
	Cause error
}

// Fail makes an Error of the given type; %w in the format keeps its cause.
func Fail(errType, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Type: errType, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// Retry marks the error as one that may well be gone later, and returns it.
func (e *Error) Retry() *Error {
	e.Retriable = true
	return e
}

// With adds an output to the error, and returns it.
func (e *Error) With(name string, value any) *Error {
	outputs := make(map[string]any, len(e.Outputs)+1)
	maps.Copy(outputs, e.Outputs)
	outputs[name] = value
	e.Outputs = outputs
	return e
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// failureOf says how a result names an error that ended what was attempted.
// When the context has ended, its cause is the reason, whatever the step made
// of it: a hook that was killed did not fail by itself.
func failureOf(ctx context.Context, attempted string, err error) *Failure {
	if ctx.Err() != nil {
		return interrupted(context.Cause(ctx), attempted, err)
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return &Failure{Type: e.Type, Message: err.Error(), Retriable: e.Retriable, Outputs: e.Outputs}
	}
	return &Failure{Type: api.ErrInternal, Message: fmt.Sprintf("%s: %v", attempted, err)}
}

func interrupted(cause error, attempted string, err error) *Failure {
	f := &Failure{Message: fmt.Sprintf("%v during %s", cause, attempted)}
	switch {
	case errors.Is(cause, ErrTimeout), errors.Is(cause, context.DeadlineExceeded):
		f.Type = api.ErrTimeout
		f.Message += "; give it a longer timeout if that is what it needs"
	case errors.Is(cause, ErrStopping):
		f.Type, f.Retriable = api.ErrAgentRestarted, true
	default:
		f.Type = api.ErrCancelled
	}
	if e, ok := errors.AsType[*Error](err); ok {
		f.Outputs = e.Outputs
		if f.Type == api.ErrTimeout {
			f.Message += " (last seen: " + e.Message + ")"
		}
	}
	return f
}
