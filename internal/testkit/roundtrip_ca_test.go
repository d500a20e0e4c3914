package testkit_test

import (
	"context"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

// tripsOfCA go once round, and come last: at their end nobody trusts any more
// what the round trip began with.
var tripsOfCA = []row{
	{"ca.status", func(w *trip) {
		s, err := w.admin.CA(w.Context())
		w.ok(err)
		if s.Phase != api.CASteady || len(s.Authorities) != 1 || s.Authorities[0].State != "active" {
			w.Errorf("%+v", s)
		}
		_, err = w.viewer.CA(w.Context())
		w.refused(err, 403, "role_missing")
	}, ""},
	{"ca.rotate-signing-key", func(w *trip) {
		_, err := w.viewer.RotateSigningKey(w.Context())
		w.refused(err, 403, "role_missing")
		s, err := w.admin.RotateSigningKey(w.Context())
		w.ok(err)
		if n := len(s.SigningKeys); n != 2 || s.SigningKeys[0].ID == s.SigningKeys[1].ID {
			w.Errorf("%+v", s.SigningKeys)
		}
	}, ""},
	{"ca.prepare", caStep((*client.Client).PrepareCA, api.CAPrepared), ""},
	{"ca.activate", caStep((*client.Client).ActivateCA, api.CAActivated), ""},
	{"ca.retire", func(w *trip) {
		// An agent of the round trip is left that has not followed.
		_, err := w.admin.RetireCA(w.Context(), api.CARetireRequest{LoseDead: true})
		w.refused(err, 409, "agents_would_be_lost")
		w.ok(w.admin.DeleteAgent(w.Context(), "other"))
		caStep(func(c *client.Client, ctx context.Context) (*api.CAStatus, error) {
			return c.RetireCA(ctx, api.CARetireRequest{})
		}, api.CASteady)(w)
	}, ""},
}

// caStep takes a step, which is refused to viewers and for the second time.
func caStep(step func(*client.Client, context.Context) (*api.CAStatus, error), to api.CAPhase) func(w *trip) {
	return func(w *trip) {
		_, err := step(w.viewer, w.Context())
		w.refused(err, 403, "role_missing")
		s, err := step(w.admin, w.Context())
		w.ok(err)
		if s.Phase != to {
			w.Errorf("the phase is %s, want %s", s.Phase, to)
		}
		if to != api.CASteady { // nobody trusts the server any more otherwise
			_, err = step(w.admin, w.Context())
			w.refused(err, 409, "ca_phase")
		}
	}
}
