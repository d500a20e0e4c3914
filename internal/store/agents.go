package store

import (
	"context"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// Agent implements fleet.Store.
func (s *Store) Agent(ctx context.Context, tenant, idOrName string) (*fleet.Agent, error) {
	row, ok, err := one(s.read().Agent(ctx, db.AgentParams{TenantID: tenant, IDOrName: idOrName}))
	if err != nil {
		return nil, s.explain(ctx, "read agent", err)
	}
	if !ok {
		return nil, agentNotFound(idOrName)
	}
	return agentOf(row), nil
}

// Agents implements fleet.Store.
func (s *Store) Agents(ctx context.Context, tenant string, f fleet.Filter) ([]*fleet.Agent, error) {
	rows, err := list(ctx, s, agentListing, f.Where(), f.Query, f.Limit, func(q *db.Queries) ([]*db.Agent, error) {
		return q.Agents(ctx, tenant)
	})
	return each(rows, agentOf), err
}

// UpdateAgent implements fleet.Store.
func (s *Store) UpdateAgent(ctx context.Context, tenant, id string, labels *map[string]string, capabilities *[]string, at time.Time) error {
	return s.write(ctx, "update agent "+id, func(q *db.Queries) error {
		if err := agentExists(ctx, q, tenant, id); err != nil {
			return err
		}
		if err := noteChange(ctx, q, tenant, id); err != nil {
			return err
		}
		if labels != nil {
			if _, err := q.SetAgentLabels(ctx, db.SetAgentLabelsParams{
				TenantID: tenant, ID: id, Labels: column.Labels{V: *labels}, UpdatedAt: column.At(at),
			}); err != nil {
				return err
			}
		}
		if capabilities == nil {
			return nil
		}
		_, err := q.SetAgentCapabilities(ctx, db.SetAgentCapabilitiesParams{
			TenantID: tenant, ID: id, Capabilities: column.Strings{V: *capabilities}, UpdatedAt: column.At(at),
		})
		return err
	})
}

// SetLifecycle implements fleet.Store. Revoking an agent revokes its
// certificates with it.
func (s *Store) SetLifecycle(ctx context.Context, tenant, id string, from []api.Lifecycle, to api.Lifecycle, at time.Time) (bool, error) {
	moved := false
	err := s.write(ctx, "set life cycle of agent "+id, func(q *db.Queries) error {
		moved = false
		args := db.SetLifecycleParams{TenantID: tenant, ID: id, ToState: string(to), At: column.At(at)}
		for i, slot := range []*string{&args.From1, &args.From2, &args.From3} {
			if i < len(from) {
				*slot = string(from[i])
			}
		}
		n, err := q.SetLifecycle(ctx, args)
		if err != nil {
			return err
		}
		if n == 0 {
			return agentExists(ctx, q, tenant, id)
		}
		moved = true
		if to == api.LifecycleRevoked {
			if err := q.RevokeCertificates(ctx, db.RevokeCertificatesParams{AgentID: id, At: column.At(at)}); err != nil {
				return err
			}
		}
		return noteChange(ctx, q, tenant, id)
	})
	return moved && err == nil, err
}

// DeleteAgent implements fleet.Store.
func (s *Store) DeleteAgent(ctx context.Context, tenant, id string) error {
	at := column.At(time.Now().UTC())
	return s.write(ctx, "delete agent "+id, func(q *db.Queries) error {
		// Its certificates go with it, and are to be on the list of revoked ones.
		if err := agentExists(ctx, q, tenant, id); err != nil {
			return err
		}
		if err := q.KeepRevokedSerials(ctx, db.KeepRevokedSerialsParams{AgentID: id, At: at}); err != nil {
			return err
		}
		n, err := q.DeleteAgent(ctx, db.DeleteAgentParams{TenantID: tenant, ID: id})
		if err == nil && n == 0 {
			return agentNotFound(id)
		}
		if err != nil {
			return err
		}
		return noteChange(ctx, q, tenant, id)
	})
}

// Credential implements fleet.Store.
func (s *Store) Credential(ctx context.Context, fingerprint string) (*fleet.Credential, error) {
	row, ok, err := one(s.read().CertificateAgent(ctx, fingerprint))
	if err != nil || !ok {
		return nil, s.explain(ctx, "read certificate", err)
	}
	return &fleet.Credential{Agent: agentOf(&row.Agent), EndsAt: row.CertificateRevokedAt.Time, Pending: row.CertificatePending, Trust: row.CertificateTrust}, nil
}

// AgentChanges implements fleet.ChangeStore. A position that is not of this
// database, because an older one was put back, is the beginning.
func (s *Store) AgentChanges(ctx context.Context, since int64) ([]fleet.Change, int64, error) {
	for {
		rows, err := s.read().AgentChanges(ctx, since)
		if err != nil {
			return nil, 0, s.explain(ctx, "read the changes of agents", err)
		}
		next := int64(0)
		changes := make([]fleet.Change, 0, len(rows)-1)
		for _, r := range rows {
			if r.Seq == 0 {
				next = r.Horizon
				continue
			}
			changes = append(changes, fleet.Change{Seq: r.Seq, TenantID: r.TenantID, AgentID: r.AgentID})
		}
		if since <= next {
			return changes, next, nil
		}
		since = 0
	}
}

// ForgetAgentChanges implements fleet.ChangeStore.
func (s *Store) ForgetAgentChanges(ctx context.Context) error {
	return s.write(ctx, "forget old changes of agents", func(q *db.Queries) error { return q.ForgetAgentChanges(ctx) })
}

// noteChange has every server look at an agent again, when the transaction is
// committed.
func noteChange(ctx context.Context, q *db.Queries, tenant, id string) error {
	return q.NoteAgentChange(ctx, db.NoteAgentChangeParams{TenantID: tenant, AgentID: id})
}

func agentExists(ctx context.Context, q *db.Queries, tenant, id string) error {
	n, err := q.AgentExists(ctx, db.AgentExistsParams{TenantID: tenant, ID: id})
	if err == nil && n == 0 {
		return agentNotFound(id)
	}
	return err
}

func agentNotFound(idOrName string) error {
	return fault.New(fault.NotFound, "agent_not_found", "there is no agent %q: `stella agent list` shows those that are", idOrName)
}

func agentOf(r *db.Agent) *fleet.Agent {
	return &fleet.Agent{
		ID: r.ID, TenantID: r.TenantID, Name: r.Name, Version: r.Version,
		Lifecycle: api.Lifecycle(r.Lifecycle), Liveness: api.Liveness(r.Liveness),
		Group: r.GroupName, Environment: r.Environment, Platform: r.Platform, Cluster: r.Cluster,
		Labels: r.Labels.V, Capabilities: r.Capabilities.V, AllowedCapabilities: r.AllowedCapabilities.V, Bound: r.Bound.V, Routes: r.Routes.V,
		EncryptionKey: r.EncryptionKey, PublicKeyHash: r.PublicKeyHash,
		CertificateFingerprint: r.CertificateFingerprint, CertificateNotAfter: r.CertificateNotAfter.Time,
		CertificateLife: time.Duration(r.CertificateLifeMs) * time.Millisecond, Trust: r.Trust,
		Instance: r.Instance, SignsHeartbeats: r.SignsHeartbeats, Signed: fleet.Number{Boot: r.SignedBoot, Number: r.SignedNumber},
		LastHeartbeat: r.LastHeartbeat.Time, ReportedStatus: r.ReportedStatus, NotAccepting: r.NotAccepting, Transport: r.Transport,
		ResourceUsage: r.ResourceUsage.V, CreatedAt: r.CreatedAt.Time, UpdatedAt: r.UpdatedAt.Time,
	}
}
