// Package secret keeps secrets under names, so that targets and tasks refer to
// them (secret://name) and hold none themselves.
//
// A value is encrypted at rest, and no operation gives it back to people. A
// reference is resolved when an agent gets a task, never before: so a secret is
// rotated without touching what refers to it. The agent puts the values in.
// The package knows no SQL, no HTTP and no executor.
package secret

import (
	"context"
	"time"

	"stella-ops.org/stella/internal/filter"
)

// MaxValue is the most that a secret may hold, in bytes.
const MaxValue = 64 << 10

// Secret is a named value.
type Secret struct {
	TenantID string
	Name     string
	// Version counts the values that the name has had, from 1.
	Version   int64
	Sealed    []byte // the value, encrypted
	CreatedBy string
	UpdatedBy string
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Store keeps secrets. A missing one is a fault of kind NotFound.
type Store interface {
	// PutSecret makes a secret, or gives one that is there another value; it
	// fills in the version, and who made it and when.
	PutSecret(ctx context.Context, s *Secret) error
	Secret(ctx context.Context, tenant, name string) (*Secret, error)
	// Secrets returns a page of secrets, by name unless the filter says another
	// order.
	Secrets(ctx context.Context, tenant string, f Filter) ([]*Secret, error)
	DeleteSecret(ctx context.Context, tenant, name string) error
}

// Schema is what secrets can be asked by.
var Schema = &filter.Schema{
	Of: "secrets", ID: "name", Order: "name",
	Fields: []filter.Field{
		{Name: "name", Sortable: true, Unique: true},
		{Name: "version", Kind: filter.Number},
		{Name: "createdBy", Aliases: []string{"by"}},
		{Name: "updatedBy"},
		{Name: "createdAt", Aliases: []string{"created"}, Kind: filter.Time},
		{Name: "updatedAt", Aliases: []string{"updated"}, Kind: filter.Time},
	},
}

var _ filter.Row = (*Secret)(nil)

// Field implements filter.Row.
func (s *Secret) Field(name string, _ time.Time) any {
	switch name {
	case "name":
		return s.Name
	case "version":
		return s.Version
	case "createdBy":
		return s.CreatedBy
	case "updatedBy":
		return s.UpdatedBy
	case "createdAt":
		return s.CreatedAt
	case "updatedAt":
		return s.UpdatedAt
	}
	return nil
}

// Filter picks secrets.
type Filter struct {
	// Query is what must match, the order, and where the page begins.
	Query filter.Query
	Limit int
}
