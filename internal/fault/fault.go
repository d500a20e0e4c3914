// Package fault is the one error type whose text a client may see: a kind, a
// stable code, a safe message, and the cause, which stays in the log. An error
// that is not a fault is internal: its text never leaves the server.
//
// The package knows nothing of HTTP or RPC; each edge maps the kinds once.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what sort of trouble an error is, and so how an edge answers.
type Kind int

// The kinds of fault.
const (
	Internal           Kind = iota // our fault; the message is not shown
	Invalid                        // the request itself is wrong
	Unauthenticated                // nobody we know
	Forbidden                      // known, and not allowed
	NotFound                       // there is no such thing
	Conflict                       // it contradicts what is there
	TooLarge                       // more than we take
	RateLimited                    // too often; later it may work
	Timeout                        // it took the caller too long
	Unavailable                    // we cannot now; later it may work
	UnsupportedVersion             // a protocol version that we do not speak
	UpgradeRequired                // another protocol is spoken here
	Unsupported                    // a form of the request that is not read here
)

// Field names one wrong field of a request.
type Field struct {
	Location string // as in body.config.ports[0]
	Message  string
}

// Error is an error that a client may see. Cause is for the log only.
type Error struct {
	Kind    Kind
	Code    string // stable, for programs
	Message string // what happened, to what, why, and what to do next
	Fields  []Field
	// RetryAfter is, of a fault that time mends, how long that takes; 0 when
	// nobody knows.
	RetryAfter time.Duration
	Cause      error
}

// Error returns the message and the cause, for logs.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// New makes a fault with a formatted message.
func New(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrap makes a fault that shows the message and keeps the cause for the log.
func Wrap(cause error, kind Kind, code, message string) *Error {
	return &Error{Kind: kind, Code: code, Message: message, Cause: cause}
}

// InvalidField makes an Invalid fault about one field.
func InvalidField(location, format string, args ...any) *Error {
	msg := fmt.Sprintf(format, args...)
	return &Error{
		Kind: Invalid, Code: "invalid", Message: location + ": " + msg,
		Fields: []Field{{Location: location, Message: msg}},
	}
}

// As returns the first fault in err's chain, or nil.
func As(err error) *Error {
	f, _ := errors.AsType[*Error](err)
	return f
}

// KindOf returns the kind of the first fault in err's chain; Internal when
// there is none.
func KindOf(err error) Kind {
	if f := As(err); f != nil {
		return f.Kind
	}
	return Internal
}

// CodeOf returns the code of the first fault in err's chain; "internal" when
// there is none.
func CodeOf(err error) string {
	if f := As(err); f != nil {
		return f.Code
	}
	return "internal"
}
