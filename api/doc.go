// Package api is the contract of Stella's REST API: the JSON shapes that the
// server, the agents and every client exchange, and the names of headers and
// fixed words. It imports nothing but the standard library and holds no
// behaviour beyond what a value of the contract means.
//
// Times are RFC 3339 in UTC. Durations say their unit in their name, or are
// seconds where the source protocol names them without one (timeout,
// expiresIn). A field that is empty and optional is left out.
package api

import "time"

// Header names of the agent protocol.
const (
	// HeaderRegistrationToken carries the one-time token on registration.
	HeaderRegistrationToken = "X-Registration-Token"
	// HeaderProtocolVersion names the caller's protocol version; absent means 1.
	HeaderProtocolVersion = "X-Stella-Protocol-Version"
)

// The protocol versions that this build speaks, both ends included.
const (
	ProtocolVersion    = 1
	MinProtocolVersion = 1
)

// Problem is an error as RFC 9457 (application/problem+json) describes it,
// with a code that programs may rely on.
type Problem struct {
	Type   string `json:"type,omitempty" doc:"A URI reference for the kind of problem."`
	Title  string `json:"title" doc:"The HTTP status in words."`
	Status int    `json:"status" doc:"The HTTP status code."`
	Detail string `json:"detail,omitempty" doc:"What happened, to what, why, and what to do next."`
	// Code is stable over versions.
	Code   string         `json:"code" doc:"A stable word for programs, as in not_found or task_finished."`
	Errors []ProblemField `json:"errors,omitempty" doc:"The fields that are wrong."`
	// KnownBoot comes with CodeNumberRefused.
	KnownBoot int64 `json:"knownBoot,omitempty" doc:"With the code number_refused: the highest boot that the server has heard of the agent."`
	// RetryAfter is how long the server asks to wait before another try, by the
	// answer's header Retry-After; 0 when it does not say. A client fills it in.
	RetryAfter time.Duration `json:"-"`
}

// Error returns the detail, or the title when there is none.
func (p *Problem) Error() string {
	if p.Detail != "" {
		return p.Detail
	}
	return p.Title
}

// ProblemField names one wrong field of a request.
type ProblemField struct {
	Location string `json:"location" doc:"Where it is, as in body.config.ports[0]."`
	Message  string `json:"message" doc:"What is wrong with it."`
}
