package secret

import (
	"context"
	"strings"
	"time"

	"stella-ops.org/stella/internal/fault"
)

// Sealer encrypts what is kept at rest; what was sealed under one name does not
// open under another.
type Sealer interface {
	Seal(name string, plain []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// Service holds the rules about secrets. It is safe for concurrent use.
type Service struct {
	store Store
	seal  Sealer
	users func(ctx context.Context, tenant, name string) ([]string, error)
	now   func() time.Time
}

// NewService returns a service over a store. users names the targets that
// refer to a secret.
func NewService(store Store, seal Sealer, users func(ctx context.Context, tenant, name string) ([]string, error), now func() time.Time) *Service {
	return &Service{store: store, seal: seal, users: users, now: now}
}

// Set gives a secret a value, and makes it if there is none of that name. What
// is handed out to agents from now on is the new value.
func (s *Service) Set(ctx context.Context, tenant, by, name, value string) (*Secret, error) {
	if err := CheckName(name); err != nil {
		return nil, fault.InvalidField("path.name", "%v", err)
	}
	switch {
	case value == "":
		return nil, fault.InvalidField("body.value", "it is empty; `stella secret remove %s` removes a secret", name)
	case len(value) > MaxValue:
		return nil, fault.InvalidField("body.value", "it has %d bytes, and a secret holds at most %d", len(value), MaxValue)
	case strings.Contains(value, "\x00"):
		return nil, fault.InvalidField("body.value", "it has a NUL in it, which neither a key nor a variable can hold")
	}
	sealed, err := s.seal.Seal(SealName(tenant, name), []byte(value))
	if err != nil {
		return nil, err
	}
	now := s.now()
	sec := &Secret{TenantID: tenant, Name: name, Sealed: sealed, CreatedBy: by, UpdatedBy: by, CreatedAt: now, UpdatedAt: now}
	return sec, s.store.PutSecret(ctx, sec)
}

// Get returns what is known of a secret, and the targets that refer to it.
func (s *Service) Get(ctx context.Context, tenant, name string) (*Secret, []string, error) {
	sec, err := s.store.Secret(ctx, tenant, name)
	if err != nil {
		return nil, nil, err
	}
	users, err := s.users(ctx, tenant, sec.Name)
	return sec, users, err
}

// List returns a page of secrets, by name unless the filter says another order.
func (s *Service) List(ctx context.Context, tenant string, f Filter) ([]*Secret, error) {
	return s.store.Secrets(ctx, tenant, f)
}

// Remove removes a secret. While targets refer to it, it is a fault of kind
// Conflict, unless force is set.
func (s *Service) Remove(ctx context.Context, tenant, name string, force bool) error {
	if !force {
		users, err := s.users(ctx, tenant, name)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return fault.New(fault.Conflict, "secret_in_use",
				"the secret %s is used by %s: give the targets another first, or remove it all the same with force (--force)", name, strings.Join(users, ", "))
		}
	}
	return s.store.DeleteSecret(ctx, tenant, name)
}

// Check refuses names that no secret has: better now than when the task is
// handed out. at is the field to blame.
func (s *Service) Check(ctx context.Context, tenant, at string, names []string) error {
	for _, name := range names {
		_, err := s.store.Secret(ctx, tenant, name)
		if fault.KindOf(err) == fault.NotFound {
			return fault.InvalidField(at, "there is no secret %q: `stella secret set %s` makes it", name, name)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Values returns the values of secrets. One that is not there any more is a
// fault of kind NotFound that names it.
func (s *Service) Values(ctx context.Context, tenant string, names []string) (map[string]string, error) {
	if len(names) == 0 {
		return nil, nil //nolint:nilnil // no names have no values
	}
	values := make(map[string]string, len(names))
	for _, name := range names {
		sec, err := s.store.Secret(ctx, tenant, name)
		if err != nil {
			return nil, err
		}
		plain, err := s.seal.Open(SealName(tenant, name), sec.Sealed)
		if err != nil {
			return nil, err
		}
		values[name] = string(plain)
	}
	return values, nil
}

// SealName is what a secret's value is sealed under at rest.
func SealName(tenant, name string) string { return "secret/" + tenant + "/" + name }
