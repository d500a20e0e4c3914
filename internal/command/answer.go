package command

import (
	"context"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// What may wait in memory while the store takes nothing; who comes then is
// asked to come again.
const (
	maxWaiting      = 100_000
	maxWaitingBytes = 256 << 20
)

// answer is an agent's answer that waits for its batch.
type answer struct {
	Report
	done chan<- written
}

// written is what came of an answer.
type written struct {
	Outcome
	err error
}

func (a *answer) size() int { return len(a.Result) + len(a.Error) }

// Delivered notes that a command was written to its recipient's link. It does
// not block; the note is written with the next batch, and kept in memory while
// the store takes none.
func (s *Service) Delivered(tenant, commandID, agentID string) {
	ref := Ref{TenantID: tenant, CommandID: commandID, AgentID: agentID}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Nothing bounds the marks, because the store does: while it takes none, it
	// takes no commands either, and each recipient of one has one mark.
	if _, noted := s.marks[ref]; !noted {
		s.marks[ref] = s.now()
		signal(s.marked)
	}
}

// Acknowledge takes an agent's answer and returns when what stands is durable.
// The first answer stands; another one changes nothing and is told what does.
// An answer that comes after the expiry is told so, without an error.
//
// Faults: NotFound for a command that is not there; Forbidden (not_a_recipient)
// when it was not sent to this agent; TooLarge for a result over
// MaxResultBytes; Invalid for one that is no JSON; Unavailable when the store
// failed: the agent should answer again. If ctx ends first, the answer may
// still be written.
func (s *Service) Acknowledge(ctx context.Context, a *fleet.Agent, commandID string, ack api.CommandAck) (api.CommandAckResponse, error) {
	report, err := report(Ref{TenantID: a.TenantID, CommandID: commandID, AgentID: a.ID}, ack)
	if err != nil {
		return api.CommandAckResponse{}, err
	}
	done := make(chan written, 1)
	waiting := &answer{Report: report, done: done}
	if err := s.wait(waiting); err != nil {
		return api.CommandAckResponse{}, err
	}
	select {
	case w := <-done:
		return respond(a, waiting, w)
	case <-ctx.Done():
		return api.CommandAckResponse{}, ctx.Err()
	}
}

// report checks an answer by itself.
func report(ref Ref, ack api.CommandAck) (Report, error) {
	r := Report{Ref: ref, State: ack.Status, Result: ack.Result, Error: shorten(ack.Error)}
	switch {
	case len(r.Result) > MaxResultBytes:
		return r, fault.New(fault.TooLarge, "result_too_large",
			"the result has %d KiB and may have %d: put what is large elsewhere, and answer with its address", (len(r.Result)+1023)>>10, MaxResultBytes>>10)
	case len(r.Result) > 0 && !json.Valid(r.Result):
		return r, fault.InvalidField("body.result", "it is no JSON: a text needs quotes")
	case string(r.Result) == "null":
		r.Result = nil
	}
	switch r.State {
	case "":
		r.State = api.CommandAcknowledged
	case api.CommandAcknowledged, api.CommandFailed:
	default:
		return r, fault.InvalidField("body.status", "%q is no answer: use acknowledged or failed", clip(string(r.State)))
	}
	return r, nil
}

// shorten cuts a long reason between two characters.
func shorten(s string) string {
	if len(s) <= maxErrorBytes {
		return s
	}
	const mark = "…"
	cut := maxErrorBytes - len(mark)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strings.ToValidUTF8(s[:cut], "") + mark
}

// wait puts an answer into the next batch.
func (s *Service) wait(a *answer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return fault.New(fault.Unavailable, "shutting_down", "the server is about to stop: answer again shortly")
	case len(s.answers) >= maxWaiting || s.bytes+a.size() > maxWaitingBytes:
		return fault.New(fault.Unavailable, "overloaded", "more answers wait for the server's database than the server can hold: answer again shortly")
	}
	// Under the lock, so that a sweep knows every answer that came before it.
	a.At = s.now()
	s.answers = append(s.answers, a)
	s.bytes += a.size()
	signal(s.answered)
	return nil
}

func respond(a *fleet.Agent, sent *answer, w written) (api.CommandAckResponse, error) {
	switch {
	case w.err != nil:
		if fault.As(w.err) == nil {
			w.err = fault.Wrap(w.err, fault.Unavailable, "store_unavailable", "the answer could not be stored: answer again shortly")
		}
		return api.CommandAckResponse{}, w.err
	case !w.Exists:
		return api.CommandAckResponse{}, fault.New(fault.NotFound, "command_not_found",
			"there is no command %q: it may have ended so long ago that it was deleted", clip(sent.CommandID))
	case w.State == "":
		return api.CommandAckResponse{}, fault.New(fault.Forbidden, "not_a_recipient",
			"command %s was not sent to agent %s: an agent answers only what it was sent", sent.CommandID, a.Name)
	}
	return api.CommandAckResponse{
		Acknowledged: w.State == api.CommandAcknowledged || w.State == api.CommandFailed,
		State:        w.State, Reason: w.reason(sent.At),
	}, nil
}

// signal wakes who reads the channel, if nothing has yet.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
