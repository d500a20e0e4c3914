package enroll

import (
	"context"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// refused is the one answer to every token that is not good, so that nobody
// learns from it which tokens exist.
func refused() error {
	return fault.New(fault.Unauthenticated, "token_refused",
		"the registration token was refused: it is unknown, used, expired or revoked; make a new one with `stella agent bootstrap`")
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
	return refused()
}
