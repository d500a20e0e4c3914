package rest

import (
	"context"
	"crypto/tls"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// Who proves an identity may ask as often as they like; everybody else is
// limited by their address, and told so with 429. A request that shows nothing
// and one whose proof is refused are counted apart, so that a health check does
// not use up what a mistyped token needs.

// anonymous counts a request that shows nothing, and returns what it is told:
// the refusal, or that there were too many.
func (s *Server) anonymous(remote string, refusal error) error {
	if over := s.Strangers.Anonymous(remote); over != nil {
		return over
	}
	return refusal
}

// refused counts a token or certificate that was not accepted, and returns what
// its owner is told. What failed for another reason, such as a store that does
// not answer, is nobody's guess and is not counted.
func (s *Server) refused(remote string, refusal error) error {
	if k := fault.KindOf(refusal); k != fault.Unauthenticated && k != fault.Forbidden {
		return refusal
	}
	if over := s.Strangers.Refused(remote); over != nil {
		return over
	}
	return refusal
}

// known is Identify for the doors of agents: who is not let in is counted. With
// recovering, a certificate that has ended may be good enough.
func (s *Server) known(ctx context.Context, cs *tls.ConnectionState, remote string, recovering bool) (*fleet.Agent, error) {
	a, err := s.identify(ctx, cs, remote, recovering)
	switch {
	case err == nil:
		return a, nil
	case fault.CodeOf(err) == "certificate_missing":
		return nil, s.anonymous(remote, err)
	}
	return nil, s.refused(remote, err)
}

// registrant lets in who may ask to register, before anything of the body is
// read: a stranger cannot have the server parse what they send, or verify
// signatures of theirs.
func (s *Server) registrant(ctx huma.Context) error {
	var err error
	if token := ctx.Header(api.HeaderRegistrationToken); token != "" {
		err = s.refused(ctx.RemoteAddr(), s.Enroll.Admit(ctx.Context(), s.registrationCaller(token, ctx.RemoteAddr())))
	} else if _, err = s.Identify(ctx.Context(), ctx.TLS(), ctx.RemoteAddr()); fault.CodeOf(err) == "certificate_missing" {
		err = s.anonymous(ctx.RemoteAddr(), fault.New(fault.Unauthenticated, "token_missing",
			"registration needs the header %s, or the client certificate of an agent that is registered", api.HeaderRegistrationToken))
	} else if err != nil {
		err = s.refused(ctx.RemoteAddr(), err)
	}
	if err != nil {
		return err
	}
	return checkVersion(ctx.Header(api.HeaderProtocolVersion))
}

// registrationCaller is who shows a registration token. Refusals of an address
// that has had its share are not noted one by one.
func (s *Server) registrationCaller(token, remote string) enroll.Caller {
	return enroll.Caller{Token: token, Remote: remote, Quiet: s.Strangers.Exhausted(remote)}
}

// stranger counts a request to what is open to everybody. Whether somebody known
// has sent it is looked at when the address has had its share, and then they are
// let in.
func (s *Server) stranger(r *http.Request) error {
	over := s.Strangers.Anonymous(r.RemoteAddr)
	if over == nil {
		return nil
	}
	if token := bearer(r.Header.Get("Authorization")); token != "" {
		if _, err := s.access.Authenticate(r.Context(), token); err == nil {
			return nil
		}
	} else if _, err := s.Identify(r.Context(), r.TLS, r.RemoteAddr); err == nil {
		return nil
	}
	return over
}
