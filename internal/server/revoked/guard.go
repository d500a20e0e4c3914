package revoked

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// Store is what the database knows.
type Store interface {
	// EndedCertificates returns the certificates that were ended before their
	// time and would be good after another time, also those of agents that were
	// deleted.
	EndedCertificates(ctx context.Context, goodAfter time.Time) ([]*enroll.Ended, error)
	// EndedCertificatesOf returns those of some agents.
	EndedCertificatesOf(ctx context.Context, agents []string) ([]*enroll.Ended, error)
	// StandingCertificates returns the certificates of all agents that are not
	// revoked.
	StandingCertificates(ctx context.Context) ([]*enroll.Standing, error)
	// EndCertificate ends one, and reports whether it did.
	EndCertificate(ctx context.Context, c *enroll.Standing, at time.Time) (bool, error)
	// KeepEnded keeps some that the database does not know.
	KeepEnded(ctx context.Context, ended []*enroll.Ended) error
	// ForgetEnded forgets those of deleted agents that ended before a time.
	ForgetEnded(ctx context.Context, before time.Time) error
	// SetLifecycle is fleet.Store's.
	SetLifecycle(ctx context.Context, tenant, id string, from []api.Lifecycle, to api.Lifecycle, at time.Time) (bool, error)
}

var _ fleet.Watcher = (*Guard)(nil)

// Guard keeps the record and the database the same. It is safe for concurrent
// use.
type Guard struct {
	record *Record
	store  Store
	audit  access.Auditor
	// recovery is for how long a certificate is worth something after its end.
	recovery time.Duration
	now      func() time.Time
	log      *slog.Logger
}

// NewGuard returns the guard of a database, whose certificates are worth something
// for a time after their end. A guard without a record only restores.
func NewGuard(record *Record, store Store, audit access.Auditor, recovery time.Duration, now func() time.Time, log *slog.Logger) *Guard {
	return &Guard{record: record, store: store, audit: audit, recovery: recovery, now: now, log: log}
}

// Restored is what Restore has done.
type Restored struct {
	Agents       []string // the names of those that it has revoked
	Certificates int      // that it has ended, of other agents
	Unknown      int      // that it has kept, which the database did not know
}

// Nothing reports whether the database knew all already.
func (r *Restored) Nothing() bool { return len(r.Agents)+r.Certificates+r.Unknown == 0 }

// Restore ends again, in the database, what was ended. Whose certificates were
// ended because they were revoked or deleted is revoked, for people to look at;
// of others the certificates are ended. An id that was deleted and registered
// again has other certificates, and is let be. It may be done again, and whoever
// does it finishes what another one began.
func (g *Guard) Restore(ctx context.Context, ended []*enroll.Ended, source string) (*Restored, error) {
	done := &Restored{}
	if len(ended) == 0 {
		return done, nil
	}
	standing, err := g.store.StandingCertificates(ctx)
	if err != nil {
		return nil, err
	}
	known, err := g.store.EndedCertificates(ctx, time.Unix(0, 0))
	if err != nil {
		return nil, err
	}
	bySerial := make(map[string]*enroll.Standing, len(standing))
	for _, c := range standing {
		bySerial[c.Serial] = c
	}
	knownEnded := make(map[string]bool, len(known))
	for _, e := range known {
		knownEnded[e.Serial] = true
	}
	revoked := map[string]bool{} // by tenant and id
	var unknown []*enroll.Ended
	for _, e := range ended {
		c := bySerial[e.Serial]
		switch {
		case c == nil && !knownEnded[e.Serial]:
			unknown = append(unknown, e)
		case c == nil:
		case e.Why != enroll.WhyReplaced:
			if who := c.TenantID + "\x00" + c.AgentID; !revoked[who] {
				revoked[who] = true
				if err := g.revoke(ctx, c, e, source); err != nil {
					return nil, err
				}
				done.Agents = append(done.Agents, c.AgentName)
			}
		case c.EndsAt.IsZero():
			if ended, err := g.store.EndCertificate(ctx, c, g.now()); err != nil {
				return nil, err
			} else if ended {
				done.Certificates++
			}
		}
	}
	done.Unknown = len(unknown)
	return done, g.store.KeepEnded(ctx, unknown)
}

func (g *Guard) revoke(ctx context.Context, c *enroll.Standing, e *enroll.Ended, source string) error {
	from := []api.Lifecycle{api.LifecycleActive, api.LifecycleInactive}
	moved, err := g.store.SetLifecycle(ctx, c.TenantID, c.AgentID, from, api.LifecycleRevoked, g.now())
	if err != nil || !moved {
		return err
	}
	g.log.ErrorContext(ctx, "an agent that was revoked or deleted was active in the database, and is revoked again: an older database was put back",
		"agent", c.AgentID, "name", c.AgentName, "tenant", c.TenantID, "was", e.Why, "on", e.At, "known_from", source)
	g.audit.Audit(ctx, access.Event{
		TenantID: c.TenantID, Actor: "system", Action: "agent.revoke", Object: c.AgentID, Outcome: "ok",
		Detail: fmt.Sprintf("it was %s on %s, which the database had forgotten; known from %s", e.Why, e.At.UTC().Format(time.RFC3339), source),
	})
	return nil
}

// Start restores what the record knows and the database has forgotten, and then
// has the record know what the database does. Before it has, nobody may be let in.
func (g *Guard) Start(ctx context.Context, recorded []*enroll.Ended) error {
	done, err := g.Restore(ctx, recorded, "the server's own record")
	if err != nil {
		return fmt.Errorf("compare the database with the record of revoked certificates: %w", err)
	}
	if !done.Nothing() {
		g.log.ErrorContext(ctx, "the database had forgotten revocations that the record has: an older one was put back; what was revoked is revoked again",
			"agents", len(done.Agents), "certificates", done.Certificates, "unknown_certificates", done.Unknown)
	}
	if err := g.store.ForgetEnded(ctx, g.now().Add(-g.recovery)); err != nil {
		return err
	}
	return g.AllAgentsChanged(ctx)
}

// AgentsChanged implements fleet.Watcher.
func (g *Guard) AgentsChanged(ctx context.Context, changes []fleet.Change) error {
	ids := make([]string, len(changes))
	for i, c := range changes {
		ids[i] = c.AgentID
	}
	return g.note(ctx, ids)
}

// note has the record know what was ended of some agents.
func (g *Guard) note(ctx context.Context, agents []string) error {
	ended, err := g.store.EndedCertificatesOf(ctx, agents)
	if err != nil {
		return err
	}
	return g.record.Add(ended)
}

// AllAgentsChanged implements fleet.Watcher.
func (g *Guard) AllAgentsChanged(ctx context.Context) error {
	ended, err := g.Ended(ctx)
	if err != nil {
		return err
	}
	return g.record.Add(ended)
}

// Ended returns the certificates that were ended before their time, or will be
// soon, as long as they would be worth something otherwise: to get a new one with,
// also for a while after their end.
func (g *Guard) Ended(ctx context.Context) ([]*enroll.Ended, error) {
	return g.store.EndedCertificates(ctx, g.now().Add(-g.recovery))
}

// keep puts what was ended of an agent on the record, before anybody is told.
func (g *Guard) keep(ctx context.Context, agentID string) error {
	// Who asked may be gone; what was done stands all the same.
	ctx = context.WithoutCancel(ctx)
	err := g.note(ctx, []string{agentID})
	if err == nil {
		return nil
	}
	g.log.ErrorContext(ctx, "a revocation stands, and is not on the record yet: it is tried again every two seconds", "agent", agentID, "error", err)
	return fault.Wrap(err, fault.Unavailable, "revocation_not_recorded",
		"it is done, and agent "+agentID+" is out; but the server could not write down so beside its database, and a backup that is put back now would bring the agent back: "+
			"the server's log says what keeps it from writing, and it tries again by itself")
}

// Agents returns a store in which who is revoked or deleted is on the record when
// that returns.
func (g *Guard) Agents(s fleet.Store) fleet.Store { return &agents{s, g} }

type agents struct {
	fleet.Store
	guard *Guard
}

// SetLifecycle implements fleet.Store.
func (a *agents) SetLifecycle(ctx context.Context, tenant, id string, from []api.Lifecycle, to api.Lifecycle, at time.Time) (bool, error) {
	moved, err := a.Store.SetLifecycle(ctx, tenant, id, from, to, at)
	if err == nil && to == api.LifecycleRevoked {
		// Also when it was so before: that may not be on the record yet.
		err = a.guard.keep(ctx, id)
	}
	return moved, err
}

// DeleteAgent implements fleet.Store.
func (a *agents) DeleteAgent(ctx context.Context, tenant, id string) error {
	if err := a.Store.DeleteAgent(ctx, tenant, id); err != nil {
		return err
	}
	return a.guard.keep(ctx, id)
}

// Enrolments returns a store in which the certificates that a new registration has
// ended are on the record when it returns.
func (g *Guard) Enrolments(s enroll.Store) enroll.Store { return &enrolments{s, g} }

type enrolments struct {
	enroll.Store
	guard *Guard
}

// Enrol implements enroll.Store.
func (e *enrolments) Enrol(ctx context.Context, n *enroll.Enrolment) error {
	if err := e.Store.Enrol(ctx, n); err != nil || !n.Resume {
		return err
	}
	if err := e.guard.keep(ctx, n.Agent.ID); err != nil {
		// The agent has its new certificate; the old one goes on the record later.
		return nil //nolint:nilerr // keep has logged it, and it is tried again
	}
	return nil
}
