package rest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/seal"
)

// Names reads the identity that a verified certificate states.
type Names interface {
	AgentOf(cert *x509.Certificate) (tenant, agentID string, ok bool)
}

// need says who may call an operation.
type need int

const (
	nobody        need = iota // the zero value lets nobody in
	anybody                   // also without any identity
	viewer                    // people and scripts, by API token
	operator                  //
	admin                     //
	agentSelf                 // the agent that the path names, by client certificate
	agentRenewing             // the same, also by one that ended lately
	agentAny                  // any agent, by client certificate
	agentTask                 // the agent that the path names, with a token for the task too
	agentOrViewer             // the agent that the path names, or a viewer
	registrant                // whoever has a registration token, or any agent, by client certificate
)

var roles = map[need]api.Role{viewer: api.RoleViewer, operator: api.RoleOperator, admin: api.RoleAdmin}

const needKey = "stella.need"

type (
	principalKey struct{}
	agentKey     struct{}
	claimsKey    struct{}
)

func principal(ctx context.Context) *access.Principal {
	p, _ := ctx.Value(principalKey{}).(*access.Principal)
	return p
}

func agent(ctx context.Context) *fleet.Agent {
	a, _ := ctx.Value(agentKey{}).(*fleet.Agent)
	return a
}

// authorise is the one place where it is decided who may call what.
func (s *Server) authorise(ctx huma.Context, next func(huma.Context)) {
	want, _ := ctx.Operation().Metadata[needKey].(need)
	if want == agentOrViewer {
		// Whoever shows a token is a person, also over an agent's connection.
		if want = agentSelf; bearer(ctx.Header("Authorization")) != "" {
			want = viewer
		}
	}
	var err error
	switch want {
	case anybody:
	case viewer, operator, admin:
		var p *access.Principal
		if p, err = s.person(ctx, roles[want]); p != nil {
			ctx = huma.WithValue(ctx, principalKey{}, p)
		}
	case registrant:
		err = s.registrant(ctx)
	case agentSelf, agentRenewing, agentAny, agentTask:
		var a *fleet.Agent
		if a, err = s.known(ctx.Context(), ctx.TLS(), ctx.RemoteAddr(), want == agentRenewing); err != nil {
			break
		}
		if err = checkVersion(ctx.Header(api.HeaderProtocolVersion)); err != nil {
			break
		}
		ctx = huma.WithValue(ctx, agentKey{}, a)
		if id := ctx.Param("id"); want != agentAny && id != a.ID {
			err = s.notYourIdentity(ctx.Context(), a, id, ctx.Operation().OperationID, ctx.RemoteAddr())
			break
		}
		if want == agentTask {
			var c *seal.AgentClaims
			if c, err = s.taskClaims(ctx, a); err == nil {
				ctx = huma.WithValue(ctx, claimsKey{}, c)
			}
		}
	default:
		err = fault.New(fault.Forbidden, "forbidden", "nobody may call this")
	}
	if err == nil {
		err = plainBody(ctx)
	}
	if err != nil {
		s.refuse(ctx, err)
		if want == agentRenewing {
			s.countRefusal(err)
		}
		if p := principal(ctx.Context()); p != nil && ctx.Method() != http.MethodGet {
			s.note(ctx, p, objectInPath(ctx), "denied", fault.CodeOf(err))
		}
		return
	}
	next(ctx)
}

// plainBody refuses a body that is packed: what a few bytes would become in
// memory, nobody knows before it has.
func plainBody(ctx huma.Context) error {
	if how := ctx.Header("Content-Encoding"); how != "" && !strings.EqualFold(how, "identity") {
		ctx.SetHeader("Accept-Encoding", "identity") // RFC 9110, section 12.5.3
		return fault.New(fault.Unsupported, "unsupported_media_type", "a body in the Content-Encoding %q is not read here: send it as it is", clip(how))
	}
	return nil
}

func (s *Server) refuse(ctx huma.Context, err error) {
	s.notLetIn(ctx.Context(), ctx.Operation().OperationID, ctx.RemoteAddr(), err)
	p := problemOf(err)
	for name := range p.header {
		ctx.SetHeader(name, p.header.Get(name))
	}
	if p.Status == http.StatusForbidden {
		// Somebody who was cut off must not keep a connection that was
		// opened before.
		ctx.SetHeader("Connection", "close")
	}
	_ = huma.WriteErr(s.huma, ctx, p.Status, p.Detail, p)
}

// notLetIn says in the log that a request was not let in: as an error when that
// is this server's own fault, and for whoever looks closely otherwise.
func (s *Server) notLetIn(ctx context.Context, operation, remote string, err error) {
	if k := fault.KindOf(err); k != fault.Internal && k != fault.Unavailable {
		s.log.DebugContext(ctx, "a request was refused", "operation", operation, "remote", remote, "code", fault.CodeOf(err), "error", err)
	} else if ctx.Err() == nil {
		s.log.ErrorContext(ctx, "request was not authorised", "operation", operation, "error", err)
	}
}

func bearer(header string) string {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// person returns whose API token a request shows, also when their role does not
// suffice.
func (s *Server) person(ctx huma.Context, role api.Role) (*access.Principal, error) {
	token := bearer(ctx.Header("Authorization"))
	if token == "" {
		return nil, s.anonymous(ctx.RemoteAddr(), fault.New(fault.Unauthenticated, "unauthenticated",
			"this needs an API token in the header Authorization: Bearer stl_…; `stella login` keeps one for you"))
	}
	p, err := s.access.Authenticate(ctx.Context(), token)
	if err != nil {
		return nil, s.refused(ctx.RemoteAddr(), err)
	}
	if !p.May(role) {
		return p, fault.New(fault.Forbidden, "role_missing",
			"this needs the role %s, and the token %q has the role %s: ask an admin for another (`stella token create --role %s`)", role, p.Name, p.Role, role)
	}
	return p, nil
}

// Identify returns the agent whose client certificate a connection shows. It
// asks the store each time, so that a revoked or deleted agent is out at its
// next request, on a resumed TLS session too.
func (s *Server) Identify(ctx context.Context, cs *tls.ConnectionState, remote string) (*fleet.Agent, error) {
	return s.identify(ctx, cs, remote, false)
}

// identify lets a certificate pass that has ended, and may be used to recover
// with, where the caller says so; the handshake has only seen that it is ours.
func (s *Server) identify(ctx context.Context, cs *tls.ConnectionState, remote string, recovering bool) (*fleet.Agent, error) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return nil, fault.New(fault.Unauthenticated, "certificate_missing",
			"this needs the client certificate that registration gave to the agent")
	}
	cert, now := cs.PeerCertificates[0], s.now()
	if now.After(cert.NotAfter) && (!recovering || !s.Enroll.Recovers(cert.NotAfter)) {
		return nil, certificateEnded(cert, now, recovering)
	}
	tenant, id, ok := s.names.AgentOf(cert)
	if !ok {
		return nil, fault.New(fault.Unauthenticated, "certificate_refused", "the client certificate names no agent")
	}
	fingerprint := pki.Fingerprint(cert.Raw)
	known, err := s.Fleet.Credential(ctx, fingerprint)
	if err == nil && known == nil {
		known, err = s.unknown(ctx, cert, enroll.Caller{TenantID: tenant, AgentID: id, Remote: remote})
	}
	if err != nil {
		return nil, err
	}
	if known == nil || known.Agent.ID != id || known.Agent.TenantID != tenant {
		return nil, fault.New(fault.Forbidden, "agent_unknown",
			"there is no agent %s any more: it was deleted; register the host again with a new token", id)
	}
	a := known.Agent
	if a.Lifecycle == api.LifecycleRevoked {
		return nil, fault.New(fault.Forbidden, "agent_revoked", "agent %s is revoked", id)
	}
	if known.Ended(now) {
		return nil, fault.New(fault.Forbidden, "certificate_revoked",
			"the client certificate was replaced by a newer one of agent %s", id)
	}
	if known.Pending && !recovering {
		// It is used, so the agent has it: those before it may end.
		if err := s.Enroll.Adopt(ctx, a, fingerprint, cert.NotAfter.Sub(cert.NotBefore)); err != nil {
			s.log.ErrorContext(ctx, "a renewed certificate was not noted as the current one; its next use tries again", "agent", id, "error", err)
		}
	}
	// The certificate in use is the one that tokens are bound to.
	a.CertificateFingerprint, a.CertificateNotAfter, a.Trust = fingerprint, cert.NotAfter, known.Trust
	return a, nil
}

// unknown is for a certificate of ours that the database does not know: nil, as
// its agent was deleted, or what is known of it from now on, when it is of a time
// that the database has forgotten.
func (s *Server) unknown(ctx context.Context, cert *x509.Certificate, c enroll.Caller) (*fleet.Credential, error) {
	issued := pki.Issued(cert)
	refusal := s.Enroll.AdoptUnknown(ctx, c, issued)
	// Perhaps another request was faster.
	known, err := s.Fleet.Credential(ctx, issued.Fingerprint)
	if known == nil && refusal != nil {
		return nil, refusal
	}
	return known, err
}

func certificateEnded(cert *x509.Certificate, now time.Time, recovering bool) error {
	const layout = "2006-01-02 15:04:05"
	ended, clock := cert.NotAfter.UTC().Format(layout), now.UTC().Format(layout)
	if recovering {
		return fault.New(fault.Unauthenticated, "recovery_over",
			"the client certificate ended on %s (this server's clock is at %s), which is too long ago to recover with: make a token for the agent's id (`stella agent bootstrap --id …`) and register again", ended, clock)
	}
	return fault.New(fault.Unauthenticated, api.CodeCertificateExpired,
		"the client certificate ended on %s (this server's clock is at %s): get a new one from POST /api/v1/agents/{id}/certificate, with the one that has ended", ended, clock)
}

// IdentifySelf returns the agent whose client certificate a request shows, if
// it is the one that the path names; any agent where the path names none.
func (s *Server) IdentifySelf(r *http.Request) (*fleet.Agent, error) {
	a, err := s.known(r.Context(), r.TLS, r.RemoteAddr, false)
	if err != nil {
		return nil, err
	}
	if err := checkVersion(r.Header.Get(api.HeaderProtocolVersion)); err != nil {
		return nil, err
	}
	if id := r.PathValue("id"); id != "" && id != a.ID {
		return nil, s.notYourIdentity(r.Context(), a, id, "agent.task-stream", r.RemoteAddr)
	}
	return a, nil
}

// notYourIdentity refuses an agent that speaks as another one, which an honest
// one never does, and has it noted. An agent that does so all the time does not
// fill the log.
func (s *Server) notYourIdentity(ctx context.Context, a *fleet.Agent, id, operation, remote string) error {
	err := fault.New(fault.Forbidden, "not_your_identity", "the client certificate is of agent %s, which may not act as agent %s", a.ID, clip(id))
	if s.Strangers.Refused("agent:"+a.ID) == nil {
		s.Audit.Audit(context.WithoutCancel(ctx), access.Event{
			TenantID: a.TenantID, Actor: "agent:" + a.ID, Action: operation, Object: clip(id), Remote: remote, Outcome: "denied", Detail: err.Code,
		})
	}
	return err
}

// Refuse answers a request outside the API's operations that is not let in.
func (s *Server) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.notLetIn(r.Context(), r.URL.Path, r.RemoteAddr, err)
	p := problemOf(err)
	if p.Status == http.StatusForbidden {
		w.Header().Set("Connection", "close")
	}
	writeProblem(w, p)
}

// taskClaims checks the token of a task endpoint: the agent's own, or the one
// that came with this very task.
func (s *Server) taskClaims(ctx huma.Context, a *fleet.Agent) (*seal.AgentClaims, error) {
	token := bearer(ctx.Header("Authorization"))
	if token == "" {
		return nil, fault.New(fault.Unauthenticated, "token_missing",
			"task endpoints need a token in the header Authorization: the task's own, or one from POST /api/v1/agents/token")
	}
	c, err := s.tokens.Verify(token, a.CertificateFingerprint)
	if err != nil || c.AgentID != a.ID || c.Tenant != a.TenantID {
		return nil, fault.Wrap(err, fault.Unauthenticated, "token_refused",
			"the token is expired, altered, or of another certificate: get a new one from POST /api/v1/agents/token")
	}
	if c.TaskID != "" && c.TaskID != ctx.Param("taskId") {
		return nil, fault.New(fault.Forbidden, "token_of_another_task", "the token is good for task %s only", c.TaskID)
	}
	return c, nil
}

// checkVersion refuses a protocol version that is not spoken here; absent
// means 1.
func checkVersion(header string) error {
	if header == "" {
		return nil
	}
	v, err := strconv.Atoi(header)
	if err != nil || v < api.MinProtocolVersion || v > api.ProtocolVersion {
		return fault.New(fault.UnsupportedVersion, "protocol_version",
			"protocol version %q is not spoken here: this server speaks %d to %d", clip(header), api.MinProtocolVersion, api.ProtocolVersion)
	}
	return nil
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
