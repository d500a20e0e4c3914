package artifact

import (
	"context"
	"time"

	"stella-ops.org/stella/internal/filter"
)

// Schema is what artifacts can be asked by.
var Schema = &filter.Schema{
	Of: "artifacts", ID: "digest", Order: "-createdAt",
	Fields: []filter.Field{
		{Name: "digest", Sortable: true},
		{Name: "name", Sortable: true},
		{Name: "mediaType"},
		{Name: "size", Kind: filter.Number, Sortable: true},
		{Name: "received", Kind: filter.Number},
		{Name: "complete", Kind: filter.Bool},
		{Name: "createdBy", Aliases: []string{"by"}},
		{Name: "createdAt", Aliases: []string{"created"}, Kind: filter.Time, Sortable: true},
		{Name: "completedAt", Aliases: []string{"completed"}, Kind: filter.Time},
		{Name: "lastUsedAt", Aliases: []string{"lastUsed"}, Kind: filter.Time},
	},
}

var _ filter.Row = (*Artifact)(nil)

// Field implements filter.Row.
func (a *Artifact) Field(name string, _ time.Time) any {
	switch name {
	case "digest":
		return a.Digest
	case "name":
		return a.Name
	case "mediaType":
		return a.MediaType
	case "size":
		return a.Size
	case "received":
		return a.Received
	case "complete":
		return a.Complete
	case "createdBy":
		return a.CreatedBy
	case "createdAt":
		return a.CreatedAt
	case "completedAt":
		return a.CompletedAt
	case "lastUsedAt":
		return a.LastUsedAt
	}
	return nil
}

// Filter picks artifacts; the newest come first.
type Filter struct {
	Name string
	// Query is what else must match, the order, and where the page begins.
	Query filter.Query
	Limit int
}

// Where is all that an artifact must match, as one expression.
func (f *Filter) Where() filter.Expr { return filter.All(filter.Is("name", f.Name), f.Query.Where) }

// List returns a page of artifacts, the newest first unless the filter says
// another order.
func (s *Service) List(ctx context.Context, tenant string, f Filter) ([]*Artifact, error) {
	return s.store.Artifacts(ctx, tenant, f)
}
