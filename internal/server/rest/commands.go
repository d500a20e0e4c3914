package rest

import (
	"context"
	"net/http"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fault"
)

// commands adds what people and agents do with commands.
func (s *Server) commands() {
	s.sendCommands()
	s.showCommands()

	type ackPath struct {
		IDPath
		CommandID string `path:"commandId" maxLength:"64" doc:"The command's id."`
		Body      *api.CommandAck
	}
	handle(s, operation(http.MethodPost, "/api/v1/agents/{id}/commands/{commandId}/ack", "command.ack", "Say how a command ended", agentSelf),
		func(ctx context.Context, in *ackPath) (api.CommandAckResponse, error) {
			ack := api.CommandAck{}
			if in.Body != nil {
				ack = *in.Body
			}
			return s.Commands.Acknowledge(ctx, agent(ctx), in.CommandID, ack)
		})
}

func (s *Server) sendCommands() {
	send := func(ctx context.Context, to command.Recipient, req api.CommandRequest) (api.Command, error) {
		p := principal(ctx)
		c, err := s.Commands.Send(ctx, p.TenantID, p.Name, to, req)
		if err != nil {
			return api.Command{}, err
		}
		return viewCommand(c), nil
	}

	type toAgent struct {
		IDPath
		Body api.CommandRequest
	}
	op := operation(http.MethodPost, "/api/v1/agents/{id}/commands", "command.send", "Send a command to an agent", operator)
	op.DefaultStatus = http.StatusAccepted
	handle(s, op, func(ctx context.Context, in *toAgent) (api.Command, error) {
		return send(ctx, command.Recipient{Scope: api.ScopeAgent, Name: in.ID}, in.Body)
	})

	type toGroup struct {
		Group string `path:"group" maxLength:"255" doc:"The group's name."`
		Body  api.CommandRequest
	}
	op = operation(http.MethodPost, "/api/v1/agents/groups/{group}/commands", "command.send-group", "Send a command to the live agents of a group", operator)
	op.DefaultStatus = http.StatusAccepted
	handle(s, op, func(ctx context.Context, in *toGroup) (api.Command, error) {
		return send(ctx, command.Recipient{Scope: api.ScopeGroup, Name: in.Group}, in.Body)
	})

	type toAll struct{ Body api.CommandRequest }
	op = operation(http.MethodPost, "/api/v1/agents/commands", "command.send-all", "Send a command to all live agents", operator)
	op.DefaultStatus = http.StatusAccepted
	handle(s, op, func(ctx context.Context, in *toAll) (api.Command, error) {
		return send(ctx, command.Recipient{Scope: api.ScopeAll}, in.Body)
	})
}

func (s *Server) showCommands() {
	type listQuery struct {
		Page
		Type string `query:"type" maxLength:"64"`
	}
	handle(s, operation(http.MethodGet, "/api/v1/commands", "command.list", "List commands, the newest first", viewer),
		func(ctx context.Context, in *listQuery) (api.CommandList, error) {
			found, err := s.Commands.List(ctx, principal(ctx).TenantID, command.Filter{Type: in.Type, Before: in.Cursor, Limit: in.Limit})
			if err != nil {
				return api.CommandList{}, err
			}
			out := api.CommandList{Items: make([]api.Command, len(found))}
			for i, c := range found {
				out.Items[i] = viewCommand(c)
			}
			if len(found) == in.Limit {
				out.Next = found[len(found)-1].ID
			}
			return out, nil
		})

	type progressQuery struct {
		IDPath
		Page
		State api.CommandState `query:"state" enum:"pending,delivered,acknowledged,failed,expired" doc:"Only recipients in this state."`
	}
	handle(s, operation(http.MethodGet, "/api/v1/commands/{id}", "command.get", "Show a command and what came of it with each recipient", viewer),
		func(ctx context.Context, in *progressQuery) (api.CommandProgress, error) {
			tenant := principal(ctx).TenantID
			c, err := s.Commands.Get(ctx, tenant, in.ID)
			if err != nil {
				return api.CommandProgress{}, err
			}
			found, err := s.Commands.Deliveries(ctx, tenant, c.ID, command.DeliveryFilter{State: in.State, After: in.Cursor, Limit: in.Limit})
			if err != nil {
				return api.CommandProgress{}, err
			}
			out := api.CommandProgress{Command: viewCommand(c), Deliveries: make([]api.CommandDelivery, len(found))}
			for i, d := range found {
				out.Deliveries[i] = api.CommandDelivery{
					AgentID: d.AgentID, AgentName: d.AgentName, State: d.State, DeliveredAt: timeOrNil(d.DeliveredAt),
					EndedAt: timeOrNil(d.EndedAt), Result: d.Result, Error: d.Error,
				}
			}
			if len(found) == in.Limit {
				out.Next = found[len(found)-1].AgentID
			}
			return out, nil
		})

	type ofAgentQuery struct {
		IDPath
		Page
		State api.CommandState `query:"state" enum:"pending,delivered,acknowledged,failed,expired" doc:"Only those in this state; pending ones can still be run."`
	}
	handle(s, operation(http.MethodGet, "/api/v1/agents/{id}/commands", "command.list-agent", "List the commands that were sent to an agent, the newest first", agentOrViewer),
		func(ctx context.Context, in *ofAgentQuery) (api.AgentCommandList, error) {
			tenant, id, err := s.oneAgentFor(ctx, in.ID)
			if err != nil {
				return api.AgentCommandList{}, err
			}
			found, err := s.Commands.ListOf(ctx, tenant, id, command.ReceivedFilter{State: in.State, Before: in.Cursor, Limit: in.Limit})
			if err != nil {
				return api.AgentCommandList{}, err
			}
			out := api.AgentCommandList{Items: make([]api.AgentCommandItem, len(found))}
			for i, c := range found {
				out.Items[i] = api.AgentCommandItem{AgentCommand: c.ForAgent(), State: c.State}
			}
			if len(found) == in.Limit {
				out.Next = found[len(found)-1].ID
			}
			return out, nil
		})
}

// oneAgentFor returns the tenant and the id of the agent that a path names, for
// a person or for the agent itself.
func (s *Server) oneAgentFor(ctx context.Context, idOrName string) (tenant, id string, err error) {
	if a := agent(ctx); a != nil {
		return a.TenantID, a.ID, nil
	}
	p := principal(ctx)
	if p == nil {
		return "", "", fault.New(fault.Forbidden, "forbidden", "nobody may call this")
	}
	a, err := s.Fleet.Get(ctx, p.TenantID, idOrName)
	if err != nil {
		return "", "", err
	}
	return a.TenantID, a.ID, nil
}

func viewCommand(c *command.Command) api.Command {
	return api.Command{
		ID: c.ID, Type: c.Type, Payload: c.Payload, Scope: c.To.Scope, Recipient: c.To.Name, Recipients: c.Recipients,
		Counts: c.Counts, Done: c.Done(), CreatedBy: c.CreatedBy, CreatedAt: c.CreatedAt, ExpiresAt: c.ExpiresAt,
	}
}
