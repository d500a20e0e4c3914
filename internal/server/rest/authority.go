package rest

import (
	"context"
	"net/http"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
)

// authority adds what people do with the certificate authority. It belongs to
// the installation, and so to the tenant that exists from the start.
func (s *Server) authority() {
	answer := func(ctx context.Context, do func(ctx context.Context) (*api.CAStatus, error)) (api.CAStatus, error) {
		if err := ownersOnly(ctx, "the certificate authority is the whole installation's: an admin"); err != nil {
			return api.CAStatus{}, err
		}
		v, err := do(ctx)
		if err != nil {
			return api.CAStatus{}, err
		}
		v.SigningKeys = s.Signing.Keys()
		return *v, nil
	}
	handle(s, s.operation(http.MethodGet, "/api/v1/ca", "ca.status", "Show the certificate authority, and who has followed its rotation", admin),
		func(ctx context.Context, _ *none) (api.CAStatus, error) { return answer(ctx, s.Rotation.Status) })
	handle(s, s.operation(http.MethodPost, "/api/v1/ca/prepare", "ca.prepare", "Make the next certificate authority, and have it trusted", admin),
		func(ctx context.Context, _ *none) (api.CAStatus, error) { return answer(ctx, s.Rotation.Prepare) })
	handle(s, s.operation(http.MethodPost, "/api/v1/ca/activate", "ca.activate", "Have the next certificate authority issue", admin),
		func(ctx context.Context, _ *none) (api.CAStatus, error) { return answer(ctx, s.Rotation.Activate) })
	handle(s, s.operation(http.MethodPost, "/api/v1/ca/signing-key", "ca.rotate-signing-key", "Make the next key that signs tasks and commands", admin),
		func(ctx context.Context, _ *none) (api.CAStatus, error) {
			return answer(ctx, func(ctx context.Context) (*api.CAStatus, error) {
				if err := s.Signing.Rotate(ctx); err != nil {
					return nil, err
				}
				return s.Rotation.Status(ctx)
			})
		})
	type retire struct{ Body api.CARetireRequest }
	handle(s, s.operation(http.MethodPost, "/api/v1/ca/retire", "ca.retire", "End the trust in the certificate authority before", admin),
		func(ctx context.Context, in *retire) (api.CAStatus, error) {
			return answer(ctx, func(ctx context.Context) (*api.CAStatus, error) { return s.Rotation.Retire(ctx, in.Body.LoseDead) })
		})
}

// ownersOnly refuses people of other tenants than the one that exists from the
// start, to whom the installation belongs. what says what is theirs, and who is
// needed.
func ownersOnly(ctx context.Context, what string) error {
	if p := principal(ctx); p.TenantID != access.DefaultTenant {
		return fault.New(fault.Forbidden, "not_your_installation", "%s of the tenant %q is needed", what, access.DefaultTenant)
	}
	return nil
}
