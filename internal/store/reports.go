package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
)

// RecordReports implements command.Store. However many reports there are, it
// takes two statements to read and two to write: under the locks of the
// commands nothing else moves their recipients, so that the rules of
// command.Delivery can decide here.
func (s *Store) RecordReports(ctx context.Context, reports []command.Report) ([]command.Outcome, []command.Transition, error) {
	if len(reports) == 0 {
		return nil, nil, nil
	}
	ids, refs, err := encodeRefs(reports)
	if err != nil {
		return nil, nil, err
	}
	var outcomes []command.Outcome
	var moved []command.Transition
	err = s.write(ctx, "record reports of commands", func(q *db.Queries) error {
		b, err := readBatch(ctx, q, ids, refs)
		if err != nil {
			return err
		}
		outcomes = make([]command.Outcome, len(reports))
		for i := range reports {
			outcomes[i] = b.take(&reports[i])
		}
		moved = b.moved
		return b.write(ctx, q)
	})
	if err != nil {
		return nil, nil, err
	}
	return outcomes, moved, nil
}

// ref is a recipient as the statements read it.
type ref struct {
	Command string `json:"c"`
	Agent   string `json:"a"`
}

func encodeRefs(reports []command.Report) (ids, refs column.Raw, err error) {
	commands, recipients := map[string]bool{}, make(map[ref]bool, len(reports))
	for i := range reports {
		r := ref{reports[i].CommandID, reports[i].AgentID}
		commands[r.Command], recipients[r] = true, true
	}
	if ids, err = encodeBatch(slices.Sorted(maps.Keys(commands))); err != nil {
		return nil, nil, err
	}
	// In the order of the primary key, neighbours are read and written together.
	refs, err = encodeBatch(slices.SortedFunc(maps.Keys(recipients), func(a, b ref) int {
		return cmp.Or(cmp.Compare(a.Command, b.Command), cmp.Compare(a.Agent, b.Agent))
	}))
	return ids, refs, err
}

func encodeBatch(list any) (column.Raw, error) {
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", list, err)
	}
	return raw, nil
}

// batch is what reports are about, as it stands.
type batch struct {
	commands   map[string]*db.LockCommandsRow
	deliveries map[ref]*command.Delivery
	changed    map[ref]bool
	counts     map[string]*tally
	moved      []command.Transition
}

// tally is by how much a command's counts change.
type tally struct {
	ID           string `json:"id"`
	Pending      int    `json:"pending"`
	Delivered    int    `json:"delivered"`
	Acknowledged int    `json:"acknowledged"`
	Failed       int    `json:"failed"`
	Expired      int    `json:"expired"`
	At           int64  `json:"at"` // the latest change, in microseconds since 1970
}

func (c *tally) of(s api.CommandState) *int {
	switch s {
	case api.CommandPending:
		return &c.Pending
	case api.CommandDelivered:
		return &c.Delivered
	case api.CommandAcknowledged:
		return &c.Acknowledged
	case api.CommandFailed:
		return &c.Failed
	default:
		return &c.Expired
	}
}

func readBatch(ctx context.Context, q *db.Queries, ids, refs column.Raw) (*batch, error) {
	b := &batch{
		commands: map[string]*db.LockCommandsRow{}, deliveries: map[ref]*command.Delivery{},
		changed: map[ref]bool{}, counts: map[string]*tally{},
	}
	commands, err := q.LockCommands(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, c := range commands {
		b.commands[c.ID] = c
	}
	recipients, err := q.ReportedRecipients(ctx, refs)
	if err != nil {
		return nil, err
	}
	for _, r := range recipients {
		b.deliveries[ref{r.CommandID, r.AgentID}] = &command.Delivery{
			AgentID: r.AgentID, AgentName: r.AgentName, State: api.CommandState(r.State), DeliveredAt: r.DeliveredAt.Time,
		}
	}
	return b, nil
}

// take has the delivery that a report is about take it.
func (b *batch) take(r *command.Report) command.Outcome {
	c := b.commands[r.CommandID]
	if c == nil || c.TenantID != r.TenantID {
		return command.Outcome{}
	}
	outcome := command.Outcome{Exists: true, ExpiresAt: c.ExpiresAt.Time}
	key := ref{r.CommandID, r.AgentID}
	d := b.deliveries[key]
	if d == nil {
		return outcome
	}
	from := d.State
	if d.Take(r, c.ExpiresAt.Time) {
		b.changed[key] = true
		b.move(command.Transition{Ref: r.Ref, AgentName: d.AgentName, Type: c.Type, To: d.State, At: r.At, Reason: d.Error}, from)
	}
	outcome.State = d.State
	return outcome
}

// move notes a transition, and what it does to the counts.
func (b *batch) move(t command.Transition, from api.CommandState) {
	n := b.counts[t.CommandID]
	if n == nil {
		n = &tally{ID: t.CommandID}
		b.counts[t.CommandID] = n
	}
	*n.of(from)--
	*n.of(t.To)++
	n.At = max(n.At, t.At.UnixMicro())
	t.At = column.At(t.At).Time
	b.moved = append(b.moved, t)
}

// change is a recipient as the statements write it; an answer is a text, so
// that none can break the batch, however deep or odd its JSON is.
type change struct {
	ref
	State     api.CommandState `json:"state"`
	Delivered *int64           `json:"delivered"` // microseconds since 1970
	Ended     *int64           `json:"ended"`
	Answer    string           `json:"answer"`
	Error     string           `json:"error"`
}

func (b *batch) write(ctx context.Context, q *db.Queries) error {
	if len(b.moved) == 0 {
		return nil
	}
	changes := make([]change, 0, len(b.changed))
	for key := range b.changed {
		d := b.deliveries[key]
		changes = append(changes, change{key, d.State, micros(d.DeliveredAt), micros(d.EndedAt), string(d.Result), d.Error})
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Or(cmp.Compare(a.Command, b.Command), cmp.Compare(a.Agent, b.Agent)) })
	raw, err := encodeBatch(changes)
	if err != nil {
		return err
	}
	if err := q.MoveRecipients(ctx, raw); err != nil {
		return err
	}
	return b.writeCounts(ctx, q)
}

func (b *batch) writeCounts(ctx context.Context, q *db.Queries) error {
	raw, err := encodeBatch(slices.Collect(maps.Values(b.counts)))
	if err != nil {
		return err
	}
	return q.CountCommands(ctx, raw)
}

func micros(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	return new(t.UnixMicro())
}

// sweptCommands bounds how many commands one round of a sweep looks at.
const sweptCommands = 100

// ExpireCommands implements command.Store.
func (s *Store) ExpireCommands(ctx context.Context, at time.Time, limit int) (moved []command.Transition, more bool, err error) {
	err = s.write(ctx, "expire commands", func(q *db.Queries) error {
		moved, more = nil, false
		over, err := q.LockExpiredCommands(ctx, db.LockExpiredCommandsParams{At: column.At(at), Page: sweptCommands})
		if err != nil || len(over) == 0 {
			return err
		}
		b := &batch{counts: map[string]*tally{}}
		commands := make(map[string]*db.LockExpiredCommandsRow, len(over))
		for _, c := range over {
			commands[c.ID] = c
		}
		ids, err := encodeBatch(slices.Sorted(maps.Keys(commands)))
		if err != nil {
			return err
		}
		rows, err := q.ExpireRecipients(ctx, db.ExpireRecipientsParams{
			At: column.At(at), NotConnected: command.NotConnected, NotAnswered: command.NotAnswered, Ids: ids, Page: int64(limit),
		})
		if err != nil {
			return err
		}
		for _, r := range rows {
			c, from := commands[r.CommandID], api.CommandDelivered
			if r.DeliveredAt.IsZero() {
				from = api.CommandPending
			}
			b.move(command.Transition{
				Ref:       command.Ref{TenantID: c.TenantID, CommandID: r.CommandID, AgentID: r.AgentID},
				AgentName: r.AgentName, Type: c.Type, To: api.CommandExpired, At: at, Reason: r.Error,
			}, from)
		}
		moved, more = b.moved, len(rows) == limit || len(over) == sweptCommands
		return b.writeCounts(ctx, q)
	})
	if err != nil {
		return nil, false, err
	}
	return moved, more, nil
}

// DeleteEndedCommands implements command.Store. A command goes when the last
// of its recipients has gone.
func (s *Store) DeleteEndedCommands(ctx context.Context, before time.Time, limit int) (more bool, err error) {
	err = s.write(ctx, "delete ended commands", func(q *db.Queries) error {
		more = false
		old, err := q.LockEndedCommands(ctx, db.LockEndedCommandsParams{Before: column.At(before), Page: sweptCommands})
		if err != nil || len(old) == 0 {
			return err
		}
		ids, err := encodeBatch(old)
		if err != nil {
			return err
		}
		n, err := q.DeleteRecipients(ctx, db.DeleteRecipientsParams{Ids: ids, Page: int64(limit)})
		if err != nil {
			return err
		}
		if n == int64(limit) {
			more = true
			return nil
		}
		more = len(old) == sweptCommands
		return q.DeleteCommands(ctx, ids)
	})
	return more && err == nil, err
}
