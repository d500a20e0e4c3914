package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// InsertCommand implements command.Store.
func (s *Store) InsertCommand(ctx context.Context, c *command.Command, to command.Pick, mayBeForNobody bool) (recipients int, err error) {
	err = s.write(ctx, "insert command", func(q *db.Queries) error {
		n, err := insertRecipients(ctx, q, c, to)
		recipients = int(n)
		if err != nil || n == 0 && !mayBeForNobody {
			return err
		}
		args := db.InsertCommandParams{
			ID: c.ID, TenantID: c.TenantID, Type: c.Type, Payload: string(c.Payload), Scope: string(c.To.Scope), Recipient: c.To.Name,
			AgentID: to.AgentID, Recipients: n, CreatedBy: c.CreatedBy, CreatedAt: column.At(c.CreatedAt), ExpiresAt: column.At(c.ExpiresAt),
		}
		if n == 0 {
			args.DoneAt = args.CreatedAt
		}
		return q.InsertCommand(ctx, args)
	})
	if err != nil {
		return 0, err
	}
	c.Recipients, c.Counts.Pending = recipients, recipients
	if recipients == 0 {
		c.DoneAt = c.CreatedAt
	}
	return recipients, nil
}

// insertRecipients picks a command's recipients by one statement, however many
// they are.
func insertRecipients(ctx context.Context, q *db.Queries, c *command.Command, to command.Pick) (int64, error) {
	switch {
	case to.AgentID != "":
		return q.InsertRecipient(ctx, db.InsertRecipientParams{CommandID: c.ID, TenantID: c.TenantID, AgentID: to.AgentID})
	case len(to.Capabilities) == 0:
		return q.InsertRecipients(ctx, db.InsertRecipientsParams{CommandID: c.ID, TenantID: c.TenantID, GroupName: to.Group})
	}
	args := db.InsertCapableRecipientsParams{CommandID: c.ID, TenantID: c.TenantID, GroupName: to.Group, Names1: column.Raw("[]"), Names2: column.Raw("[]")}
	lists := []*column.Raw{&args.Names1, &args.Names2}
	if len(to.Capabilities) > len(lists) {
		return 0, fmt.Errorf("%d capabilities are more than the statement takes", len(to.Capabilities))
	}
	for i, capability := range to.Capabilities {
		names, err := json.Marshal(fleet.Covering(capability))
		if err != nil {
			return 0, fmt.Errorf("encode capability: %w", err)
		}
		*lists[i] = names
	}
	return q.InsertCapableRecipients(ctx, args)
}

// Command implements command.Store.
func (s *Store) Command(ctx context.Context, tenant, id string) (*command.Command, error) {
	row, ok, err := one(s.read().Command(ctx, db.CommandParams{TenantID: tenant, ID: id}))
	if err != nil {
		return nil, s.explain(ctx, "read command", err)
	}
	if !ok {
		return nil, commandNotFound(id)
	}
	return commandOf(row), nil
}

// Commands implements command.Store.
func (s *Store) Commands(ctx context.Context, tenant string, f command.Filter) ([]*command.Command, error) {
	rows, err := list(ctx, s, commandListing, f.Where(), f.Query, f.Limit, func(q *db.Queries) ([]*db.Command, error) {
		return q.Commands(ctx, tenant)
	})
	return each(rows, commandOf), err
}

// CommandsOf implements command.Store.
func (s *Store) CommandsOf(ctx context.Context, tenant, agentID string, f command.ReceivedFilter) ([]*command.Received, error) {
	rows, err := list(ctx, s, receivedListing, f.Where(), f.Query, f.Limit, func(q *db.Queries) ([]*db.CommandsOfAgentRow, error) {
		return q.CommandsOfAgent(ctx, db.CommandsOfAgentParams{TenantID: tenant, AgentID: agentID})
	})
	return each(rows, func(r *db.CommandsOfAgentRow) *command.Received {
		return &command.Received{Command: commandOf(&r.Command), State: api.CommandState(r.State)}
	}), err
}

// Deliveries implements command.Store.
func (s *Store) Deliveries(ctx context.Context, tenant, id string, f command.DeliveryFilter) ([]*command.Delivery, error) {
	if _, err := s.Command(ctx, tenant, id); err != nil {
		return nil, err
	}
	rows, err := list(ctx, s, deliveryListing, f.Where(), f.Query, f.Limit, func(q *db.Queries) ([]*db.CommandRecipient, error) {
		return q.Deliveries(ctx, id)
	})
	return each(rows, func(r *db.CommandRecipient) *command.Delivery {
		return &command.Delivery{
			AgentID: r.AgentID, AgentName: r.AgentName, State: api.CommandState(r.State),
			DeliveredAt: r.DeliveredAt.Time, EndedAt: r.EndedAt.Time, Result: rawOf(r.Answer), Error: r.Error,
		}
	}), err
}

// PendingRecipients implements command.Store.
func (s *Store) PendingRecipients(ctx context.Context, id string) ([]string, error) {
	ids, err := s.read().PendingRecipients(ctx, id)
	return ids, s.explain(ctx, "read recipients of command "+id, err)
}

// PendingCommands implements command.Store.
func (s *Store) PendingCommands(ctx context.Context, tenant, agentID string, at time.Time, limit int) ([]*command.Command, error) {
	rows, err := s.read().PendingCommands(ctx, db.PendingCommandsParams{AgentID: agentID, TenantID: tenant, At: column.At(at), Page: int64(page(limit))})
	if err != nil {
		return nil, s.explain(ctx, "read pending commands of agent "+agentID, err)
	}
	list := make([]*command.Command, len(rows))
	for i, r := range rows {
		list[i] = commandOf(&r.Command)
	}
	return list, nil
}

// UnsentCommands implements command.Store.
func (s *Store) UnsentCommands(ctx context.Context, sentBefore, at time.Time, after command.Ref, limit int) ([]command.Ref, error) {
	rows, err := s.read().UnsentCommands(ctx, db.UnsentCommandsParams{
		AfterAgent: after.AgentID, AfterCommand: after.CommandID, SentBefore: column.At(sentBefore), At: column.At(at), Page: int64(page(limit)),
	})
	if err != nil {
		return nil, s.explain(ctx, "read unsent commands", err)
	}
	refs := make([]command.Ref, len(rows))
	for i, r := range rows {
		refs[i] = command.Ref{TenantID: r.TenantID, CommandID: r.CommandID, AgentID: r.AgentID}
	}
	return refs, nil
}

func commandNotFound(id string) error {
	return fault.New(fault.NotFound, "command_not_found",
		"there is no command %q: `stella command list` shows those that are; one that ended long ago is deleted", id)
}

func commandOf(r *db.Command) *command.Command {
	return &command.Command{
		ID: r.ID, TenantID: r.TenantID, Type: r.Type, Payload: rawOf(r.Payload),
		To: command.Recipient{Scope: api.CommandScope(r.Scope), Name: r.Recipient}, Recipients: int(r.Recipients),
		Counts: api.CommandCounts{
			Pending: int(r.Pending), Delivered: int(r.Delivered), Acknowledged: int(r.Acknowledged), Failed: int(r.Failed), Expired: int(r.Expired),
		},
		CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt.Time, ExpiresAt: r.ExpiresAt.Time, DoneAt: r.DoneAt.Time,
	}
}

// rawOf reads JSON that is kept as text; an empty text is none.
func rawOf(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return json.RawMessage(text)
}
