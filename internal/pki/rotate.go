package pki

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// Rotation returns where the rotation stands, as this server knows it; it does
// not count agents. Each step is one write, so that a crash leaves the step
// undone or done.
func (a *Authority) Rotation() api.CAStatus {
	s := a.state.Load()
	r := api.CAStatus{Phase: s.phase(), Since: s.changedAt, Trust: s.trust, Authorities: []api.CertificateAuthority{}}
	state := "retiring" // until the one that issues
	for _, g := range s.all {
		pin := PinOf(g.root)
		if g == s.active {
			state = "active"
		}
		r.Authorities = append(r.Authorities, api.CertificateAuthority{
			ID: g.id, State: state, Pin: hex.EncodeToString(pin[:]), MadeAt: g.madeAt, NotAfter: g.root.NotAfter, IssuesUntil: g.intermediate.NotAfter,
		})
		if g == s.active {
			state = "next"
		}
	}
	return r
}

func (s *state) phase() api.CAPhase {
	switch {
	case len(s.all) == 1:
		return api.CASteady
	case s.active == s.all[len(s.all)-1]:
		return api.CAActivated
	}
	return api.CAPrepared
}

// Prepare makes the next authority. From then on it is trusted, and issues
// nothing. When there is one already, it is a fault of kind Conflict.
func (a *Authority) Prepare(ctx context.Context) error {
	return a.step(ctx, api.CASteady, func(b *bundle) error {
		next, err := newGeneration(&b.Generations[0], a.now())
		if err != nil {
			return fmt.Errorf("make the next authority: %w", err)
		}
		b.Generations = append(b.Generations, *next)
		return nil
	})
}

// Activate has the next authority issue. Its intermediate is signed by the root
// before too, so that who trusts only that one still believes the servers.
func (a *Authority) Activate(ctx context.Context) error {
	return a.step(ctx, api.CAPrepared, func(b *bundle) error {
		b.Active = len(b.Generations) - 1
		return nil
	})
}

// Retire ends the trust in the authority before the one that issues. The caller
// sees to it that nobody needs it any more.
func (a *Authority) Retire(ctx context.Context) error {
	return a.step(ctx, api.CAActivated, func(b *bundle) error {
		b.Generations, b.Active = b.Generations[b.Active:], 0
		b.Generations[0].CrossCert = nil
		return nil
	})
}

var nextStep = map[api.CAPhase]string{
	api.CASteady: "`stella ca prepare` makes the next authority", api.CAPrepared: "`stella ca activate` has the next authority issue",
	api.CAActivated: "`stella ca retire` ends the trust in the one before",
}

// step changes the bundle, if the rotation is in a phase; of several that try,
// one does.
func (a *Authority) step(ctx context.Context, from api.CAPhase, change func(b *bundle) error) error {
	for {
		if err := a.Reload(ctx); err != nil {
			return err
		}
		s := a.state.Load()
		if at := s.phase(); at != from {
			return fault.New(fault.Conflict, "ca_phase", "the rotation is in the phase %q, and this step is for the phase %q: %s", at, from, nextStep[at])
		}
		if wait := s.changedAt.Add(a.settle).Sub(a.now()); wait > 0 && from != api.CASteady {
			return fault.New(fault.Conflict, "ca_settling", "other servers may not know of the step before yet: try again in %s", wait.Round(time.Second))
		}
		b, err := a.open(s.sealed)
		if err != nil {
			return err
		}
		if err := change(b); err != nil {
			return err
		}
		b.ChangedAt = a.now()
		sealed, err := sealBundle(a.box, b)
		if err != nil {
			return err
		}
		done, err := a.keys.SwapKey(ctx, bundleName, s.sealed, sealed)
		if err != nil {
			return fmt.Errorf("keep the certificate authority: %w", err)
		}
		if done {
			return a.take(sealed, b)
		}
		// Somebody else has changed it, or has sealed it anew.
	}
}

// presented is the chain that a server shows after its leaf: all by which a
// client that trusts one of the roots, or knows the pin of one, believes it.
func (s *state) presented() []*x509.Certificate {
	out := []*x509.Certificate{s.active.intermediate}
	if s.active.cross != nil {
		out = append(out, s.active.cross)
	}
	out = append(out, s.active.root)
	for _, g := range s.all {
		if g != s.active {
			out = append(out, g.root)
		}
	}
	return out
}
