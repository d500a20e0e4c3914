package access

import (
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/filter"
)

// TokenSchema is what API tokens can be asked by.
var TokenSchema = &filter.Schema{
	Of: "API tokens", ID: "id", Order: "-createdAt",
	Fields: []filter.Field{
		{Name: "id", Sortable: true},
		{Name: "state", Aliases: []string{"status"}, Kind: filter.Word, Words: []string{"usable", "expired", "revoked"}},
		{Name: "name", Sortable: true},
		{Name: "role", Kind: filter.Word, Words: []string{string(api.RoleViewer), string(api.RoleOperator), string(api.RoleAdmin)}},
		{Name: "createdBy", Aliases: []string{"by"}},
		{Name: "createdAt", Aliases: []string{"created"}, Kind: filter.Time, Sortable: true},
		{Name: "expiresAt", Aliases: []string{"expires"}, Kind: filter.Time, Sortable: true},
		{Name: "lastUsedAt", Aliases: []string{"lastUsed"}, Kind: filter.Time, Sortable: true},
	},
}

// AuditSchema is what the audit log can be asked by.
var AuditSchema = &filter.Schema{
	Of: "audit events", ID: "seq", Order: "-seq",
	Fields: []filter.Field{
		{Name: "seq", Kind: filter.Number, Sortable: true},
		{Name: "at", Aliases: []string{"time"}, Kind: filter.Time, Sortable: true},
		{Name: "actor", Sortable: true},
		{Name: "action", Sortable: true},
		{Name: "object"},
		{Name: "remote"},
		{Name: "outcome", Kind: filter.Word, Words: []string{"ok", "denied", "failed"}},
		{Name: "detail"},
	},
}

var (
	_ filter.Row = (*APIToken)(nil)
	_ filter.Row = (*Event)(nil)
)

// Field implements filter.Row.
func (t *APIToken) Field(name string, now time.Time) any {
	switch name {
	case "id":
		return t.ID
	case "state":
		return t.State(now)
	case "name":
		return t.Name
	case "role":
		return string(t.Role)
	case "createdBy":
		return t.CreatedBy
	case "createdAt":
		return t.CreatedAt
	case "expiresAt":
		return t.ExpiresAt
	case "lastUsedAt":
		return t.LastUsedAt
	}
	return nil
}

// Field implements filter.Row.
func (e *Event) Field(name string, _ time.Time) any {
	switch name {
	case "seq":
		return e.Seq
	case "at":
		return e.At
	case "actor":
		return e.Actor
	case "action":
		return e.Action
	case "object":
		return e.Object
	case "remote":
		return e.Remote
	case "outcome":
		return e.Outcome
	case "detail":
		return e.Detail
	}
	return nil
}

// Filter picks API tokens, or events of the audit log.
type Filter struct {
	// Query is what must match, the order (the newest first when it says
	// none), and where the page begins.
	Query filter.Query
	Limit int
}
