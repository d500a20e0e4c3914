package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"stella-ops.org/stella/api"
)

const commandsPath = "/api/v1/commands"

// SendCommand sends a command to an agent. It does not wait for the agent's
// answer: see WaitCommand. It is sent once, and not again when the answer to
// this call was lost.
func (c *Client) SendCommand(ctx context.Context, agent string, req api.CommandRequest) (*api.Command, error) {
	path, err := item(agentsPath, agent, "commands")
	if err != nil {
		return nil, err
	}
	return change[api.Command](ctx, c, http.MethodPost, path, req)
}

// SendCommandToGroup sends a command to the live agents of a group.
func (c *Client) SendCommandToGroup(ctx context.Context, group string, req api.CommandRequest) (*api.Command, error) {
	if strings.Trim(group, ".") == "" {
		_, err := item(agentsPath, group)
		return nil, err
	}
	return change[api.Command](ctx, c, http.MethodPost, agentsPath+"/groups/"+url.PathEscape(group)+"/commands", req)
}

// SendCommandToAll sends a command to all live agents.
func (c *Client) SendCommandToAll(ctx context.Context, req api.CommandRequest) (*api.Command, error) {
	return change[api.Command](ctx, c, http.MethodPost, agentsPath+"/commands", req)
}

// CommandFilter picks commands; every field that is set must match.
type CommandFilter struct {
	Type string
	// Filter and Sort are in the language that all listings share.
	Filter string
	Sort   string
	// Cursor begins behind a page, and Limit is how long a page may be; the
	// server chooses when it is 0.
	Cursor string
	Limit  int
}

// CommandPage returns one page of the commands that match, the newest first.
func (c *Client) CommandPage(ctx context.Context, f CommandFilter) (*api.CommandList, error) {
	q := newQuery(f.Filter, f.Sort, f.Cursor, f.Limit)
	q.set("type", f.Type)
	return get[api.CommandList](ctx, c, commandsPath, q.values)
}

// Commands walks all commands that match, a page at a time.
func (c *Client) Commands(ctx context.Context, f CommandFilter) iter.Seq2[api.Command, error] {
	return pages(func(cursor string) ([]api.Command, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		list, err := c.CommandPage(ctx, f)
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
}

// DeliveryFilter picks recipients of a command, or commands of a recipient.
type DeliveryFilter struct {
	State api.CommandState
	// Filter and Sort are in the language that all listings share.
	Filter string
	Sort   string
	Cursor string
	Limit  int
}

// Command returns a command and a page of its recipients.
func (c *Client) Command(ctx context.Context, id string, f DeliveryFilter) (*api.CommandProgress, error) {
	path, err := item(commandsPath, id)
	if err != nil {
		return nil, err
	}
	q := newQuery(f.Filter, f.Sort, f.Cursor, f.Limit)
	q.set("state", string(f.State))
	return get[api.CommandProgress](ctx, c, path, q.values)
}

// CommandDeliveries walks the recipients of a command that match, a page at a
// time.
func (c *Client) CommandDeliveries(ctx context.Context, id string, f DeliveryFilter) iter.Seq2[api.CommandDelivery, error] {
	return pages(func(cursor string) ([]api.CommandDelivery, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		p, err := c.Command(ctx, id, f)
		if err != nil {
			return nil, "", err
		}
		return p.Deliveries, p.Next, nil
	})
}

// AgentCommandPage returns one page of the commands that were sent to an agent,
// the newest first.
func (c *Client) AgentCommandPage(ctx context.Context, agent string, f DeliveryFilter) (*api.AgentCommandList, error) {
	path, err := item(agentsPath, agent, "commands")
	if err != nil {
		return nil, err
	}
	q := newQuery(f.Filter, f.Sort, f.Cursor, f.Limit)
	q.set("state", string(f.State))
	return get[api.AgentCommandList](ctx, c, path, q.values)
}

// AgentCommands walks the commands that were sent to an agent, the newest
// first; an empty state stands for all.
func (c *Client) AgentCommands(ctx context.Context, agent string, state api.CommandState) iter.Seq2[api.AgentCommandItem, error] {
	return pages(func(cursor string) ([]api.AgentCommandItem, string, error) {
		list, err := c.AgentCommandPage(ctx, agent, DeliveryFilter{State: state, Cursor: cursor})
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
}
