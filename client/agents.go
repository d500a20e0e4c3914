package client

import (
	"context"
	"iter"
	"net/http"

	"stella-ops.org/stella/api"
)

const agentsPath = "/api/v1/agents"

// AgentFilter picks agents; every field that is set must match.
type AgentFilter struct {
	// Status is a word of any of the three vocabularies: online, degraded,
	// offline; active, inactive, revoked; live, stale, dead.
	Status      string
	Capability  string
	Name        string
	Group       string
	Environment string
	Labels      map[string]string
	// Filter is what else must match, in the language that docs/filter.md
	// describes, and Sort the order, as in -createdAt,name.
	Filter string
	Sort   string
	// Cursor begins behind a page, and Limit is how long a page may be; the
	// server chooses when it is 0.
	Cursor string
	Limit  int
}

// AgentPage returns one page of the agents that match.
func (c *Client) AgentPage(ctx context.Context, f AgentFilter) (*api.AgentList, error) {
	q := newQuery(f.Filter, f.Sort, f.Cursor, f.Limit)
	q.set("status", f.Status)
	q.set("capability", f.Capability)
	q.set("name", f.Name)
	q.set("group", f.Group)
	q.set("environment", f.Environment)
	q.labels(f.Labels)
	return get[api.AgentList](ctx, c, agentsPath, q.values)
}

// Agents walks all agents that match, a page at a time.
func (c *Client) Agents(ctx context.Context, f AgentFilter) iter.Seq2[api.Agent, error] {
	return pages(func(cursor string) ([]api.Agent, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		list, err := c.AgentPage(ctx, f)
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
}

// Agent returns the agent with that id or name.
func (c *Client) Agent(ctx context.Context, idOrName string) (*api.Agent, error) {
	path, err := item(agentsPath, idOrName)
	if err != nil {
		return nil, err
	}
	return get[api.Agent](ctx, c, path, nil)
}

// UpdateAgent changes an agent's labels or capabilities.
func (c *Client) UpdateAgent(ctx context.Context, idOrName string, u api.AgentUpdate) (*api.Agent, error) {
	path, err := item(agentsPath, idOrName)
	if err != nil {
		return nil, err
	}
	return change[api.Agent](ctx, c, http.MethodPut, path, u)
}

// DeleteAgent removes an agent and ends its identity.
func (c *Client) DeleteAgent(ctx context.Context, idOrName string) error {
	path, err := item(agentsPath, idOrName)
	if err != nil {
		return err
	}
	_, err = change[api.Deleted](ctx, c, http.MethodDelete, path, nil)
	return err
}

// ActivateAgent lets a deactivated agent work again.
func (c *Client) ActivateAgent(ctx context.Context, idOrName string) (*api.Agent, error) {
	return c.agentAction(ctx, idOrName, "activate")
}

// DeactivateAgent keeps an agent's identity and gives it no work.
func (c *Client) DeactivateAgent(ctx context.Context, idOrName string) (*api.Agent, error) {
	return c.agentAction(ctx, idOrName, "deactivate")
}

// RevokeAgent ends an agent's identity for ever; its record stays.
func (c *Client) RevokeAgent(ctx context.Context, idOrName string) (*api.Agent, error) {
	return c.agentAction(ctx, idOrName, "revoke")
}

func (c *Client) agentAction(ctx context.Context, idOrName, action string) (*api.Agent, error) {
	path, err := item(agentsPath, idOrName, action)
	if err != nil {
		return nil, err
	}
	return change[api.Agent](ctx, c, http.MethodPost, path, nil)
}
