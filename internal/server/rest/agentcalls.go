package rest

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/task"
)

// agentTokenLife is the life of the token of AUTH over mTLS, in seconds.
const agentTokenLife = 3600

// registration is the input of register; Resolve keeps the connection's state,
// for a registration that proves an existing key.
type registration struct {
	Token   string `header:"X-Registration-Token" maxLength:"512" doc:"The registration token; needless with the client certificate of an agent that is registered."`
	Version string `header:"X-Stella-Protocol-Version" maxLength:"16" doc:"The agent's protocol version; 1 when left out."`
	Body    api.RegisterRequest
	cs      *tls.ConnectionState
	remote  string
}

// Resolve is called by huma before the handler.
func (r *registration) Resolve(ctx huma.Context) []error {
	r.cs, r.remote = ctx.TLS(), ctx.RemoteAddr()
	return nil
}

// agentCalls adds what agents call. Unknown fields are let pass here: an agent
// may be newer than its server.
func (s *Server) agentCalls() {
	handle(s, s.operation(http.MethodPost, "/api/v1/agents/register", "agent.register", "Register an agent and get its certificate", registrant),
		func(ctx context.Context, in *registration) (api.RegisterResponse, error) {
			return s.register(ctx, in)
		})

	handle(s, s.operation(http.MethodPost, "/api/v1/agents/token", "agent.token", "Get a token for task endpoints, bound to the client certificate", agentAny),
		func(ctx context.Context, _ *none) (api.AgentToken, error) {
			a := agent(ctx)
			token, err := s.tokens.AgentToken(a.TenantID, a.ID, a.CertificateFingerprint, agentTokenLife*1e9)
			return api.AgentToken{Token: token, ExpiresIn: agentTokenLife}, err
		})

	handle(s, s.operation(http.MethodGet, "/api/v1/agents/{id}/server-keys", "agent.server-keys", "Get the keys that sign what the server sends", agentSelf),
		func(context.Context, *IDPath) (api.ServerKeys, error) { return s.Signing.Published(), nil })
	handle(s, s.operation(http.MethodPost, "/api/v1/agents/{id}/certificate", "agent.renew", "Get the agent's next certificate", agentRenewing),
		func(ctx context.Context, in *renewal) (api.CertificateResponse, error) { return s.renew(ctx, in) })

	handle(s, s.operation(http.MethodPost, "/api/v1/agents/{id}/heartbeat", "agent.heartbeat", "Report that the agent is alive, and get its tasks when it holds no stream", agentSelf),
		func(ctx context.Context, in *beat) (api.HeartbeatResponse, error) {
			n, err := s.heard(ctx, agent(ctx), in)
			if err != nil {
				return api.HeartbeatResponse{}, err
			}
			c := fleet.Caller{Instance: in.Body.Instance, Boot: n.Boot, Place: fleet.Place(in.Body.Host, fleet.Address(in.remote))}
			if err := s.Links.Polled(ctx, agent(ctx), c); err != nil {
				return api.HeartbeatResponse{}, err
			}
			return s.heartbeat(ctx, agent(ctx), &in.Body, n)
		})
	// Huma takes the bytes that are verified for a second kind of body.
	delete(s.huma.OpenAPI().Paths["/api/v1/agents/{id}/heartbeat"].Post.RequestBody.Content, octets)

	type TaskPath struct {
		IDPath
		TaskID string `path:"taskId" maxLength:"128" doc:"The task's id."`
	}
	type completion struct {
		TaskPath
		Body api.CompleteRequest
	}
	op := s.operation(http.MethodPost, "/api/v1/agents/{id}/tasks/{taskId}/complete", "agent.complete", "Report how a task ended", agentTask)
	op.MaxBodyBytes = 4 << 20
	handle(s, op, func(ctx context.Context, in *completion) (api.CompleteResponse, error) {
		ref, err := s.attempt(ctx, in.TaskID, in.Body.Attempt)
		if err != nil {
			return api.CompleteResponse{}, err
		}
		r := in.Body.Result
		if r == nil {
			r = &api.TaskResult{}
		}
		r.Success = in.Body.Success
		if in.Body.Logs != "" {
			r.Logs = in.Body.Logs
		}
		ok, reason, err := s.Tasks.Finish(ctx, agent(ctx), ref, r)
		return api.CompleteResponse{Acknowledged: ok, Reason: reason}, err
	})

	type logs struct {
		TaskPath
		Body api.LogRequest
	}
	op = s.operation(http.MethodPost, "/api/v1/agents/{id}/tasks/{taskId}/logs", "agent.logs", "Send log entries of a task", agentTask)
	op.MaxBodyBytes = 4 << 20
	handle(s, op, func(ctx context.Context, in *logs) (api.LogResponse, error) {
		ref, err := s.attempt(ctx, in.TaskID, in.Body.Attempt)
		if err != nil {
			return api.LogResponse{}, err
		}
		last, err := s.Tasks.AppendLog(ctx, agent(ctx), ref, in.Body.FirstSeq, in.Body.Entries)
		return api.LogResponse{LastSeq: last}, err
	})
}

// renewal is the input of renew; Resolve keeps the key that is in use.
type renewal struct {
	IDPath
	Body   api.CertificateRequest
	leaf   *x509.Certificate
	remote string
}

// Resolve is called by huma before the handler.
func (r *renewal) Resolve(ctx huma.Context) []error {
	if cs := ctx.TLS(); cs != nil && len(cs.PeerCertificates) > 0 {
		r.leaf = cs.PeerCertificates[0]
	}
	r.remote = ctx.RemoteAddr()
	return nil
}

func (s *Server) renew(ctx context.Context, in *renewal) (api.CertificateResponse, error) {
	a, now := agent(ctx), s.now()
	if err := s.Links.Sole(ctx, a, fleet.Caller{Instance: in.Body.Instance, Place: fleet.Address(in.remote)}); err != nil {
		return api.CertificateResponse{}, err
	}
	caller := enroll.Caller{TenantID: a.TenantID, AgentID: a.ID, Remote: in.remote}
	issued, err := s.Enroll.Renew(ctx, caller, pki.KeyHash(in.leaf), now.After(in.leaf.NotAfter), &in.Body)
	if err != nil {
		s.countRefusal(err)
		return api.CertificateResponse{}, err
	}
	return api.CertificateResponse{
		Certificate: issued.ChainPEM, CACertificate: s.CA.RootsPEM(), NotAfter: issued.NotAfter,
		ServerTime: now, ServerPublicKey: s.Signing.Public(),
	}, nil
}

// countRefusal counts a certificate that was not renewed.
func (s *Server) countRefusal(err error) {
	if s.RenewalRefused != nil {
		s.RenewalRefused(fault.CodeOf(err))
	}
}

// attempt takes the fencing number from the body, or from the task's token.
func (s *Server) attempt(ctx context.Context, taskID string, said int64) (task.Ref, error) {
	c, _ := ctx.Value(claimsKey{}).(*seal.AgentClaims)
	if c != nil && c.Attempt != 0 {
		if said != 0 && said != c.Attempt {
			return task.Ref{}, fault.New(fault.Forbidden, "token_of_another_attempt", "the token is good for attempt %d only", c.Attempt)
		}
		said = c.Attempt
	}
	return task.Ref{ID: taskID, Attempt: said}, nil
}

func (s *Server) register(ctx context.Context, in *registration) (api.RegisterResponse, error) {
	caller := s.registrationCaller(in.Token, in.remote)
	if in.cs != nil && len(in.cs.PeerCertificates) > 0 {
		a, err := s.Identify(ctx, in.cs, in.remote)
		if err == nil {
			caller.TenantID, caller.AgentID = a.TenantID, a.ID
			err = s.Links.Sole(ctx, a, fleet.Caller{Instance: in.Body.Instance, Place: fleet.Address(in.remote)})
			if err != nil {
				return api.RegisterResponse{}, err
			}
		} else if in.Token == "" {
			return api.RegisterResponse{}, err
		}
	}
	reg, err := s.Enroll.Register(ctx, caller, in.Body)
	if fault.CodeOf(err) == "token_refused" {
		err = s.refused(in.remote, err)
	}
	if err != nil {
		return api.RegisterResponse{}, err
	}
	base, err := url.Parse(s.BaseURL())
	if err != nil {
		return api.RegisterResponse{}, fmt.Errorf("base URL: %w", err)
	}
	stream := *base
	stream.Scheme = "wss"
	path := "/api/v1/agents/" + url.PathEscape(reg.AgentID)
	return api.RegisterResponse{
		AgentID: reg.AgentID, Name: reg.Name, Certificate: reg.ChainPEM, CACertificate: s.CA.RootsPEM(),
		EventsURL: base.JoinPath(path, "events").String(), TaskStreamURL: stream.JoinPath(path, "task-stream").String(),
		Config:          api.AgentSettings{HeartbeatIntervalMs: s.HeartbeatInterval.Milliseconds(), ServerTime: s.now()},
		ServerPublicKey: s.Signing.Public(),
	}, nil
}

// maxPolled is how many tasks one heartbeat's answer hands out at the most.
const maxPolled = 20

func (s *Server) heartbeat(ctx context.Context, a *fleet.Agent, in *api.HeartbeatRequest, signed fleet.Number) (api.HeartbeatResponse, error) {
	if err := fleet.ValidateCapabilities("body.capabilities", in.Capabilities); err != nil {
		return api.HeartbeatResponse{}, err
	}
	now := s.now()
	link := s.Links.Transport(a.ID)
	s.Monitor.Beat(fleet.Heartbeat{
		TenantID: a.TenantID, AgentID: a.ID, At: now, Status: in.Status, NotAccepting: in.NotAccepting, Transport: cmp.Or(link, "poll"),
		ResourceUsage: in.ResourceUsage, Capabilities: in.Capabilities, Signed: signed, Instance: in.Instance,
	})
	if in.Capabilities != nil {
		a.Capabilities = in.Capabilities
	}
	out := api.HeartbeatResponse{
		Tasks: []api.AgentTask{}, IntervalMs: s.HeartbeatInterval.Milliseconds(), ServerTime: now,
		ReconnectWindowMs: s.Links.ReconnectWindow().Milliseconds(),
	}
	if trust := s.CA.Trust(); trust != a.Trust {
		out.Trust, out.TrustSpreadMs = trust, s.Links.TrustSpread().Milliseconds()
	}
	running := make([]task.Ref, len(in.RunningTasks))
	for i, r := range in.RunningTasks {
		running[i] = task.Ref{ID: r.TaskID, Attempt: r.Attempt}
	}
	if link != "" {
		return out, s.Tasks.Renew(ctx, a.ID, running) // its link carries tasks and commands
	}
	if err := s.pendingCommands(ctx, a, &out); err != nil {
		return out, err
	}
	again, cancel, err := s.Tasks.Pending(ctx, a, running)
	if err != nil {
		return out, err
	}
	add := func(t *api.AgentTask) error {
		// The answer is encoded in the same way (without escapes for HTML), so
		// that the bytes are the same.
		_, signature, err := s.Tasks.Signed(t)
		out.Tasks, out.Signatures = append(out.Tasks, *t), append(out.Signatures, signature)
		return err
	}
	for _, t := range again {
		if err := add(t); err != nil {
			return out, err
		}
	}
	for _, r := range cancel {
		out.Cancelled = append(out.Cancelled, api.TaskRef{TaskID: r.ID, Attempt: r.Attempt})
	}
	for in.NotAccepting == "" && len(out.Tasks) < maxPolled {
		t, err := s.Tasks.Next(ctx, a, in.MaxTasks)
		if err != nil {
			return out, err
		}
		if t == nil {
			break
		}
		if err := add(t); err != nil {
			return out, err
		}
	}
	return out, nil
}

// pendingCommands hands out what waits for an agent, unless its stream of
// events carries it. Each command comes once: whether the agent gets this
// answer, nobody knows.
func (s *Server) pendingCommands(ctx context.Context, a *fleet.Agent, out *api.HeartbeatResponse) error {
	if s.Links.Streaming(a.ID) {
		return nil
	}
	pending, err := s.Commands.PendingOf(ctx, a.TenantID, a.ID)
	if err != nil {
		return err
	}
	for _, c := range pending {
		signed, err := s.Commands.Outgoing(c)
		if err != nil {
			return err
		}
		out.Commands = append(out.Commands, signed.For(a.ID))
		s.Commands.Delivered(a.TenantID, c.ID, a.ID)
	}
	return nil
}
