// Package access knows who may do what: API tokens with their roles, the
// identities that certificates prove, and the audit log.
//
// It knows no SQL and no HTTP.
package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
	"time"

	"github.com/google/uuid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// DefaultTenant is the tenant that exists from the start.
const DefaultTenant = "default"

// Principal is who is asking.
type Principal struct {
	TenantID string
	Name     string // of the token, as in "initial admin"
	Role     api.Role
	TokenID  string

	hash string // of the token
}

// Actor is how the audit log names the principal.
func (p *Principal) Actor() string { return "token:" + p.TokenID + " (" + p.Name + ")" }

var rank = map[api.Role]int{api.RoleViewer: 1, api.RoleOperator: 2, api.RoleAdmin: 3}

// May reports whether a principal's role includes another.
func (p *Principal) May(role api.Role) bool { return rank[p.Role] >= rank[role] && rank[role] > 0 }

// APIToken is a token of a person or a script. Only its hash is kept.
type APIToken struct {
	ID         string
	TenantID   string
	Hash       string
	Name       string
	Role       api.Role
	CreatedBy  string
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	RevokedAt  time.Time
	LastUsedAt time.Time
}

// State is usable, expired or revoked.
func (t *APIToken) State(now time.Time) string {
	switch {
	case !t.RevokedAt.IsZero():
		return "revoked"
	case !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt):
		return "expired"
	}
	return "usable"
}

// Store keeps API tokens.
type Store interface {
	InsertAPIToken(ctx context.Context, t *APIToken) error
	// APITokenByHash returns nil when there is none.
	APITokenByHash(ctx context.Context, hash string) (*APIToken, error)
	// APITokens returns a page of a tenant's tokens, the newest first unless
	// the filter says another order.
	APITokens(ctx context.Context, tenant string, f Filter) ([]*APIToken, error)
	// RevokeAPIToken ends a token; a missing one is a fault of kind NotFound.
	RevokeAPIToken(ctx context.Context, tenant, id string, at time.Time) error
	// TouchAPIToken notes a use; callers do so at most once a minute.
	TouchAPIToken(ctx context.Context, id string, at time.Time) error
	// CountAPITokens counts the tokens of all tenants, ended ones included.
	CountAPITokens(ctx context.Context) (int, error)
}

// Service makes and checks API tokens. It is safe for concurrent use.
type Service struct {
	store Store
	now   func() time.Time
}

// NewService returns a service over a store.
func NewService(store Store, now func() time.Time) *Service {
	return &Service{store: store, now: now}
}

// Authenticate returns whose token the text is, or a fault.
func (s *Service) Authenticate(ctx context.Context, text string) (*Principal, error) {
	t, err := s.store.APITokenByHash(ctx, hashToken(text))
	if err != nil {
		return nil, err
	}
	now := s.now()
	if t == nil || t.State(now) != "usable" {
		return nil, fault.New(fault.Unauthenticated, "unauthenticated",
			"the API token is unknown, expired or revoked: log in again with `stella login`")
	}
	if now.Sub(t.LastUsedAt) > time.Minute {
		// Only a note for people; a store that cannot take it now must not
		// keep anybody out.
		_ = s.store.TouchAPIToken(ctx, t.ID, now)
	}
	return &Principal{TenantID: t.TenantID, Name: t.Name, Role: t.Role, TokenID: t.ID, hash: t.Hash}, nil
}

// Standing looks again at the token that a principal has shown, for what goes on
// for longer than a request: an error of kind Unauthenticated says why it is good no
// more.
func (s *Service) Standing(ctx context.Context, p *Principal) error {
	t, err := s.store.APITokenByHash(ctx, p.hash)
	if err != nil {
		return err
	}
	state := "gone"
	if t != nil {
		state = t.State(s.now())
	}
	switch state {
	case "usable":
		return nil
	case "expired":
		return fault.New(fault.Unauthenticated, "unauthenticated", "the API token %q has expired: log in again with `stella login`", p.Name)
	}
	return fault.New(fault.Unauthenticated, "unauthenticated", "the API token %q was revoked: log in again with `stella login`", p.Name)
}

// Create makes a token and returns it with its text, which is not kept. A
// zero ttl makes one that never expires.
func (s *Service) Create(ctx context.Context, tenant, by, name string, role api.Role, ttl time.Duration) (*APIToken, string, error) {
	if rank[role] == 0 {
		return nil, "", fault.InvalidField("body.role", "%q is no role: use viewer, operator or admin", role)
	}
	if strings.TrimSpace(name) == "" {
		return nil, "", fault.InvalidField("body.name", "say whom the token is for")
	}
	raw := make([]byte, 25)
	_, _ = rand.Read(raw) // never fails: crypto/rand ends the process instead
	text := "stl_" + strings.ToLower(base32.StdEncoding.EncodeToString(raw))
	now := s.now()
	t := &APIToken{
		ID: uuid.Must(uuid.NewV7()).String(), TenantID: tenant, Hash: hashToken(text),
		Name: name, Role: role, CreatedBy: by, CreatedAt: now,
	}
	if ttl > 0 {
		t.ExpiresAt = now.Add(ttl)
	}
	return t, text, s.store.InsertAPIToken(ctx, t)
}

// First makes the first admin token of a new installation; it returns an empty
// text when there is any token already.
func (s *Service) First(ctx context.Context) (string, error) {
	n, err := s.store.CountAPITokens(ctx)
	if err != nil || n > 0 {
		return "", err
	}
	_, text, err := s.Create(ctx, DefaultTenant, "system", "initial admin", api.RoleAdmin, 0)
	return text, err
}

// List returns a page of a tenant's tokens, the newest first unless the filter
// says another order.
func (s *Service) List(ctx context.Context, tenant string, f Filter) ([]*APIToken, error) {
	return s.store.APITokens(ctx, tenant, f)
}

// Revoke ends a token at once.
func (s *Service) Revoke(ctx context.Context, tenant, id string) error {
	return s.store.RevokeAPIToken(ctx, tenant, id, s.now())
}

// The tokens are random and long, so a plain hash keeps them safe, and looking
// one up by its hash tells nothing by its time.
func hashToken(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
