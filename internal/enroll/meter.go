package enroll

import (
	"cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// Meter counts what agents do with their identity, for whoever watches an
// installation. Its methods do not block, and may be called at the same time.
type Meter interface {
	// Bootstrapped counts a registration by token. refusal is empty when it
	// gave an identity, and says why it did not otherwise: a code, or what was
	// wrong with the token. environment and platform are empty where the token
	// is not known.
	Bootstrapped(environment, platform, refusal string)
	// Issued counts a certificate, by why it was issued.
	Issued(why string)
	// Adopted counts a renewed certificate that is used for the first time.
	Adopted()
}

// Why certificates are issued.
const (
	ForRegistration   = "registration"   // of an agent that was not known
	ForReregistration = "reregistration" // of one that was, by a token for it or by its own certificate
	ForRenewal        = "renewal"        // by a certificate that is good
	ForRecovery       = "recovery"       // by one that has ended
)

// CertificateCount is how many agents there are under a trust and of a liveness,
// and how soon their certificates end. Those that have ended are in none of the
// four that follow, of which each has the one before in it.
type CertificateCount struct {
	Trust    string
	Liveness api.Liveness
	Agents   int

	Ended                                          int
	WithinHour, WithinDay, WithinWeek, WithinMonth int // of 30 days
}

// bootstrapped counts a registration by a token that is good.
func (s *Service) bootstrapped(tok *Token, req *api.RegisterRequest, err error) {
	refusal := ""
	if err != nil {
		refusal = fault.CodeOf(err)
	}
	s.meter.Bootstrapped(countedAs(tok.Environment, req.Environment), countedAs(tok.Platform, req.Platform), refusal)
}

// countedAs is what is counted under of what a token binds, or else its agent
// says; what is not usable was refused, and is nobody's environment.
func countedAs(bound, said string) string {
	word := cmp.Or(bound, said)
	if fleet.ValidateWord("", word) != nil {
		return ""
	}
	return word
}
