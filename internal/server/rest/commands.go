package rest

import (
	"context"
	"net/http"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
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
	handle(s, s.operation(http.MethodPost, "/api/v1/agents/{id}/commands/{commandId}/ack", "command.ack", "Say how a command ended", agentSelf),
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
	op := s.operation(http.MethodPost, "/api/v1/agents/{id}/commands", "command.send", "Send a command to an agent", operator)
	op.DefaultStatus = http.StatusAccepted
	handle(s, op, func(ctx context.Context, in *toAgent) (api.Command, error) {
		return send(ctx, command.Recipient{Scope: api.ScopeAgent, Name: in.ID}, in.Body)
	})

	type toGroup struct {
		Group string `path:"group" maxLength:"255" doc:"The group's name."`
		Body  api.CommandRequest
	}
	op = s.operation(http.MethodPost, "/api/v1/agents/groups/{group}/commands", "command.send-group", "Send a command to the live agents of a group", operator)
	op.DefaultStatus = http.StatusAccepted
	handle(s, op, func(ctx context.Context, in *toGroup) (api.Command, error) {
		return send(ctx, command.Recipient{Scope: api.ScopeGroup, Name: in.Group}, in.Body)
	})

	type toAll struct{ Body api.CommandRequest }
	op = s.operation(http.MethodPost, "/api/v1/agents/commands", "command.send-all", "Send a command to all live agents", operator)
	op.DefaultStatus = http.StatusAccepted
	handle(s, op, func(ctx context.Context, in *toAll) (api.Command, error) {
		return send(ctx, command.Recipient{Scope: api.ScopeAll}, in.Body)
	})
}

func (s *Server) showCommands() {
	type listQuery struct {
		Page
		Type string `query:"type" maxLength:"64" doc:"Only commands of this type."`
	}
	list(s, s.operation(http.MethodGet, "/api/v1/commands", "command.list", "List commands, the newest first", viewer), command.Schema,
		func(ctx context.Context, in *listQuery, q filter.Query) ([]*command.Command, error) {
			return s.Commands.List(ctx, principal(ctx).TenantID, command.Filter{Type: in.Type, Query: q, Limit: in.Limit})
		},
		func(_ context.Context, _ *listQuery, found []*command.Command, next string) api.CommandList {
			out := api.CommandList{Items: make([]api.Command, len(found)), Next: next}
			for i, c := range found {
				out.Items[i] = viewCommand(c)
			}
			return out
		})

	type progressQuery struct {
		IDPath
		Page
		State   api.CommandState `query:"state" enum:"pending,delivered,acknowledged,failed,expired" doc:"Only recipients in this state."`
		command *command.Command
	}
	list(s, s.operation(http.MethodGet, "/api/v1/commands/{id}", "command.get", "Show a command and what came of it with each recipient", viewer), command.DeliverySchema,
		func(ctx context.Context, in *progressQuery, q filter.Query) (_ []*command.Delivery, err error) {
			tenant := principal(ctx).TenantID
			if in.command, err = s.Commands.Get(ctx, tenant, in.ID); err != nil {
				return nil, err
			}
			return s.Commands.Deliveries(ctx, tenant, in.ID, command.DeliveryFilter{State: in.State, Query: q, Limit: in.Limit})
		},
		func(_ context.Context, in *progressQuery, found []*command.Delivery, next string) api.CommandProgress {
			out := api.CommandProgress{Command: viewCommand(in.command), Deliveries: make([]api.CommandDelivery, len(found)), Next: next}
			for i, d := range found {
				out.Deliveries[i] = api.CommandDelivery{
					AgentID: d.AgentID, AgentName: d.AgentName, State: d.State, DeliveredAt: timeOrNil(d.DeliveredAt),
					EndedAt: timeOrNil(d.EndedAt), Result: d.Result, Error: d.Error,
				}
			}
			return out
		})

	type ofAgentQuery struct {
		IDPath
		Page
		State api.CommandState `query:"state" enum:"pending,delivered,acknowledged,failed,expired" doc:"Only those in this state; pending ones can still be run."`
		wire  []api.AgentCommand
	}
	list(s, s.operation(http.MethodGet, "/api/v1/agents/{id}/commands", "command.list-agent", "List the commands that were sent to an agent, the newest first", agentOrViewer), command.ReceivedSchema,
		func(ctx context.Context, in *ofAgentQuery, q filter.Query) ([]*command.Received, error) {
			tenant, id, err := s.oneAgentFor(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			found, err := s.Commands.ListOf(ctx, tenant, id, command.ReceivedFilter{State: in.State, Query: q, Limit: in.Limit})
			for i := 0; err == nil && i < len(found); i++ {
				var c api.AgentCommand
				c, err = s.received(ctx, found[i])
				in.wire = append(in.wire, c)
			}
			return found, err
		},
		func(_ context.Context, in *ofAgentQuery, found []*command.Received, next string) api.AgentCommandList {
			out := api.AgentCommandList{Items: make([]api.AgentCommandItem, len(found)), Next: next}
			for i, c := range found {
				out.Items[i] = api.AgentCommandItem{AgentCommand: in.wire[i], State: c.State}
			}
			return out
		})
}

// received is a command as the agent that it was sent to gets it. People get it
// without the signature, by which one could be run.
func (s *Server) received(ctx context.Context, c *command.Received) (api.AgentCommand, error) {
	a := agent(ctx)
	if a == nil || c.State.Final() {
		return c.ForAgent(), nil
	}
	out, err := s.Commands.Outgoing(c.Command)
	if err != nil {
		return api.AgentCommand{}, err
	}
	return out.For(a.ID), nil
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
