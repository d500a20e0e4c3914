package command

import (
	"context"
	"slices"
	"time"

	"stella-ops.org/stella/api"
)

// Get returns a command with its counts.
func (s *Service) Get(ctx context.Context, tenant, id string) (*Command, error) {
	return s.store.Command(ctx, tenant, id)
}

// Deliveries returns a page of a command's recipients, in the order of their
// ids. A missing command is a fault of kind NotFound.
func (s *Service) Deliveries(ctx context.Context, tenant, id string, f DeliveryFilter) ([]*Delivery, error) {
	return s.store.Deliveries(ctx, tenant, id, f)
}

// List returns a page of commands, the newest first.
func (s *Service) List(ctx context.Context, tenant string, f Filter) ([]*Command, error) {
	return s.store.Commands(ctx, tenant, f)
}

// ListOf returns a page of the commands that were sent to an agent, the newest
// first.
func (s *Service) ListOf(ctx context.Context, tenant, agentID string, f ReceivedFilter) ([]*Received, error) {
	return s.store.CommandsOf(ctx, tenant, agentID, f)
}

const (
	// maxPending bounds what PendingOf gives: payloads may be large.
	maxPending = 100
	// MaxUnsent is how many refs a full page of Unsent has.
	MaxUnsent = 1000
)

// ForServer returns a command and the ids of the recipients to whom it is still
// to be sent, in their order; none when it has expired. Each server sends it to
// those whose links it holds. A missing command is a fault of kind NotFound.
func (s *Service) ForServer(ctx context.Context, tenant, commandID string) (c *Command, agentIDs []string, err error) {
	c, err = s.store.Command(ctx, tenant, commandID)
	if err != nil || c.Done() || !c.ExpiresAt.After(s.now()) {
		return c, nil, err
	}
	if agentIDs, err = s.store.PendingRecipients(ctx, commandID); err != nil {
		return nil, nil, err
	}
	noted := s.noted()
	return c, slices.DeleteFunc(agentIDs, func(id string) bool { return noted(Ref{tenant, commandID, id}) }), nil
}

// PendingOf returns the commands that are still to be sent to an agent and have
// not expired, the oldest first, 100 at the most: for a link that has just
// connected, and for agents that poll.
func (s *Service) PendingOf(ctx context.Context, tenant, agentID string) ([]*Command, error) {
	list, err := s.store.PendingCommands(ctx, tenant, agentID, s.now(), maxPending)
	if err != nil {
		return nil, err
	}
	noted := s.noted()
	return slices.DeleteFunc(list, func(c *Command) bool { return noted(Ref{tenant, c.ID, agentID}) }), nil
}

// Unsent returns what is still to be sent to agents that are not dead, a time
// after it was sent: a wake-up was lost, or the agent has no link. It comes in
// pages of at most MaxUnsent, in the order of agents and commands, after a ref
// (the zero one for the first page); more reports whether another may follow,
// after the ref that next is.
func (s *Service) Unsent(ctx context.Context, olderThan time.Duration, after Ref) (refs []Ref, next Ref, more bool, err error) {
	now := s.now()
	if refs, err = s.store.UnsentCommands(ctx, now.Add(-olderThan), now, after, MaxUnsent); err != nil || len(refs) == 0 {
		return nil, after, false, err
	}
	next, more = refs[len(refs)-1], len(refs) == MaxUnsent
	return slices.DeleteFunc(refs, s.noted()), next, more, nil
}

// noted returns a function that reports whether a recipient is noted as
// delivered in memory, so that nothing is sent twice because the store does not
// know yet.
func (s *Service) noted() func(Ref) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.marks) == 0 {
		return func(Ref) bool { return false }
	}
	return func(r Ref) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, ok := s.marks[r]
		return ok
	}
}

// ForAgent returns the command as its recipients get it, without a signature:
// see [Service.Outgoing].
func (c *Command) ForAgent() api.AgentCommand {
	return api.AgentCommand{ID: c.ID, Type: c.Type, Payload: c.Payload, CreatedAt: c.CreatedAt, ExpiresAt: c.ExpiresAt}
}
