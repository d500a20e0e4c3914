package client

import (
	"context"
	"iter"

	"stella-ops.org/stella/api"
)

// AuditFilter picks events of the audit log.
type AuditFilter struct {
	// Filter is what must match, in the language that docs/filter.md
	// describes, and Sort the order; the newest come first when it is empty.
	Filter string
	Sort   string
	// Cursor begins behind a page, and Limit is how long a page may be; the
	// server chooses when it is 0.
	Cursor string
	Limit  int
}

// AuditPage returns one page of the audit log.
func (c *Client) AuditPage(ctx context.Context, f AuditFilter) (*api.AuditList, error) {
	return get[api.AuditList](ctx, c, "/api/v1/audit", newQuery(f.Filter, f.Sort, f.Cursor, f.Limit).values)
}

// Audit walks the events that match, a page at a time.
func (c *Client) Audit(ctx context.Context, f AuditFilter) iter.Seq2[api.AuditEvent, error] {
	return pages(func(cursor string) ([]api.AuditEvent, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		list, err := c.AuditPage(ctx, f)
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
}
