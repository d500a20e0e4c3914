package store

import (
	"context"
	"time"

	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// InsertToken implements enroll.Store.
func (s *Store) InsertToken(ctx context.Context, t *enroll.Token) error {
	return s.write(ctx, "insert registration token", func(q *db.Queries) error {
		return q.InsertToken(ctx, db.InsertTokenParams{
			ID: t.ID, TenantID: t.TenantID, Hash: t.Hash, Name: t.Name, AgentID: t.AgentID,
			Environment: t.Environment, GroupName: t.Group, Cluster: t.Cluster, Platform: t.Platform,
			Capabilities: column.Strings{V: t.Capabilities}, Labels: column.Labels{V: t.Labels},
			MaxUses: int64(t.MaxUses), Uses: int64(t.Uses), CreatedBy: t.CreatedBy,
			CreatedAt: column.At(t.CreatedAt), ExpiresAt: column.At(t.ExpiresAt), RevokedAt: column.At(t.RevokedAt),
			CertificateLifeMs: t.CertificateLife.Milliseconds(),
		})
	})
}

// TokenByHash implements enroll.Store.
func (s *Store) TokenByHash(ctx context.Context, hash string) (*enroll.Token, error) {
	row, ok, err := one(s.read().TokenByHash(ctx, hash))
	if err != nil || !ok {
		return nil, s.explain(ctx, "read registration token", err)
	}
	return tokenOf(row), nil
}

// Tokens implements enroll.Store.
func (s *Store) Tokens(ctx context.Context, tenant string, f enroll.Filter) ([]*enroll.Token, error) {
	rows, err := list(ctx, s, tokenListing, f.Query.Where, f.Query, f.Limit, func(q *db.Queries) ([]*db.RegistrationToken, error) {
		return q.Tokens(ctx, tenant)
	})
	return each(rows, tokenOf), err
}

// RevokeToken implements enroll.Store. A missing token is a fault of kind
// NotFound; one that was revoked keeps its first time.
func (s *Store) RevokeToken(ctx context.Context, tenant, id string, at time.Time) error {
	return s.write(ctx, "revoke registration token", func(q *db.Queries) error {
		n, err := q.RevokeToken(ctx, db.RevokeTokenParams{TenantID: tenant, ID: id, At: column.At(at)})
		if err != nil || n > 0 {
			return err
		}
		n, err = q.TokenExists(ctx, db.TokenExistsParams{TenantID: tenant, ID: id})
		return tokenFound(n, err, id)
	})
}

// TokenUse implements enroll.Store.
func (s *Store) TokenUse(ctx context.Context, tokenID, publicKeyHash string) (*enroll.Use, error) {
	row, ok, err := one(s.read().TokenUse(ctx, db.TokenUseParams{TokenID: tokenID, PublicKeyHash: publicKeyHash}))
	if err != nil || !ok {
		return nil, s.explain(ctx, "read use of registration token", err)
	}
	return &enroll.Use{AgentID: row.AgentID, ChainPEM: row.ChainPem}, nil
}

// Enrol implements enroll.Store. To resume an agent changes neither its life
// cycle nor its liveness nor when it was created, so that an agent that was
// revoked at this very moment stays so (a fault of kind Forbidden) and one
// that returns from the dead is announced by its first heartbeat. A key has
// one use of a token: with another it gets ErrSpent, and TokenUse has the
// answer.
func (s *Store) Enrol(ctx context.Context, e *enroll.Enrolment) error {
	err := s.write(ctx, "enrol agent", func(q *db.Queries) error {
		if err := spend(ctx, q, e); err != nil {
			return err
		}
		if e.Resume {
			if err := resume(ctx, q, e); err != nil {
				return err
			}
		} else if err := q.InsertAgent(ctx, agentRow(e.Agent)); err != nil {
			return err
		}
		return certify(ctx, q, e)
	})
	if v := s.engine.Judge(err).Violated; v == AgentName || v == AgentID {
		return s.taken(ctx, e)
	}
	return err
}

// taken says what of an agent was taken: when it is both its id and its name,
// the engines differ in which they tell. Perhaps it was this very agent, on
// another try.
func (s *Store) taken(ctx context.Context, e *enroll.Enrolment) error {
	if e.TokenID != "" {
		if use, err := s.TokenUse(ctx, e.TokenID, e.Agent.PublicKeyHash); err != nil {
			return err
		} else if use != nil {
			return enroll.ErrSpent
		}
	}
	n, err := s.read().AgentIDTaken(ctx, e.Agent.ID)
	if err != nil {
		return s.explain(ctx, "enrol agent", err)
	}
	if n > 0 && !e.Resume {
		return enroll.ErrIDTaken
	}
	return enroll.ErrNameTaken
}

// spend takes one use of the token. It comes first, so that of many who try
// one token each waits for the one before.
func spend(ctx context.Context, q *db.Queries, e *enroll.Enrolment) error {
	if e.TokenID == "" {
		return nil
	}
	n, err := q.SpendToken(ctx, db.SpendTokenParams{ID: e.TokenID, TenantID: e.Agent.TenantID, At: column.At(e.At)})
	if err == nil && n == 0 {
		return enroll.ErrSpent
	}
	return err
}

func resume(ctx context.Context, q *db.Queries, e *enroll.Enrolment) error {
	a := agentRow(e.Agent)
	n, err := q.ResumeAgent(ctx, db.ResumeAgentParams{
		TenantID: a.TenantID, ID: a.ID, Name: a.Name, Version: a.Version, GroupName: a.GroupName, Environment: a.Environment,
		Platform: a.Platform, Cluster: a.Cluster, Labels: a.Labels, Capabilities: a.Capabilities, AllowedCapabilities: a.AllowedCapabilities, Bound: a.Bound, Routes: a.Routes,
		EncryptionKey: a.EncryptionKey, PublicKeyHash: a.PublicKeyHash,
		CertificateFingerprint: a.CertificateFingerprint, CertificateNotAfter: a.CertificateNotAfter, UpdatedAt: a.UpdatedAt, CertificateLifeMs: a.CertificateLifeMs, Trust: a.Trust,
	})
	if err != nil {
		return err
	}
	if n == 0 {
		if err := agentExists(ctx, q, a.TenantID, a.ID); err != nil {
			return err
		}
		return fault.New(fault.Forbidden, "agent_revoked",
			"agent %s is revoked: an operator must delete it before the host can register again", a.ID)
	}
	// Only a token takes back that an agent signs.
	if a.SignsHeartbeats || e.TokenID != "" {
		if _, err := q.SetSignsHeartbeats(ctx, db.SetSignsHeartbeatsParams{TenantID: a.TenantID, ID: a.ID, SignsHeartbeats: a.SignsHeartbeats}); err != nil {
			return err
		}
	}
	if e.TokenID != "" {
		// Whoever has the old key no longer is this agent.
		if err := q.RevokeCertificates(ctx, db.RevokeCertificatesParams{AgentID: a.ID, At: column.At(e.At)}); err != nil {
			return err
		}
	}
	if err := noteChange(ctx, q, a.TenantID, a.ID); err != nil {
		return err
	}
	return q.PruneCertificates(ctx, db.PruneCertificatesParams{AgentID: a.ID, EndedBefore: column.At(e.ForgetBefore)})
}

// certify records the certificate, and what the token gave to the key.
func certify(ctx context.Context, q *db.Queries, e *enroll.Enrolment) error {
	// Without a token it is a renewal: the agent may never get it.
	renewed := e.Resume && e.TokenID == ""
	if err := q.InsertCertificate(ctx, certificateRow(e.Agent, &e.Cert, renewed, e.At)); err != nil {
		return err
	}
	if e.TokenID == "" {
		return nil
	}
	n, err := q.InsertTokenUse(ctx, db.InsertTokenUseParams{
		TokenID: e.TokenID, PublicKeyHash: e.Agent.PublicKeyHash, AgentID: e.Agent.ID, ChainPem: e.Cert.ChainPEM, At: column.At(e.At),
	})
	if err == nil && n == 0 {
		return enroll.ErrSpent
	}
	return err
}

// tokenFound makes a fault of a count of none.
func tokenFound(n int64, err error, id string) error {
	if err == nil && n == 0 {
		return fault.New(fault.NotFound, "token_not_found", "there is no token %q", id)
	}
	return err
}

func tokenOf(r *db.RegistrationToken) *enroll.Token {
	return &enroll.Token{
		ID: r.ID, TenantID: r.TenantID, Hash: r.Hash, Name: r.Name, AgentID: r.AgentID,
		Environment: r.Environment, Group: r.GroupName, Cluster: r.Cluster, Platform: r.Platform,
		Capabilities: r.Capabilities.V, Labels: r.Labels.V, MaxUses: int(r.MaxUses), Uses: int(r.Uses),
		CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt.Time, ExpiresAt: r.ExpiresAt.Time, RevokedAt: r.RevokedAt.Time,
		CertificateLife: time.Duration(r.CertificateLifeMs) * time.Millisecond,
	}
}

func agentRow(a *fleet.Agent) db.InsertAgentParams {
	return db.InsertAgentParams{
		ID: a.ID, TenantID: a.TenantID, Name: a.Name, Version: a.Version,
		Lifecycle: string(a.Lifecycle), Liveness: string(a.Liveness),
		GroupName: a.Group, Environment: a.Environment, Platform: a.Platform, Cluster: a.Cluster,
		Labels: column.Labels{V: a.Labels}, Capabilities: column.Strings{V: a.Capabilities},
		AllowedCapabilities: column.Strings{V: a.AllowedCapabilities}, Bound: column.Bound{V: a.Bound}, Routes: column.Strings{V: a.Routes},
		EncryptionKey: a.EncryptionKey, PublicKeyHash: a.PublicKeyHash,
		CertificateFingerprint: a.CertificateFingerprint, CertificateNotAfter: column.At(a.CertificateNotAfter),
		LastHeartbeat: column.At(a.LastHeartbeat), ReportedStatus: a.ReportedStatus, NotAccepting: a.NotAccepting,
		ResourceUsage: column.Usage{V: a.ResourceUsage}, CreatedAt: column.At(a.CreatedAt), UpdatedAt: column.At(a.UpdatedAt),
		CertificateLifeMs: a.CertificateLife.Milliseconds(), Trust: a.Trust, SignsHeartbeats: a.SignsHeartbeats,
	}
}
