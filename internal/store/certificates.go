package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
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
		adopted, err = adopt(ctx, q, fingerprint, endOthers)
		return err
	})
	return adopted && err == nil, err
}

func adopt(ctx context.Context, q *db.Queries, fingerprint string, endOthers time.Time) (bool, error) {
	c, ok, err := one(q.AdoptCertificate(ctx, fingerprint))
	if err != nil || !ok {
		return false, err
	}
	if err := q.EndCertificatesBefore(ctx, db.EndCertificatesBeforeParams{
		AgentID: c.AgentID, Fingerprint: c.Fingerprint, CreatedAt: c.CreatedAt, At: column.At(endOthers),
	}); err != nil {
		return false, err
	}
	if err := q.SetAgentCertificate(ctx, db.SetAgentCertificateParams{
		ID: c.AgentID, CertificateFingerprint: c.Fingerprint, CertificateNotAfter: c.NotAfter, PublicKeyHash: c.PublicKeyHash, Trust: c.Trust,
	}); err != nil {
		return false, err
	}
	return true, noteChange(ctx, q, c.TenantID, c.AgentID)
}

// AdoptUnknown implements enroll.Store.
func (s *Store) AdoptUnknown(ctx context.Context, r *enroll.Renewal, endOthers time.Time) (adopted bool, err error) {
	err = s.write(ctx, "adopt an unknown certificate of agent "+r.Agent.ID, func(q *db.Queries) error {
		adopted = false
		// Locked, so that nobody revokes it meanwhile.
		a, ok, err := one(q.LockAgent(ctx, r.Agent.ID))
		if err != nil || !ok || a.TenantID != r.Agent.TenantID || a.Lifecycle == string(api.LifecycleRevoked) {
			return err
		}
		newest, ok, err := one(q.NewestCertificate(ctx, r.Agent.ID))
		if err != nil || !ok || !r.Cert.NotBefore.After(newest.Time) {
			return err
		}
		if ended, err := q.SerialRevoked(ctx, r.Cert.Serial); err != nil || ended > 0 {
			return err
		}
		if err := q.InsertCertificate(ctx, certificateRow(r.Agent, &r.Cert, true, r.At)); err != nil {
			return err
		}
		adopted, err = adopt(ctx, q, r.Cert.Fingerprint, endOthers)
		return err
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

// EndedCertificates returns the certificates that were, or will be, ended before
// their time and would be good after another time, also those of agents that were
// deleted.
func (s *Store) EndedCertificates(ctx context.Context, goodAfter time.Time) ([]*enroll.Ended, error) {
	rows, err := s.read().EndedCertificates(ctx, column.At(goodAfter))
	if err != nil {
		return nil, s.explain(ctx, "list the ended certificates", err)
	}
	return each(rows, func(r *db.EndedCertificatesRow) *enroll.Ended {
		return &enroll.Ended{Serial: r.Serial, TenantID: r.TenantID, AgentID: r.AgentID, At: r.RevokedAt.Time, NotAfter: r.NotAfter.Time, Why: r.Why}
	}), nil
}

// EndedCertificatesOf returns those of some agents.
func (s *Store) EndedCertificatesOf(ctx context.Context, agents []string) ([]*enroll.Ended, error) {
	list, err := json.Marshal(agents)
	if err != nil {
		return nil, fmt.Errorf("encode ids: %w", err)
	}
	rows, err := s.read().EndedCertificatesOf(ctx, list)
	if err != nil {
		return nil, s.explain(ctx, "list the ended certificates of agents", err)
	}
	return each(rows, func(r *db.EndedCertificatesOfRow) *enroll.Ended {
		return &enroll.Ended{Serial: r.Serial, TenantID: r.TenantID, AgentID: r.AgentID, At: r.RevokedAt.Time, NotAfter: r.NotAfter.Time, Why: r.Why}
	}), nil
}

// StandingCertificates returns the certificates of the agents that are not
// revoked, of all tenants.
func (s *Store) StandingCertificates(ctx context.Context) ([]*enroll.Standing, error) {
	rows, err := s.read().StandingCertificates(ctx)
	if err != nil {
		return nil, s.explain(ctx, "list the certificates", err)
	}
	return each(rows, func(r *db.StandingCertificatesRow) *enroll.Standing {
		return &enroll.Standing{Serial: r.Serial, Fingerprint: r.Fingerprint, TenantID: r.TenantID, AgentID: r.AgentID, AgentName: r.Name, EndsAt: r.RevokedAt.Time}
	}), nil
}

// EndCertificate ends one certificate, unless it has ended before, and reports
// whether it did.
func (s *Store) EndCertificate(ctx context.Context, c *enroll.Standing, at time.Time) (ended bool, err error) {
	err = s.write(ctx, "end a certificate of agent "+c.AgentID, func(q *db.Queries) error {
		n, err := q.EndCertificate(ctx, db.EndCertificateParams{Fingerprint: c.Fingerprint, At: column.At(at)})
		if ended = n > 0; err != nil || !ended {
			return err
		}
		return noteChange(ctx, q, c.TenantID, c.AgentID)
	})
	return ended && err == nil, err
}

// KeepEnded keeps certificates that were ended and that nobody knows any more:
// they are not adopted, and are on the list of revoked certificates.
func (s *Store) KeepEnded(ctx context.Context, ended []*enroll.Ended) error {
	if len(ended) == 0 {
		return nil
	}
	return s.write(ctx, "keep ended certificates", func(q *db.Queries) error {
		for _, e := range ended {
			if err := q.InsertRevokedSerial(ctx, db.InsertRevokedSerialParams{
				Serial: e.Serial, RevokedAt: column.At(e.At), NotAfter: column.At(e.NotAfter), TenantID: e.TenantID, AgentID: e.AgentID, Why: e.Why,
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// ForgetEnded forgets certificates of deleted agents that have ended by
// themselves before a time.
func (s *Store) ForgetEnded(ctx context.Context, before time.Time) error {
	return s.write(ctx, "forget ended certificates", func(q *db.Queries) error { return q.PruneRevokedSerials(ctx, column.At(before)) })
}
