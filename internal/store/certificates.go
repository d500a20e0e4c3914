package store

import (
	"context"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// Renew implements enroll.Store.
func (s *Store) Renew(ctx context.Context, r *enroll.Renewal) error {
	return s.write(ctx, "renew the certificate of agent "+r.Agent.ID, func(q *db.Queries) error {
		if err := mayRenew(ctx, q, r); err != nil {
			return err
		}
		if err := q.InsertCertificate(ctx, certificateRow(r.Agent, &r.Cert, true, r.At)); err != nil {
			return err
		}
		return q.PruneCertificates(ctx, db.PruneCertificatesParams{AgentID: r.Agent.ID, EndedBefore: column.At(r.ForgetBefore)})
	})
}

// mayRenew refuses an agent that was revoked or deleted at this very moment,
// and takes its encryption key, if it has a new one, and that it signs.
func mayRenew(ctx context.Context, q *db.Queries, r *enroll.Renewal) error {
	a := r.Agent
	if r.SignsHeartbeats {
		if _, err := q.SetSignsHeartbeats(ctx, db.SetSignsHeartbeatsParams{TenantID: a.TenantID, ID: a.ID, SignsHeartbeats: true}); err != nil {
			return err // that none was changed, what follows finds out
		}
	}
	if r.EncryptionKey != "" {
		n, err := q.SetEncryptionKey(ctx, db.SetEncryptionKeyParams{TenantID: a.TenantID, ID: a.ID, EncryptionKey: r.EncryptionKey})
		if err != nil || n > 0 {
			return err
		}
	}
	lifecycle, ok, err := one(q.AgentLifecycle(ctx, db.AgentLifecycleParams{TenantID: a.TenantID, ID: a.ID}))
	switch {
	case err != nil:
		return err
	case !ok:
		return agentNotFound(a.ID)
	case lifecycle == string(api.LifecycleRevoked):
		return fault.New(fault.Forbidden, "agent_revoked", "agent %s is revoked", a.ID)
	}
	return nil
}

// Adopt implements enroll.Store.
func (s *Store) Adopt(ctx context.Context, fingerprint string, endOthers time.Time) (adopted bool, err error) {
	err = s.write(ctx, "adopt a certificate", func(q *db.Queries) error {
		adopted = false
		c, ok, err := one(q.AdoptCertificate(ctx, fingerprint))
		if err != nil || !ok {
			return err
		}
		adopted = true
		if err := q.EndCertificatesBefore(ctx, db.EndCertificatesBeforeParams{
			AgentID: c.AgentID, Fingerprint: c.Fingerprint, CreatedAt: c.CreatedAt, At: column.At(endOthers),
		}); err != nil {
			return err
		}
		return q.SetAgentCertificate(ctx, db.SetAgentCertificateParams{
			ID: c.AgentID, CertificateFingerprint: c.Fingerprint, CertificateNotAfter: c.NotAfter, PublicKeyHash: c.PublicKeyHash, Trust: c.Trust,
		})
	})
	return adopted && err == nil, err
}

func certificateRow(a *fleet.Agent, c *enroll.Issued, pending bool, at time.Time) db.InsertCertificateParams {
	return db.InsertCertificateParams{
		Fingerprint: c.Fingerprint, AgentID: a.ID, TenantID: a.TenantID, Serial: c.Serial, PublicKeyHash: c.PublicKeyHash,
		NotBefore: column.At(c.NotBefore), NotAfter: column.At(c.NotAfter), Pending: pending, CreatedAt: column.At(at), Trust: c.Trust,
	}
}

// TrustCounts implements enroll.TrustStore.
func (s *Store) TrustCounts(ctx context.Context) ([]*enroll.TrustCount, error) {
	rows, err := s.read().CountTrust(ctx)
	if err != nil {
		return nil, s.explain(ctx, "count the agents by their trust", err)
	}
	return each(rows, func(r *db.CountTrustRow) *enroll.TrustCount {
		return &enroll.TrustCount{Trust: r.Trust, Liveness: api.Liveness(r.Liveness), Agents: int(r.Agents)}
	}), nil
}

// CertificateCounts counts the agents of all tenants that are not revoked, by how
// soon after a time their certificates end. It reads all of them.
func (s *Store) CertificateCounts(ctx context.Context, at time.Time) ([]*enroll.CertificateCount, error) {
	const day = 24 * time.Hour
	rows, err := s.read().CountCertificates(ctx, db.CountCertificatesParams{
		At: column.At(at), WithinHour: column.At(at.Add(time.Hour)), WithinDay: column.At(at.Add(day)), WithinWeek: column.At(at.Add(7 * day)), WithinMonth: column.At(at.Add(30 * day)),
	})
	if err != nil {
		return nil, s.explain(ctx, "count the agents by their certificates", err)
	}
	return each(rows, func(r *db.CountCertificatesRow) *enroll.CertificateCount {
		return &enroll.CertificateCount{
			Trust: r.Trust, Liveness: api.Liveness(r.Liveness), Agents: int(r.Agents),
			Ended: int(r.Ended), WithinHour: int(r.WithinHour), WithinDay: int(r.WithinDay), WithinWeek: int(r.WithinWeek), WithinMonth: int(r.WithinMonth),
		}
	}), nil
}

// AgentsWithoutTrust implements enroll.TrustStore.
func (s *Store) AgentsWithoutTrust(ctx context.Context, trust string, limit int) ([]string, error) {
	names, err := s.read().AgentsWithoutTrust(ctx, db.AgentsWithoutTrustParams{Trust: trust, Limit: int32(limit)}) //nolint:gosec // a few, to be shown
	if err != nil {
		return nil, s.explain(ctx, "look for agents without the trust", err)
	}
	return names, nil
}

// Revoked returns the certificates that were ended before their time and would
// be good still, also those of agents that were deleted.
func (s *Store) Revoked(ctx context.Context, at time.Time) ([]*pki.Revoked, error) {
	rows, err := s.read().RevokedSerials(ctx, column.At(at))
	if err != nil {
		return nil, s.explain(ctx, "list the revoked certificates", err)
	}
	return each(rows, func(r *db.RevokedSerialsRow) *pki.Revoked {
		return &pki.Revoked{Serial: r.Serial, At: r.RevokedAt.Time}
	}), nil
}
