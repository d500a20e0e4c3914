package enroll

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/event"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// Life and uses of a token that does not say.
const (
	DefaultTTL = 15 * time.Minute
	MaxTTL     = 30 * 24 * time.Hour
)

// Request is a parsed certificate request: a public key whose owner proved
// that it holds the private one.
type Request struct {
	DER           []byte // of the PKCS#10 request
	PublicKeyHash string // SHA-256 of the public key's DER, in hex
}

// Issued is a certificate that was signed for an agent.
type Issued struct {
	ChainPEM    string
	Fingerprint string // SHA-256 of the certificate, in hex
	Serial      string
	// PublicKeyHash is the SHA-256 of the key's DER that it is for, in hex.
	PublicKeyHash string
	NotBefore     time.Time
	NotAfter      time.Time
	// Trust names the roots that agents were to trust, and the issuer.
	Trust string
}

// Issuer signs certificates.
type Issuer interface {
	// ParseCSR checks a request in PEM: its signature and its key. What is
	// wrong with it is a fault of kind Invalid.
	ParseCSR(pem string) (*Request, error)
	// CheckEncryptionKey checks a public key in base64 that tasks are to be
	// sealed to. What is wrong with it is a fault of kind Invalid.
	CheckEncryptionKey(text string) error
	// IssueAgent signs a client certificate for an agent.
	IssueAgent(req *Request, tenant, agentID string, life time.Duration) (*Issued, error)
	// Pin is the SHA-256 of the root's public key.
	Pin() [sha256.Size]byte
}

// Enrolment is all that is stored when an agent registers.
type Enrolment struct {
	TokenID string // empty when the agent proved its current key instead
	Agent   *fleet.Agent
	Resume  bool // the agent exists and takes its identity up again
	Cert    Issued
	At      time.Time
	// ForgetBefore is until when a certificate of the agent's may have ended to
	// be forgotten.
	ForgetBefore time.Time
}

// Errors that the store gives back from Enrol.
var (
	// ErrSpent: the token has no use left, was revoked, or ran out.
	ErrSpent = errors.New("enroll: token is spent")
	// ErrNameTaken: another agent of the tenant has that name.
	ErrNameTaken = errors.New("enroll: name is taken")
	// ErrIDTaken: an agent with that id exists, and Resume was not said.
	ErrIDTaken = errors.New("enroll: id is taken")
)

// Use is one use of a token: which agent got which certificate.
type Use struct {
	AgentID  string
	ChainPEM string
}

// Store keeps tokens, and agents' identities together with them.
type Store interface {
	InsertToken(ctx context.Context, t *Token) error
	// TokenByHash returns nil when there is none.
	TokenByHash(ctx context.Context, hash string) (*Token, error)
	// Tokens returns a page of a tenant's tokens, the newest first unless the
	// filter says another order.
	Tokens(ctx context.Context, tenant string, f Filter) ([]*Token, error)
	RevokeToken(ctx context.Context, tenant, id string, at time.Time) error
	// TokenUse returns what a token gave to a key, or nil.
	TokenUse(ctx context.Context, tokenID, publicKeyHash string) (*Use, error)
	// Enrol spends one use of the token, creates or resumes the agent and
	// records its certificate, all or nothing. Resuming by a token ends the
	// agent's older certificates.
	Enrol(ctx context.Context, e *Enrolment) error
	// Renew records another certificate of an agent, which is pending until it
	// is adopted, and the agent's encryption key when it has a new one. An agent
	// that was revoked is a fault of kind Forbidden, a missing one NotFound.
	Renew(ctx context.Context, r *Renewal) error
	// Adopt makes a pending certificate its agent's current one: those that
	// were issued before it end at the given time. It reports whether it did;
	// of many that try, one does.
	Adopt(ctx context.Context, fingerprint string, endOthers time.Time) (bool, error)
	// AdoptUnknown records a certificate that the store does not know as its
	// agent's current one, as Adopt does. It reports false, and does nothing,
	// unless the agent is there and not revoked, the certificate is younger than
	// all that are known of it, and it is not one that was ended.
	AdoptUnknown(ctx context.Context, r *Renewal, endOthers time.Time) (bool, error)
	// Agent returns the agent with that id, or else with that name.
	Agent(ctx context.Context, tenant, idOrName string) (*fleet.Agent, error)
}

// Notifier tells every server that an agent changed, and people what became of
// it.
type Notifier interface {
	AgentChanged(tenant, agentID string)
	event.Publisher
}

// Service makes tokens and registers agents. It is safe for concurrent use.
type Service struct {
	store  Store
	issuer Issuer
	policy Policy
	audit  access.Auditor
	notify Notifier
	meter  Meter
	now    func() time.Time
	log    *slog.Logger
}

// NewService returns a service over a store.
func NewService(store Store, issuer Issuer, policy Policy, audit access.Auditor, notify Notifier, meter Meter, now func() time.Time, log *slog.Logger) *Service {
	return &Service{store: store, issuer: issuer, policy: policy, audit: audit, notify: notify, meter: meter, now: now, log: log}
}

// CreateToken makes a token and returns it with its secret text, which is not
// kept.
func (s *Service) CreateToken(ctx context.Context, tenant, by string, req api.RegistrationTokenRequest) (*Token, string, error) {
	if req.Name != "" {
		if err := fleet.ValidateName(req.Name); err != nil {
			return nil, "", err
		}
	}
	if req.AgentID != "" {
		if err := fleet.ValidateID(req.AgentID); err != nil {
			return nil, "", err
		}
		if _, err := s.idOf(ctx, tenant, req.AgentID); err != nil {
			return nil, "", err
		}
	}
	if err := fleet.ValidateLabels("body.labels", req.Labels); err != nil {
		return nil, "", err
	}
	if err := fleet.ValidateCapabilities("body.capabilities", req.Capabilities); err != nil {
		return nil, "", err
	}
	if err := validateWords(map[string]string{
		"body.environment": req.Environment, "body.group": req.Group, "body.cluster": req.Cluster, "body.platform": req.Platform,
	}); err != nil {
		return nil, "", err
	}
	ttl := time.Duration(req.TTLSeconds) * time.Second
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if ttl < 0 || ttl > MaxTTL {
		return nil, "", fault.InvalidField("body.ttlSeconds", "a token lives at most 30 days")
	}
	life := time.Duration(req.CertificateLifeSeconds) * time.Second
	if err := s.policy.check("body.certificateLifeSeconds", life); err != nil {
		return nil, "", err
	}
	uses := max(req.MaxUses, 1)
	if uses > 1 && (req.Name != "" || req.AgentID != "") {
		return nil, "", fault.InvalidField("body.maxUses", "a token that binds a name or an id registers one agent only")
	}
	now := s.now()
	text, hash := NewSecret(s.issuer.Pin())
	t := &Token{
		ID: uuid.Must(uuid.NewV7()).String(), TenantID: tenant, Hash: hash,
		Name: req.Name, AgentID: req.AgentID, Environment: req.Environment, Group: req.Group, Cluster: req.Cluster,
		Platform: req.Platform, Capabilities: req.Capabilities, Labels: req.Labels, CertificateLife: life,
		MaxUses: uses, CreatedBy: by, CreatedAt: now, ExpiresAt: now.Add(ttl),
	}
	return t, text, s.store.InsertToken(ctx, t)
}

// Tokens returns a page of a tenant's tokens, the newest first unless the
// filter says another order.
func (s *Service) Tokens(ctx context.Context, tenant string, f Filter) ([]*Token, error) {
	return s.store.Tokens(ctx, tenant, f)
}

// RevokeToken ends a token; agents that it registered stay. It is idempotent.
func (s *Service) RevokeToken(ctx context.Context, tenant, id string) error {
	return s.store.RevokeToken(ctx, tenant, id, s.now())
}

// Caller is who asks to register.
type Caller struct {
	Token  string // the text of the header; may be empty
	Remote string
	// Quiet keeps refusals of the token out of the audit log: the caller has
	// filled its share of it.
	Quiet bool
	// The agent that the caller's client certificate proves, if any.
	TenantID string
	AgentID  string
}

// Registration is what Register gives.
type Registration struct {
	AgentID  string
	Name     string
	ChainPEM string
	Tenant   string
}

// Register gives an identity to an agent. With a token it spends one use of
// it; the same token with the same key again gives the same answer, so that a
// retry after a lost answer is safe. Without a token, an agent that proves its
// key by its client certificate registers anew what it says of itself.
//
// Every refusal is noted in the audit log, and so is every registration.
func (s *Service) Register(ctx context.Context, c Caller, req api.RegisterRequest) (*Registration, error) {
	if c.Token == "" && c.AgentID == "" {
		return nil, fault.New(fault.Unauthenticated, "token_missing",
			"registration needs the header %s, or the client certificate of an agent that is registered", api.HeaderRegistrationToken)
	}
	if c.Token == "" {
		reg, err := s.reregister(ctx, c, req)
		s.noteFailure(ctx, c, c.TenantID, "agent:"+c.AgentID, cmp.Or(req.ID, c.AgentID), err)
		return reg, err
	}
	// The token before all else: who has none cannot have keys checked.
	tok, err := s.store.TokenByHash(ctx, Hash(c.Token))
	if err != nil {
		return nil, err
	}
	if state := s.state(tok); state != "usable" && state != "used" {
		return nil, s.deny(ctx, c, tok, req.Name, state)
	}
	reg, repeated, err := s.registerByToken(ctx, c, tok, req)
	if errors.Is(err, ErrSpent) {
		return nil, s.deny(ctx, c, tok, req.Name, "used")
	}
	if !repeated {
		s.bootstrapped(tok, &req, err)
	}
	s.noteFailure(ctx, c, tok.TenantID, "anonymous", cmp.Or(req.ID, req.Name), err)
	return reg, err
}

// noteFailure notes a registration that came to nothing, although the caller
// had the right to try.
func (s *Service) noteFailure(ctx context.Context, c Caller, tenant, actor, object string, err error) {
	if err == nil {
		return
	}
	outcome := "denied"
	if k := fault.KindOf(err); k == fault.Internal || k == fault.Unavailable {
		outcome = "failed"
	}
	s.audit.Audit(ctx, access.Event{
		TenantID: tenant, Actor: actor, Action: "agent.register", Object: object, Remote: c.Remote, Outcome: outcome, Detail: fault.CodeOf(err),
	})
}

// registerByToken fails with ErrSpent when the token has no use left, and gave
// none to this key. It reports whether the token has given the same before.
func (s *Service) registerByToken(ctx context.Context, c Caller, tok *Token, req api.RegisterRequest) (reg *Registration, repeated bool, err error) {
	csr, err := s.check(&req)
	if err != nil {
		return nil, false, err
	}
	bound := *tok
	if bound.AgentID, err = s.idOf(ctx, tok.TenantID, tok.AgentID); err != nil {
		return nil, false, err
	}
	if req.ID, err = s.idOf(ctx, tok.TenantID, req.ID); err != nil {
		return nil, false, err
	}
	tok = &bound
	used := tok.Uses >= tok.MaxUses
	if used || tok.MaxUses > 1 {
		if again, err := s.again(ctx, tok, csr); again != nil || err != nil {
			return again, again != nil, err
		}
	}
	if used {
		return nil, false, ErrSpent
	}
	reg, err = s.enrolByToken(ctx, c, tok, req, csr)
	if errors.Is(err, ErrSpent) {
		// Somebody was faster: perhaps this very agent, on another try.
		if again, err := s.again(ctx, tok, csr); again != nil || err != nil {
			return again, again != nil, err
		}
	}
	return reg, false, err
}

// check looks at what a request says, and at its keys.
func (s *Service) check(req *api.RegisterRequest) (*Request, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	if s.policy.SignedOnly && !req.SignsHeartbeats {
		return nil, fault.New(fault.Forbidden, api.CodeSigningRequired,
			"this server registers only agents that sign their heartbeats (require-signed-heartbeats): say signsHeartbeats, and sign them as docs/protocol.md has it, or have an operator start the server without that setting")
	}
	if req.EncryptionPublicKey != "" {
		if err := s.issuer.CheckEncryptionKey(req.EncryptionPublicKey); err != nil {
			return nil, err
		}
	}
	return s.issuer.ParseCSR(req.CSR)
}

// again returns what the token gave to the same key before, or nil.
func (s *Service) again(ctx context.Context, tok *Token, csr *Request) (*Registration, error) {
	use, err := s.store.TokenUse(ctx, tok.ID, csr.PublicKeyHash)
	if use == nil || err != nil {
		return nil, err
	}
	a, err := s.byID(ctx, tok.TenantID, use.AgentID)
	if err != nil {
		return nil, err
	}
	reg := &Registration{AgentID: use.AgentID, ChainPEM: use.ChainPEM, Tenant: tok.TenantID}
	if a != nil {
		reg.Name = a.Name
	}
	return reg, nil
}

func (s *Service) enrolByToken(ctx context.Context, c Caller, tok *Token, req api.RegisterRequest, csr *Request) (*Registration, error) {
	if err := tok.bind(&req); err != nil {
		return nil, err
	}
	now := s.now()
	a := describe(&req, csr, tok.TenantID, now)
	a.Cluster, a.AllowedCapabilities, a.CertificateLife = tok.Cluster, tok.Capabilities, tok.CertificateLife
	a.Bound = fleet.Bound{Group: tok.Group, Platform: tok.Platform, Labels: tok.Labels}
	e := &Enrolment{TokenID: tok.ID, Agent: a, At: now}
	if a.ID == "" {
		a.ID = newID(tok.TenantID)
	} else if old, err := s.byID(ctx, tok.TenantID, a.ID); err != nil {
		return nil, err
	} else if old != nil {
		proved := c.AgentID == a.ID && c.TenantID == tok.TenantID
		if tok.AgentID != a.ID && !proved {
			return nil, fault.New(fault.Conflict, "identity_exists",
				"agent id %s is registered already: to take it up again, present its current certificate, or use a token made for it (`stella agent bootstrap --id %s`)", a.ID, a.ID)
		}
		if err := notRevoked(old); err != nil {
			return nil, err
		}
		e.Resume = true
		keep(a, old)
	}
	return s.enrol(ctx, c, e, csr, req.CertificateLifeSeconds)
}

func (s *Service) reregister(ctx context.Context, c Caller, req api.RegisterRequest) (*Registration, error) {
	csr, err := s.check(&req)
	if err != nil {
		return nil, err
	}
	if req.ID, err = s.idOf(ctx, c.TenantID, req.ID); err != nil {
		return nil, err
	}
	if req.ID != "" && req.ID != c.AgentID {
		return nil, fault.New(fault.Forbidden, "not_your_identity",
			"the client certificate is of agent %s, the request is for agent %s: an agent registers only itself", c.AgentID, req.ID)
	}
	old, err := s.byID(ctx, c.TenantID, c.AgentID)
	if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, gone(c.AgentID)
	}
	if err := notRevoked(old); err != nil {
		return nil, err
	}
	now := s.now()
	a := describe(&req, csr, c.TenantID, now)
	a.ID, a.Name, a.Environment, a.Cluster = old.ID, old.Name, old.Environment, old.Cluster
	a.AllowedCapabilities, a.Bound, a.CertificateLife = old.AllowedCapabilities, old.Bound, old.CertificateLife
	a.Group, a.Platform = cmp.Or(a.Bound.Group, a.Group), cmp.Or(a.Bound.Platform, a.Platform)
	keep(a, old)
	if len(a.Bound.Labels) > 0 {
		a.Labels = withLabels(a.Labels, a.Bound.Labels)
	}
	return s.enrol(ctx, c, &Enrolment{Agent: a, Resume: true, At: now}, csr, req.CertificateLifeSeconds)
}

func (s *Service) enrol(ctx context.Context, c Caller, e *Enrolment, csr *Request, askedSeconds int) (*Registration, error) {
	a := e.Agent
	if err := s.unambiguous(ctx, a); err != nil {
		return nil, err
	}
	life, err := s.policy.life(a, askedSeconds)
	if err != nil {
		return nil, err
	}
	e.ForgetBefore = e.At.Add(-s.policy.Recovery)
	issued, err := s.issuer.IssueAgent(csr, a.TenantID, a.ID, life)
	if err != nil {
		return nil, err
	}
	e.Cert = *issued
	a.CertificateFingerprint, a.CertificateNotAfter, a.Trust = issued.Fingerprint, issued.NotAfter, issued.Trust
	switch err := s.store.Enrol(ctx, e); {
	case errors.Is(err, ErrNameTaken):
		return nil, fault.New(fault.Conflict, "name_taken",
			"another agent is called %q: choose another name, delete that agent, or make a token for its id (`stella agent bootstrap --id …`) to take it up again", a.Name)
	case errors.Is(err, ErrIDTaken):
		return nil, fault.New(fault.Conflict, "identity_exists",
			"agent id %s is registered already: present its current certificate, or use a token made for it", a.ID)
	case err != nil:
		return nil, err
	}
	action, why := "agent.register", ForRegistration
	if e.Resume {
		action, why = "agent.reregister", ForReregistration
	}
	s.meter.Issued(why)
	s.audit.Audit(ctx, access.Event{
		TenantID: a.TenantID, Actor: "agent:" + a.ID, Action: action, Object: a.ID,
		Remote: c.Remote, Outcome: "ok", Detail: a.Name,
	})
	if e.Resume {
		s.notify.AgentChanged(a.TenantID, a.ID) // a link over a certificate that has ended is cut
	}
	s.notify.Publish(a.TenantID, api.Event{At: a.UpdatedAt, Kind: api.EventAgentRegistered, AgentID: a.ID, AgentName: a.Name})
	s.log.InfoContext(ctx, "agent registered", "agent", a.ID, "name", a.Name, "resumed", e.Resume)
	return &Registration{AgentID: a.ID, Name: a.Name, ChainPEM: issued.ChainPEM, Tenant: a.TenantID}, nil
}

// unambiguous refuses an id that is another agent's name, and a name that is
// another's id: people call an agent by either, and must not be led to another
// one than they mean.
func (s *Service) unambiguous(ctx context.Context, a *fleet.Agent) error {
	for what, word := range map[string]string{"id": a.ID, "name": a.Name} {
		other, err := s.store.Agent(ctx, a.TenantID, word)
		if fault.KindOf(err) == fault.NotFound {
			continue
		}
		if err != nil {
			return err
		}
		if other.ID != a.ID && (what == "id" || other.ID == word) {
			return fault.New(fault.Conflict, "name_taken",
				"the %s %q is what another agent is called by: choose another", what, word)
		}
	}
	return nil
}

// byID returns the agent with exactly that id, or nil.
func (s *Service) byID(ctx context.Context, tenant, id string) (*fleet.Agent, error) {
	a, err := s.store.Agent(ctx, tenant, id)
	if fault.KindOf(err) == fault.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if a.ID != id {
		return nil, nil // it was found by its name
	}
	return a, nil
}

func notRevoked(a *fleet.Agent) error {
	if a.Lifecycle != api.LifecycleRevoked {
		return nil
	}
	return fault.New(fault.Forbidden, "agent_revoked",
		"agent %s is revoked: an operator must delete it before the host can register again", a.ID)
}
