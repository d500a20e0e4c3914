package enroll

import (
	"context"
	"fmt"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// TrustCount is how many agents have their certificate under a trust.
type TrustCount struct {
	Trust    string
	Liveness api.Liveness
	Agents   int
}

// TrustStore tells which agents have followed a change of the authority.
type TrustStore interface {
	// TrustCounts counts the agents of all tenants that are not revoked.
	TrustCounts(ctx context.Context) ([]*TrustCount, error)
	// AgentsWithoutTrust names agents whose certificate was issued under
	// another trust, those that may still be heard first.
	AgentsWithoutTrust(ctx context.Context, trust string, limit int) ([]string, error)
}

// Authority is the certificate authority as it is rotated.
type Authority interface {
	Rotation() api.CAStatus
	Prepare(ctx context.Context) error
	Activate(ctx context.Context) error
	Retire(ctx context.Context) error
	Reload(ctx context.Context) error
}

// Rotation takes an installation from one certificate authority to the next,
// without any agent registering again. It is safe for concurrent use.
type Rotation struct {
	ca    Authority
	store TrustStore
}

// NewRotation returns the rotation of an authority.
func NewRotation(ca Authority, store TrustStore) *Rotation { return &Rotation{ca: ca, store: store} }

// waitingShown is how many agents are named that have not followed.
const waitingShown = 20

// Status says where the rotation stands, and who has not followed.
func (r *Rotation) Status(ctx context.Context) (*api.CAStatus, error) {
	if err := r.ca.Reload(ctx); err != nil {
		return nil, err
	}
	out := r.ca.Rotation()
	counts, err := r.store.TrustCounts(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range counts {
		out.Agents.Total += c.Agents
		switch {
		case c.Trust == out.Trust:
			out.Agents.Followed += c.Agents
		case c.Liveness == api.Dead:
			out.Agents.WaitingDead += c.Agents
		default:
			out.Agents.Waiting += c.Agents
		}
	}
	if out.Agents.Waiting+out.Agents.WaitingDead > 0 {
		if out.Agents.Names, err = r.store.AgentsWithoutTrust(ctx, out.Trust, waitingShown); err != nil {
			return nil, err
		}
	}
	return &out, nil
}

// Prepare makes the next authority, and has agents trust it beside the present
// one.
func (r *Rotation) Prepare(ctx context.Context) (*api.CAStatus, error) {
	return r.step(ctx, r.ca.Prepare)
}

// Activate has the next authority issue all certificates. Agents that do not
// trust it yet still believe the servers, for the present one vouches for it.
func (r *Rotation) Activate(ctx context.Context) (*api.CAStatus, error) {
	return r.step(ctx, r.ca.Activate)
}

// Retire ends the trust in the authority before. It is refused, with a fault of
// kind Conflict, while an agent that is heard would be lost; and while one that
// is not heard would be, unless loseDead says so.
func (r *Rotation) Retire(ctx context.Context, loseDead bool) (*api.CAStatus, error) {
	return r.step(ctx, func(ctx context.Context) error {
		s, err := r.Status(ctx)
		if err != nil {
			return err
		}
		if s.Phase != api.CAActivated {
			return r.ca.Retire(ctx) // which says what is wrong
		}
		who := strings.Join(s.Agents.Names, ", ")
		if s.Agents.Waiting > 0 {
			return fault.New(fault.Conflict, "agents_would_be_lost",
				"%d agents that are up have no certificate of the new authority yet, and would be lost: %s; they renew by themselves within a minute or so of a heartbeat, `stella ca status` shows how far they are",
				s.Agents.Waiting, who)
		}
		if s.Agents.WaitingDead > 0 && !loseDead {
			return fault.New(fault.Conflict, "agents_would_be_lost",
				"%d agents that are not heard have no certificate of the new authority, and would have to be registered again: %s; start them, or delete them, or say that they may be lost (`stella ca retire --lose-dead`)",
				s.Agents.WaitingDead, who)
		}
		return r.ca.Retire(ctx)
	})
}

func (r *Rotation) step(ctx context.Context, do func(ctx context.Context) error) (*api.CAStatus, error) {
	if err := do(ctx); err != nil {
		return nil, err
	}
	s, err := r.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("the step is done, and where it stands now could not be read: %w", err)
	}
	return s, nil
}
