package command

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/event"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// Waker tells every server that a command was sent, so that each gives it to
// the recipients whose links it holds. What it says may be lost: the store is
// the truth, and servers also look by themselves (see [Service.Unsent]).
type Waker interface {
	CommandSent(tenant, commandID string)
}

// Options are the times that an installation may set.
type Options struct {
	// Keep is how long a command is kept after its last recipient ended;
	// 0 stands for 7 days.
	Keep time.Duration
}

// Service holds the rules about commands. It is safe for concurrent use; Run
// must run for marks, answers and expiry to reach the store.
type Service struct {
	store  Store
	wake   Waker
	events event.Publisher
	signer Signer
	opts   Options
	now    func() time.Time
	log    *slog.Logger

	// answered and marked tell Run that something waits.
	answered chan struct{}
	marked   chan struct{}

	mu      sync.Mutex
	ended   bool // Run has written its last
	marks   map[Ref]time.Time
	answers []*answer
	bytes   int // of the answers
}

// NewService returns a service over a store. now is the clock, in UTC.
func NewService(store Store, wake Waker, events event.Publisher, signer Signer, opts Options, now func() time.Time, log *slog.Logger) *Service {
	if opts.Keep == 0 {
		opts.Keep = 7 * 24 * time.Hour
	}
	return &Service{
		store: store, wake: wake, events: events, signer: signer, opts: opts, now: now, log: log,
		answered: make(chan struct{}, 1), marked: make(chan struct{}, 1), marks: map[Ref]time.Time{},
	}
}

// Send records a command and its recipients, fixed at this moment, and wakes
// the servers. It returns when the command is durable; it does not wait for any
// agent.
//
// Faults: NotFound when there is no such agent, or no agent at all in the
// group; Conflict when the agent is revoked; Invalid for a type that nobody
// understands; TooLarge for a payload over MaxPayloadBytes. A group of which
// nobody is live is no fault: the command has no recipients, and is done.
func (s *Service) Send(ctx context.Context, tenant, by string, to Recipient, req api.CommandRequest) (*Command, error) {
	c, err := s.prepare(tenant, by, to, req)
	if err != nil {
		return nil, err
	}
	var one *fleet.Agent // with the scope agent
	pick := Pick{Capabilities: capabilities(c.Type)}
	switch to.Scope {
	case api.ScopeAgent:
		if one, err = s.recipient(ctx, c, pick.Capabilities); err != nil {
			return nil, err
		}
		c.To.Name = one.Name
		pick = Pick{AgentID: one.ID}
	case api.ScopeGroup:
		pick.Group = to.Name
	}
	if err := s.insert(ctx, c, pick); err != nil {
		return nil, err
	}
	sent := api.Event{At: c.CreatedAt, Kind: api.EventCommandSent, CommandID: c.ID, Type: c.Type, By: by}
	if one != nil {
		sent.AgentID, sent.AgentName = one.ID, one.Name
	}
	s.events.Publish(tenant, sent)
	if c.Recipients > 0 {
		s.wake.CommandSent(tenant, c.ID)
	}
	return c, nil
}

// prepare checks what a request says by itself.
func (s *Service) prepare(tenant, by string, to Recipient, req api.CommandRequest) (*Command, error) {
	if err := validateType(req.Type); err != nil {
		return nil, err
	}
	payload := req.Payload
	switch {
	case len(payload) > MaxPayloadBytes:
		return nil, fault.New(fault.TooLarge, "payload_too_large",
			"the payload has %d KiB and may have %d: put what is large where the agents can fetch it, and send its address", (len(payload)+1023)>>10, MaxPayloadBytes>>10)
	case len(payload) > 0 && !json.Valid(payload):
		return nil, fault.InvalidField("body.payload", "it is no JSON")
	case len(payload) == 0 || string(payload) == "null":
		payload = nil
	}
	expiry := time.Duration(req.ExpiresIn) * time.Second
	switch {
	case req.ExpiresIn < 0 || req.ExpiresIn > int64(MaxExpiry/time.Second):
		return nil, fault.InvalidField("body.expiresIn", "%d is not between 1 and %d seconds", req.ExpiresIn, int64(MaxExpiry/time.Second))
	case expiry == 0:
		expiry = DefaultExpiry
	}
	switch to.Scope {
	case api.ScopeAll:
		to.Name = ""
	case api.ScopeAgent, api.ScopeGroup:
		if to.Name == "" {
			return nil, fault.New(fault.Invalid, "invalid", "the command names no %s: say which, or send it to all", to.Scope)
		}
	default:
		return nil, fault.New(fault.Invalid, "invalid", "%q is no scope of a command: use agent, group or all", clip(string(to.Scope)))
	}
	now := s.now().Truncate(time.Microsecond) // as it will be read
	return &Command{
		ID: uuid.Must(uuid.NewV7()).String(), TenantID: tenant, Type: req.Type, Payload: payload, To: to,
		CreatedBy: by, CreatedAt: now, ExpiresAt: now.Add(expiry),
	}, nil
}

// recipient returns the one agent that a command is for. It may be dead or
// inactive: the command waits for it until it expires.
func (s *Service) recipient(ctx context.Context, c *Command, needs []string) (*fleet.Agent, error) {
	a, err := s.store.Agent(ctx, c.TenantID, c.To.Name)
	if err != nil {
		return nil, err
	}
	if a.Lifecycle == api.LifecycleRevoked {
		return nil, fault.New(fault.Conflict, "agent_revoked",
			"agent %s is revoked and takes no commands: delete it and register the host again with a new token", a.Name)
	}
	if len(needs) > 0 && !slices.ContainsFunc(needs, a.Can) {
		return nil, unknownType(c.Type, "agent "+a.Name)
	}
	return a, nil
}

// insert stores a command with its recipients. When there is none, it finds
// out whether that is a mistake of the sender or the way things are.
func (s *Service) insert(ctx context.Context, c *Command, pick Pick) error {
	n, err := s.store.InsertCommand(ctx, c, pick, false)
	if err != nil || n > 0 {
		return err
	}
	if pick.AgentID != "" {
		// It was there a moment ago; ask again for what became of it.
		if _, err := s.recipient(ctx, c, nil); err != nil {
			return err
		}
		return fault.New(fault.Conflict, "agent_changed", "agent %s was replaced while the command was sent: send it again", c.To.Name)
	}
	who := "no agent"
	if pick.Group != "" {
		who = fmt.Sprintf("no agent of group %q", pick.Group)
		some, err := s.store.Agents(ctx, c.TenantID, fleet.Filter{Group: pick.Group, Limit: 1})
		if err != nil {
			return err
		}
		if len(some) == 0 {
			return fault.New(fault.NotFound, "group_not_found",
				"there is no agent in group %q: `stella agent list` shows the agents with their groups", clip(pick.Group))
		}
	}
	understood := len(pick.Capabilities) == 0
	for _, capability := range pick.Capabilities {
		some, err := s.store.Agents(ctx, c.TenantID, fleet.Filter{Group: pick.Group, Capability: capability, Limit: 1})
		if err != nil {
			return err
		}
		understood = understood || len(some) > 0
	}
	if !understood {
		return unknownType(c.Type, who)
	}
	_, err = s.store.InsertCommand(ctx, c, pick, true)
	return err
}
