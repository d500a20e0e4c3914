package client

import (
	"context"
	"iter"

	"stella-ops.org/stella/api"
)

// AuditFilter picks a page of the audit log.
type AuditFilter struct {
	Cursor string
	Limit  int
}

// AuditPage returns one page of the audit log, the newest first.
func (c *Client) AuditPage(ctx context.Context, f AuditFilter) (*api.AuditList, error) {
	return get[api.AuditList](ctx, c, "/api/v1/audit", newQuery(f.Cursor, f.Limit).values)
}

// Audit walks the audit log, the newest first.
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
