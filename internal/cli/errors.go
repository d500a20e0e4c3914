package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

// The exit codes, as root's help tells them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitNotAllowed  = 4
	exitUnavailable = 5
	exitStella      = 125 // exec alone
	exitInterrupted = 130
)

// exitCode ends the command with a code when all is said already.
type exitCode int

// Error is for nobody: the code is all there is.
func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// Error is what a user is told: one line what happened, one what to do next,
// and between them what there is to list.
type Error struct {
	Code  int
	What  string
	Lines []string
	Next  string
	Err   error
}

// Error returns what happened.
func (e *Error) Error() string { return e.What }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// wrongUse is an error of whoever typed the command.
func wrongUse(next, format string, args ...any) *Error {
	return &Error{Code: exitUsage, Next: next, What: fmt.Sprintf(format, args...)}
}

// failed is an operation that did not work.
func failed(next, format string, args ...any) *Error {
	return &Error{Code: exitFailed, Next: next, What: fmt.Sprintf(format, args...)}
}

// explain makes of any error what its user needs to know.
func explain(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if connect, ok := errors.AsType[*client.ConnectError](err); ok {
		return &Error{Code: exitUnavailable, What: connect.What, Next: connect.Hint, Err: err}
	}
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return explainProblem(p)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &Error{Code: exitInterrupted, What: "interrupted", Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: exitUnavailable, What: "the time for it ran out", Next: "try again, or look at the server's log", Err: err}
	}
	return &Error{Code: exitFailed, What: err.Error(), Err: err}
}

func explainProblem(p *api.Problem) *Error {
	e := &Error{Code: exitFailed, What: p.Error(), Err: p}
	switch p.Status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		e.Code = exitUsage
	case http.StatusUnauthorized:
		e.Code = exitNotAllowed
		e.Next = "log in with `stella login`, or give a token by --token-file or STELLA_TOKEN"
	case http.StatusForbidden:
		e.Code = exitNotAllowed
		e.Next = "`stella whoami` shows your role; an admin can make another token with `stella token create`"
	case http.StatusNotFound:
		e.Code = exitNotFound
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		e.Code = exitUnavailable
		e.Next = "try again in a moment; the server's log tells why it cannot"
	}
	// The detail of wrong fields is made of their own texts.
	switch fields := fieldErrors(p); len(fields) {
	case 0:
	case 1:
		e.What = fields[0]
	default:
		e.What, e.Lines = "the request has "+plural(len(fields), "mistake"), fields
	}
	// Most details say themselves what to do next.
	if strings.Contains(e.What, "`stella ") {
		e.Next = ""
	}
	return e
}

// fieldErrors names fields as their user knows them, without where in the
// request they stood.
func fieldErrors(p *api.Problem) []string {
	lines := make([]string, len(p.Errors))
	for i, f := range p.Errors {
		at := f.Location
		for _, prefix := range []string{"body.", "payload.", "path.", "query."} {
			at = strings.TrimPrefix(at, prefix)
		}
		lines[i] = at + ": " + f.Message
	}
	return lines
}
