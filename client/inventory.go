package client

import (
	"context"
	"iter"

	"stella-ops.org/stella/api"
)

const inventoryPath = "/api/v1/inventory"

// InventoryFilter picks targets.
type InventoryFilter struct {
	// Filter is what must match, in the language that docs/filter.md
	// describes, and Sort the order; by id when it is empty.
	Filter string
	Sort   string
	// Cursor begins behind a page, and Limit is how long a page may be; the
	// server chooses when it is 0.
	Cursor string
	Limit  int
}

// InventoryPage returns one page of what should run on targets, beside what did
// when somebody looked last.
func (c *Client) InventoryPage(ctx context.Context, f InventoryFilter) (*api.Inventory, error) {
	return get[api.Inventory](ctx, c, inventoryPath, newQuery(f.Filter, f.Sort, f.Cursor, f.Limit).values)
}

// Inventory walks all targets that match, a page at a time.
func (c *Client) Inventory(ctx context.Context, f InventoryFilter) iter.Seq2[api.InventoryEntry, error] {
	return pages(func(cursor string) ([]api.InventoryEntry, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		list, err := c.InventoryPage(ctx, f)
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
}
