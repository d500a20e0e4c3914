package enroll

import (
	"time"

	"stella-ops.org/stella/internal/filter"
)

// Schema is what registration tokens can be asked by.
var Schema = &filter.Schema{
	Of: "registration tokens", ID: "id", Order: "-createdAt",
	Fields: []filter.Field{
		{Name: "id", Sortable: true},
		{Name: "state", Aliases: []string{"status"}, Kind: filter.Word, Words: []string{"usable", "used", "expired", "revoked"}},
		{Name: "name", Sortable: true},
		{Name: "agentId"},
		{Name: "environment", Aliases: []string{"env"}},
		{Name: "group"},
		{Name: "cluster"},
		{Name: "platform"},
		{Name: "label", Kind: filter.Labels},
		{Name: "uses", Kind: filter.Number},
		{Name: "maxUses", Kind: filter.Number},
		{Name: "createdBy", Aliases: []string{"by"}},
		{Name: "createdAt", Aliases: []string{"created"}, Kind: filter.Time, Sortable: true},
		{Name: "expiresAt", Aliases: []string{"expires"}, Kind: filter.Time, Sortable: true},
	},
}

var _ filter.Row = (*Token)(nil)

// Field implements filter.Row.
func (t *Token) Field(name string, now time.Time) any {
	switch name {
	case "id":
		return t.ID
	case "state":
		return t.State(now)
	case "name":
		return t.Name
	case "agentId":
		return t.AgentID
	case "environment":
		return t.Environment
	case "group":
		return t.Group
	case "cluster":
		return t.Cluster
	case "platform":
		return t.Platform
	case "label":
		return t.Labels
	case "uses":
		return int64(t.Uses)
	case "maxUses":
		return int64(t.MaxUses)
	case "createdBy":
		return t.CreatedBy
	case "createdAt":
		return t.CreatedAt
	case "expiresAt":
		return t.ExpiresAt
	}
	return nil
}

// Filter picks registration tokens.
type Filter struct {
	// Query is what must match, the order (the newest first when it says
	// none), and where the page begins.
	Query filter.Query
	Limit int
}
