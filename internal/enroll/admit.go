package enroll

import (
	"context"
	"fmt"
	"time"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// refused is the answer to a token that is no good. What has become of one is
// said only to who has shown the whole of its secret; who guesses learns nothing
// but that it is unknown.
func refused(tok *Token, state string, now time.Time) error {
	const anew = "; make a new one with `stella agent bootstrap`"
	why := "is not known here: copy the whole of it, and use it with the server that made it, or make one there with `stella agent bootstrap`"
	switch state {
	case "used":
		why = "was used already: by another machine, or by this one before its data was lost; if neither may be, look into the audit log, and deactivate the agent that registered with it" + anew
	case "expired":
		why = fmt.Sprintf("expired at %s, and this server's clock is at %s", tok.ExpiresAt.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)) + anew
	case "revoked":
		why = "was revoked" + anew
	}
	return fault.New(fault.Unauthenticated, "token_refused", "the registration token %s", why)
}

// gone is the answer to an agent whose record went while it asked.
func gone(agentID string) error {
	return fault.New(fault.Forbidden, "agent_unknown", "agent %s is not known any more: it was deleted; register it anew with a token (`stella agent bootstrap`)", agentID)
}

// Admit reports whether a caller may show its token to Register: nil, or the
// refusal. A token that is used up may be shown, because the same key gets the
// same answer again. It spends nothing, and is there to be asked before anything
// else of a request is read.
//
// The time that it takes tells nothing worth knowing. A token is found by its
// hash, so that no comparison stops at the first letter that is wrong; and
// whether it is unknown, expired or revoked, it is found by the same one read.
// Only a used one is looked at longer, which learns who has it whole already.
func (s *Service) Admit(ctx context.Context, c Caller) error {
	tok, err := s.store.TokenByHash(ctx, Hash(c.Token))
	if err != nil {
		return err
	}
	if state := s.state(tok); state != "usable" && state != "used" {
		return s.deny(ctx, c, tok, "", state)
	}
	return nil
}

// state is what becomes of a token that is shown now; a used one that has
// expired since is expired.
func (s *Service) state(tok *Token) string {
	if tok == nil {
		return "unknown"
	}
	now := s.now()
	if state := tok.State(now); state != "used" || now.Before(tok.ExpiresAt) {
		return state
	}
	return "expired"
}

// deny notes and counts a refused token, which is in a state that is no good,
// and returns the refusal.
func (s *Service) deny(ctx context.Context, c Caller, tok *Token, object, state string) error {
	environment, platform := "", ""
	if tok != nil {
		environment, platform = countedAs(tok.Environment, ""), countedAs(tok.Platform, "")
	}
	s.meter.Bootstrapped(environment, platform, "token_"+state)
	if !c.Quiet {
		if fleet.ValidateName(object) != nil {
			object = "" // whatever a stranger likes to have in the log
		}
		e := access.Event{Actor: "anonymous", Action: "agent.register", Object: object, Remote: c.Remote, Outcome: "denied", Detail: "token " + state}
		if tok != nil {
			e.TenantID = tok.TenantID
		}
		s.audit.Audit(ctx, e)
	}
	return refused(tok, state, s.now())
}
