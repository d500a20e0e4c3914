package link

import (
	"context"
	"sync"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// proof is the certificate that a link or a stream was opened with. Neither
// lives longer than it.
type proof struct {
	agentID     string
	fingerprint string
	notAfter    time.Time
	trust       string // under which it was issued

	mu     sync.Mutex
	endsAt time.Time // when it ends before its time; zero when it does not
}

func proofOf(a *fleet.Agent) *proof {
	return &proof{agentID: a.ID, fingerprint: a.CertificateFingerprint, notAfter: a.CertificateNotAfter, trust: a.Trust}
}

// look asks the store about a certificate again, and returns its agent, or why it
// is not welcome any more: it is revoked or gone, or the certificate was ended, as
// it is when the host has registered again. One that ends soon goes on until then,
// so that what is under way comes to its end. An error says that the store could
// not be asked.
func (h *Hub) look(ctx context.Context, p *proof) (a *fleet.Agent, unwelcome, err error) {
	known, err := h.agents.Credential(ctx, p.fingerprint)
	switch {
	case err != nil:
		return nil, nil, err
	case known == nil:
		return nil, fault.New(fault.Forbidden, "agent_deleted", "agent %s was deleted", p.agentID), nil
	case known.Agent.Lifecycle == api.LifecycleRevoked:
		return nil, fault.New(fault.Forbidden, "agent_revoked", "agent %s is revoked", known.Agent.Name), nil
	}
	p.mu.Lock()
	p.endsAt = known.EndsAt
	p.mu.Unlock()
	return known.Agent, p.outlived(h.now()), nil
}

// outlived says why what was opened with the certificate must end now, if it
// must.
func (p *proof) outlived(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.notAfter.IsZero() && now.After(p.notAfter):
		return fault.New(fault.Unauthenticated, api.CodeCertificateExpired,
			"the client certificate of agent %s ended on %s: get a new one, and connect again", p.agentID, p.notAfter.UTC().Format("2006-01-02 15:04:05"))
	case !p.endsAt.IsZero() && !now.Before(p.endsAt):
		return fault.New(fault.Forbidden, "certificate_revoked", "the client certificate of agent %s was replaced by a newer one", p.agentID)
	}
	return nil
}
