package client

import (
	"context"
	"fmt"
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

// AuditVerification says what is to be verified of the audit log. Lines are
// named by number and hash, as in 1042:5fec…
type AuditVerification struct {
	// Head is a line that was written down earlier and should be in the log;
	// empty for none.
	Head string
	// After is a line that is known to be good: what is behind it is verified;
	// the whole log when it is empty.
	After string
}

// VerifyAudit has the server verify the audit log, in as many requests as that
// takes, and returns what was found; that the log does not hold is no error.
func (c *Client) VerifyAudit(ctx context.Context, f AuditVerification) (*api.AuditVerification, error) {
	var from, lines int64
	after := f.After
	for {
		q := newQuery("", "", "", 0)
		q.set("head", f.Head)
		q.set("after", after)
		v, err := get[api.AuditVerification](ctx, c, "/api/v1/audit/verify", q.values)
		if err != nil {
			return nil, err
		}
		if from == 0 {
			from = v.From
		}
		lines += v.Lines
		v.From, v.Lines = from, lines
		if v.Next == "" || !v.Holds {
			return v, nil
		}
		if v.Next == after {
			return nil, fmt.Errorf("verify the audit log: the server does not get on behind line %s", after)
		}
		after = v.Next
	}
}
