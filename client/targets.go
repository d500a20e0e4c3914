package client

import (
	"context"
	"iter"
	"net/http"

	"stella-ops.org/stella/api"
)

const targetsPath = "/api/v1/targets"

// TargetFilter picks targets; every field that is set must match.
type TargetFilter struct {
	Name        string
	Kind        string
	Environment string
	// Agent is the id or name of the agent that reaches the target.
	Agent  string
	Labels map[string]string
	// Filter is what else must match, in the language that docs/filter.md
	// describes, and Sort the order, as in -createdAt,name.
	Filter string
	Sort   string
	// Cursor begins behind a page, and Limit is how long a page may be; the
	// server chooses when it is 0.
	Cursor string
	Limit  int
}

// TargetPage returns one page of the targets that match.
func (c *Client) TargetPage(ctx context.Context, f TargetFilter) (*api.TargetList, error) {
	q := newQuery(f.Filter, f.Sort, f.Cursor, f.Limit)
	q.set("name", f.Name)
	q.set("kind", f.Kind)
	q.set("environment", f.Environment)
	q.set("agent", f.Agent)
	q.labels(f.Labels)
	return get[api.TargetList](ctx, c, targetsPath, q.values)
}

// Targets walks all targets that match, a page at a time.
func (c *Client) Targets(ctx context.Context, f TargetFilter) iter.Seq2[api.Target, error] {
	return pages(func(cursor string) ([]api.Target, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		list, err := c.TargetPage(ctx, f)
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
}

// Target returns the target with that id or name.
func (c *Client) Target(ctx context.Context, idOrName string) (*api.Target, error) {
	path, err := item(targetsPath, idOrName)
	if err != nil {
		return nil, err
	}
	return get[api.Target](ctx, c, path, nil)
}

// CreateTarget makes a target.
func (c *Client) CreateTarget(ctx context.Context, req api.TargetRequest) (*api.Target, error) {
	return change[api.Target](ctx, c, http.MethodPost, targetsPath, req)
}

// ReplaceTarget says anew what a target is; its id and kind stay.
func (c *Client) ReplaceTarget(ctx context.Context, idOrName string, req api.TargetRequest) (*api.Target, error) {
	path, err := item(targetsPath, idOrName)
	if err != nil {
		return nil, err
	}
	return change[api.Target](ctx, c, http.MethodPut, path, req)
}

// DeleteTarget forgets a target; what runs there stays as it is.
func (c *Client) DeleteTarget(ctx context.Context, idOrName string) error {
	path, err := item(targetsPath, idOrName)
	if err != nil {
		return err
	}
	_, err = change[api.Deleted](ctx, c, http.MethodDelete, path, nil)
	return err
}
