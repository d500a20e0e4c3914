package target

import (
	"context"
	"time"

	"stella-ops.org/stella/internal/filter"
)

// Schema is what targets can be asked by.
var Schema = &filter.Schema{
	Of: "targets", ID: "id", Order: "id",
	Fields: []filter.Field{
		{Name: "id", Sortable: true},
		{Name: "name", Sortable: true, Unique: true},
		{Name: "kind", Kind: filter.Word, Words: Kinds, Sortable: true},
		{Name: "environment", Aliases: []string{"env"}, Sortable: true},
		{Name: "agent", Aliases: []string{"agentId"}, Kind: filter.Ref},
		{Name: "label", Kind: filter.Labels},
		{Name: "createdAt", Aliases: []string{"created"}, Kind: filter.Time, Sortable: true},
		{Name: "updatedAt", Aliases: []string{"updated"}, Kind: filter.Time},
	},
}

var _ filter.Row = (*Target)(nil)

// Field implements filter.Row.
func (t *Target) Field(name string, _ time.Time) any {
	switch name {
	case "id":
		return t.ID
	case "name":
		return t.Name
	case "kind":
		return t.Kind
	case "environment":
		return t.Environment
	case "agent":
		return t.AgentID
	case "label":
		return t.Labels
	case "createdAt":
		return t.CreatedAt
	case "updatedAt":
		return t.UpdatedAt
	}
	return nil
}

// Filter picks targets.
type Filter struct {
	Name        string
	Kind        string
	Environment string
	AgentID     string
	Labels      map[string]string
	// Query is what else must match, the order, and where the page begins.
	Query filter.Query
	Limit int
}

// Where is all that a target must match, as one expression.
func (f *Filter) Where() filter.Expr {
	return filter.All(
		filter.Is("name", f.Name), filter.Is("kind", f.Kind), filter.Is("environment", f.Environment),
		filter.Is("agent", f.AgentID), filter.HasLabels("label", f.Labels), f.Query.Where)
}

// List returns a page of targets, in the order of their ids unless the filter
// says another.
func (s *Service) List(ctx context.Context, tenant string, f Filter) ([]*Target, error) {
	var err error
	f.Query.Where, err = filter.Refer(f.Query.Where, "agent", func(name string) (string, error) {
		a, err := s.agents.Get(ctx, tenant, name)
		if err != nil {
			return "", err
		}
		return a.ID, nil
	})
	if err != nil {
		return nil, err
	}
	return s.store.Targets(ctx, tenant, f)
}
