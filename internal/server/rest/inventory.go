package rest

import (
	"context"
	"net/http"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/target"
)

// inventory adds what should run, beside what does.
func (s *Server) inventory() {
	type query struct {
		Page
		entries []api.InventoryEntry
	}
	list(s, s.operation(http.MethodGet, "/api/v1/inventory", "inventory.list", "Compare what should run on targets with what runs there", viewer), target.Schema,
		func(ctx context.Context, in *query, q filter.Query) ([]*target.Target, error) {
			found, err := s.Targets.List(ctx, principal(ctx).TenantID, target.Filter{Query: q, Limit: in.Limit})
			if err != nil {
				return nil, err
			}
			in.entries, err = s.Tasks.Inventory(ctx, found)
			return found, err
		},
		func(_ context.Context, in *query, _ []*target.Target, next string) api.Inventory {
			return api.Inventory{Items: in.entries, Next: next}
		})
}
