package link

import (
	"context"
	"slices"
	"time"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

const (
	// keepPushed is how many commands a session remembers, so that one whose
	// delivery is not in the store yet does not go out again.
	keepPushed = 16
	// maxAcks is how many answers of one agent may wait for the store, before
	// the agent itself waits.
	maxAcks = 16
	// unsentAfter is when a command that is still to be sent is looked at
	// again: its wake-up is lost by then.
	unsentAfter = 2 * time.Second
)

// commandSent hands a command to those recipients that are connected here.
func (h *Hub) commandSent(tenant, commandID string) {
	at := h.now() // by this server's clock, and not by that of who recorded it
	go func() {
		ctx, cancel := context.WithTimeout(h.base, 10*time.Second)
		defer cancel()
		c, agents, err := h.commands.ForServer(ctx, tenant, commandID)
		if err != nil {
			h.log.ErrorContext(ctx, "a command was not looked up; it is looked for again", "command", commandID, "error", err)
			return
		}
		h.handOut(ctx, c, at, agents)
	}()
}

// handOut sends a command that was sent at a time.
func (h *Hub) handOut(ctx context.Context, c *command.Command, at time.Time, agents []string) {
	out, err := h.commands.Outgoing(c)
	if err != nil {
		h.log.ErrorContext(ctx, "a command was not sent", "error", err)
		return
	}
	for _, id := range agents {
		h.mu.Lock()
		s, stream := h.sessions[id], h.streams[id]
		h.mu.Unlock()
		if s != nil && s.tenant == out.TenantID {
			s.pushCommand(out)
		}
		// What was sent before a stream was opened does not come over it: its
		// agent asks for that.
		if stream != nil && stream.tenant == out.TenantID && !at.Before(stream.opened) {
			h.offer(stream, out)
		}
	}
}

// pushCommand sends a command that did not go out over this link before.
func (s *session) pushCommand(c *command.Outgoing) {
	s.mu.Lock()
	if !s.commands || slices.Contains(s.pushed, c.ID) {
		s.mu.Unlock()
		return
	}
	s.pushed = remember(s.pushed, c.ID)
	s.mu.Unlock()
	if s.enqueue(outgoing{command: c}) {
		s.hub.crew.start(s.write)
	}
}

// remember adds a command to the last that went out.
func remember(pushed []string, id string) []string {
	if slices.Contains(pushed, id) {
		return pushed
	}
	if len(pushed) == keepPushed {
		pushed = slices.Delete(pushed, 0, 1)
	}
	return append(pushed, id)
}

// pendingCommands sends what was sent to the agent while it was away, and has
// not expired.
func (s *session) pendingCommands() error {
	s.mu.Lock()
	takes := s.commands
	s.mu.Unlock()
	if !takes {
		return nil
	}
	pending, err := s.hub.commands.PendingOf(s.ctx, s.tenant, s.agentID)
	if err != nil {
		return err
	}
	for _, c := range pending {
		out, err := s.hub.commands.Outgoing(c)
		if err != nil {
			return err
		}
		s.pushCommand(out)
	}
	return nil
}

// lookForCommands sends what a lost wake-up has left behind.
func (h *Hub) lookForCommands(ctx context.Context) {
	for after, more := (command.Ref{}), true; more; {
		var page []command.Ref
		var err error
		if page, after, more, err = h.commands.Unsent(ctx, unsentAfter, after); err != nil {
			h.log.ErrorContext(ctx, "commands that wait were not looked up", "error", err)
			return
		}
		waiting := map[string][]string{} // agents, by command
		tenants := map[string]string{}
		for _, r := range page {
			if h.reaches(r.AgentID) {
				waiting[r.CommandID] = append(waiting[r.CommandID], r.AgentID)
				tenants[r.CommandID] = r.TenantID
			}
		}
		for id, agents := range waiting {
			c, err := h.commands.Get(ctx, tenants[id], id)
			if err != nil {
				h.log.ErrorContext(ctx, "a command that waits was not looked up", "command", id, "error", err)
				continue
			}
			h.handOut(ctx, c, c.CreatedAt, agents)
		}
	}
}

// reaches reports whether commands for an agent can be sent from here.
func (h *Hub) reaches(agentID string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[agentID] != nil || h.streams[agentID] != nil
}

func (s *session) commandAck(a *fleet.Agent, ack *stellav1.CommandAck) error {
	said := api.CommandAck{Status: api.CommandAcknowledged, Result: ack.GetResultJson(), Error: ack.GetError()}
	if ack.GetFailed() {
		said.Status = api.CommandFailed
	}
	// It waits for the store: other frames must not wait with it, and a
	// fleet's answers to one command are written together.
	s.mu.Lock()
	if s.ended || s.acks >= maxAcks {
		s.mu.Unlock()
		return s.acknowledge(a, ack.GetCommandId(), said)
	}
	s.acks++
	s.atWork.Go(func() {
		err := s.acknowledge(a, ack.GetCommandId(), said)
		s.mu.Lock()
		s.acks--
		s.mu.Unlock()
		if err != nil {
			s.close(err)
		}
	})
	s.mu.Unlock()
	return nil
}

func (s *session) acknowledge(a *fleet.Agent, id string, said api.CommandAck) error {
	receipt := &stellav1.CommandReceipt{CommandId: id}
	res, err := s.hub.commands.Acknowledge(s.ctx, a, id, said)
	switch f := fault.As(err); {
	case err == nil:
		receipt.Accepted, receipt.Reason = res.Acknowledged, res.Reason
	case f != nil && f.Kind != fault.Unavailable && f.Kind != fault.Internal:
		receipt.Reason = f.Message // to say it again would not help
	case s.ctx.Err() != nil:
		return nil //nolint:nilerr // the link has ended; the agent says it again over the next
	default:
		return err
	}
	s.push(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_CommandReceipt{CommandReceipt: receipt}})
	return nil
}
