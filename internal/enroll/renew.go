package enroll

import (
	"context"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// Policy is what an installation allows certificates to be, and wants of those
// who get them.
type Policy struct {
	// Life is how long an agent's certificate is good when nobody says else.
	Life time.Duration
	// ByEnvironment says else for the agents of an environment.
	ByEnvironment map[string]time.Duration
	// MaxLife is the longest that a token, an environment or a request gets.
	MaxLife time.Duration
	// Recovery is for how long after its end a certificate still proves its
	// agent to get a new one, and nothing else; 0 is not at all.
	Recovery time.Duration
	// SignedOnly: no agent is registered that does not sign its heartbeats.
	SignedOnly bool
}

// MinLife is the shortest life of a certificate.
const MinLife = 10 * time.Second

// overlap is for how long, at the most, a certificate goes on beside the newer
// one that is used already: for requests that are under way. A short one has a
// fifth of its life: a tenth, which is three seconds of half a minute, is less
// than what a busy server may take for one request.
const overlap = time.Minute

func (p *Policy) check(location string, life time.Duration) error {
	if life != 0 && (life < MinLife || life > p.MaxLife) {
		return fault.InvalidField(location, "a certificate lives from %s to %s here, not %s", MinLife, p.MaxLife, life)
	}
	return nil
}

// life is how long an agent's next certificate is good: as its token says, or
// its environment, or the server. A request may make it shorter.
func (p *Policy) life(a *fleet.Agent, askedSeconds int) (time.Duration, error) {
	life := a.CertificateLife
	if life == 0 {
		life = p.ByEnvironment[a.Environment]
	}
	if life == 0 {
		life = p.Life
	}
	life = min(life, p.MaxLife)
	asked := time.Duration(askedSeconds) * time.Second
	if err := p.check("body.certificateLifeSeconds", asked); err != nil {
		return 0, err
	}
	if asked != 0 {
		life = min(life, asked)
	}
	return life, nil
}

// Renewal is all that is stored when an agent gets its next certificate.
type Renewal struct {
	Agent *fleet.Agent
	Cert  Issued
	// EncryptionKey is the agent's new public key for sealed payloads, in
	// base64; empty when it keeps the one that it has.
	EncryptionKey string
	// SignsHeartbeats: the agent signs its heartbeats from now on; otherwise that
	// stays as it is.
	SignsHeartbeats bool
	At              time.Time
	ForgetBefore    time.Time
}

// Renew issues an agent's next certificate, for a key that is not the one of
// the certificate that the agent proves itself by. That one goes on until the
// new one is used for the first time, so that an agent that never gets the
// answer has lost nothing; it may ask as often as it likes.
//
// With expired, the agent proved itself by a certificate that has ended less
// than the policy's recovery time ago.
func (s *Service) Renew(ctx context.Context, c Caller, keyInUse string, expired bool, req *api.CertificateRequest) (*Issued, error) {
	csr, err := s.issuer.ParseCSR(req.CSR)
	if err != nil {
		return nil, err
	}
	if csr.PublicKeyHash == keyInUse {
		return nil, fault.InvalidField("body.csr", "it is for the key that the agent has already: make a new key for each certificate")
	}
	if req.EncryptionPublicKey != "" {
		if err := s.issuer.CheckEncryptionKey(req.EncryptionPublicKey); err != nil {
			return nil, err
		}
	}
	a, err := s.byID(ctx, c.TenantID, c.AgentID)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, gone(c.AgentID)
	}
	if err := notRevoked(a); err != nil {
		return nil, err
	}
	life, err := s.policy.life(a, req.CertificateLifeSeconds)
	if err != nil {
		return nil, err
	}
	issued, err := s.issuer.IssueAgent(csr, a.TenantID, a.ID, life)
	if err != nil {
		return nil, err
	}
	now := s.now()
	if err := s.store.Renew(ctx, &Renewal{
		Agent: a, Cert: *issued, EncryptionKey: req.EncryptionPublicKey, SignsHeartbeats: req.SignsHeartbeats, At: now, ForgetBefore: now.Add(-s.policy.Recovery),
	}); err != nil {
		return nil, err
	}
	if req.SignsHeartbeats && !a.SignsHeartbeats {
		s.notify.AgentChanged(a.TenantID, a.ID) // a link that it has opened unsigned ends
	}
	e := access.Event{
		TenantID: a.TenantID, Actor: "agent:" + a.ID, Action: "agent.renew", Object: a.ID, Remote: c.Remote, Outcome: "ok",
		Detail: "certificate until " + issued.NotAfter.UTC().Format(time.RFC3339),
	}
	why := ForRenewal
	if expired {
		e.Action, why = "agent.recover", ForRecovery
	}
	s.meter.Issued(why)
	s.audit.Audit(ctx, e)
	s.log.InfoContext(ctx, "certificate renewed", "agent", a.ID, "name", a.Name, "until", issued.NotAfter, "recovered", expired)
	return issued, nil
}

// Adopt notes that an agent uses a certificate that was pending: those before
// it end a moment later. life is the certificate's. It is idempotent.
func (s *Service) Adopt(ctx context.Context, a *fleet.Agent, fingerprint string, life time.Duration) error {
	adopted, err := s.store.Adopt(ctx, fingerprint, s.now().Add(min(overlap, life/5)))
	if adopted {
		s.meter.Adopted()
		s.notify.AgentChanged(a.TenantID, a.ID)
	}
	return err
}

// AdoptUnknown takes a certificate of this authority's that the database has
// never seen: the agent got it after the backup was made that the database was put
// back from, and has nothing else to show. It is taken only when it is younger than
// all that are known of the agent: an older one was replaced by those. One that was
// ended is never taken, nor one of an agent that is revoked; the error is a fault
// of kind Forbidden then. Of an agent that there is not, nothing is done.
func (s *Service) AdoptUnknown(ctx context.Context, c Caller, cert *Issued) error {
	// A read first: who was deleted may ask again and again.
	a, err := s.byID(ctx, c.TenantID, c.AgentID)
	if err != nil || a == nil {
		return err
	}
	if err := notRevoked(a); err != nil {
		return err
	}
	now := s.now()
	r := &Renewal{Agent: a, Cert: *cert, At: now}
	adopted, err := s.store.AdoptUnknown(ctx, r, now.Add(min(overlap, cert.NotAfter.Sub(cert.NotBefore)/10)))
	if err != nil {
		return err
	}
	if !adopted {
		return fault.New(fault.Forbidden, "certificate_revoked", "the client certificate was replaced by a newer one of agent %s, or ended", a.ID)
	}
	s.audit.Audit(ctx, access.Event{
		TenantID: a.TenantID, Actor: "agent:" + a.ID, Action: "agent.adopt", Object: a.ID, Remote: c.Remote, Outcome: "ok",
		Detail: "certificate " + cert.Serial + " of " + cert.NotBefore.UTC().Format(time.RFC3339) + ", which the database did not know",
	})
	s.log.WarnContext(ctx, "an agent's certificate was adopted that the database did not know: was an older database put back?",
		"agent", a.ID, "name", a.Name, "serial", cert.Serial, "issued", cert.NotBefore, "until", cert.NotAfter)
	s.notify.AgentChanged(a.TenantID, a.ID)
	return nil
}

// Recovers reports whether a certificate that ended at a time may still be
// used to get a new one.
func (s *Service) Recovers(ended time.Time) bool {
	return s.now().Before(ended.Add(s.policy.Recovery))
}
