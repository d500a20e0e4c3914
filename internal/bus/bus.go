// Package bus wakes servers up: a message says that something is to be looked
// at in the store, and nothing that may not be lost. On one machine it is a
// NATS server inside the process, without a listener; several servers share a
// NATS cluster that they are given.
//
// It knows no store and no connection of an agent.
package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

var (
	_ task.Waker     = (*Bus)(nil)
	_ fleet.Notifier = (*Bus)(nil)
	_ command.Waker  = (*Bus)(nil)
)

// Handlers are what a server does when it is woken. They must not block.
type Handlers struct {
	TaskQueued   func(tenant, agentID string)
	TaskCancel   func(agentID string, ref task.Ref, reason string)
	AgentChanged func(tenant, agentID string)
	CommandSent  func(tenant, commandID string)
	// Opened: an agent has opened a link or a stream of events somewhere.
	Opened func(kind, agentID, id string)
	// Rival says where another start of an agent than the one named comes from,
	// if this server holds its link and it lives; "" otherwise. It may block for
	// as long as the agent may take to answer.
	Rival func(agentID string, c fleet.Caller) (place string)
}

// Bus is one server's connection. It is safe for concurrent use.
type Bus struct {
	embedded *natsserver.Server // nil with a cluster
	conn     *nats.Conn
	log      *slog.Logger

	mu        sync.Mutex
	handlers  Handlers
	followers map[string]map[chan struct{}]bool // by task
	listeners map[*Listener]bool
}

const (
	subject = "stella.wake"
	// rivals is asked, where the rest of the bus only tells.
	rivals = "stella.rival"
)

// rivalsAnswerWithin is how long other servers have to say that they hold the
// link of another start of an agent.
const rivalsAnswerWithin = 300 * time.Millisecond

// note is the one message of the bus; Kind says which fields speak.
type note struct {
	Kind    string `json:"k"`
	Tenant  string `json:"t,omitempty"`
	Agent   string `json:"a,omitempty"`
	Task    string `json:"i,omitempty"`
	Attempt int64  `json:"n,omitempty"`
	Reason  string `json:"r,omitempty"`
	Command string `json:"c,omitempty"`
	ID      string `json:"u,omitempty"`
}

// Open connects to the NATS servers at url, or starts one inside the process
// when url is empty. Messages sent while a cluster is out of reach are lost,
// as every message may be.
func Open(url string, log *slog.Logger) (*Bus, error) {
	b := &Bus{log: log, followers: map[string]map[chan struct{}]bool{}, listeners: map[*Listener]bool{}}
	opts := []nats.Option{
		nats.Name("stella"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(url != ""),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("the bus is out of reach; tasks are found by looking every few seconds until it returns", "error", err)
			}
		}),
	}
	if url == "" {
		srv, err := natsserver.NewServer(&natsserver.Options{ServerName: "stella", DontListen: true, NoSigs: true, NoLog: true})
		if err != nil {
			return nil, fmt.Errorf("start the embedded bus: %w", err)
		}
		go srv.Start()
		if !srv.ReadyForConnections(10 * time.Second) {
			return nil, errors.New("start the embedded bus: it was not ready within 10 s")
		}
		b.embedded = srv
		opts = append(opts, nats.InProcessServer(srv))
	}
	conn, err := nats.Connect(url, opts...)
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("connect to the bus: %w", err)
	}
	b.conn = conn
	for subject, receive := range map[string]nats.MsgHandler{subject: b.receive, events: b.receiveEvents, rivals: b.receiveRival} {
		if _, err := conn.Subscribe(subject, receive); err != nil {
			b.Close()
			return nil, fmt.Errorf("listen on the bus: %w", err)
		}
	}
	return b, nil
}

// Handle sets what is done when the server is woken.
func (b *Bus) Handle(h Handlers) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handlers = h
}

// Close ends the connection, and the server inside the process.
func (b *Bus) Close() {
	if b.conn != nil {
		b.conn.Close()
	}
	if b.embedded != nil {
		b.embedded.Shutdown()
		b.embedded.WaitForShutdown()
	}
}

func (b *Bus) send(n note) {
	data, err := json.Marshal(n)
	if err == nil {
		err = b.conn.Publish(subject, data)
	}
	if err != nil {
		b.log.Warn("a wake-up was not sent", "kind", n.Kind, "error", err)
	}
}

// TaskQueued wakes the server that holds the agent's link, or all for a task
// that several agents may take.
func (b *Bus) TaskQueued(tenant, agentID string) {
	b.send(note{Kind: "queued", Tenant: tenant, Agent: agentID})
}

// TaskCancel asks for an attempt to be stopped.
func (b *Bus) TaskCancel(agentID string, ref task.Ref, reason string) {
	b.send(note{Kind: "cancel", Agent: agentID, Task: ref.ID, Attempt: ref.Attempt, Reason: reason})
}

// TaskChanged wakes those who follow a task.
func (b *Bus) TaskChanged(tenant, taskID string) {
	b.send(note{Kind: "task", Tenant: tenant, Task: taskID})
}

// AgentChanged makes every server look at an agent again.
func (b *Bus) AgentChanged(tenant, agentID string) {
	b.send(note{Kind: "agent", Tenant: tenant, Agent: agentID})
}

// CommandSent makes every server send a command to the recipients that it holds.
func (b *Bus) CommandSent(tenant, commandID string) {
	b.send(note{Kind: "command", Tenant: tenant, Command: commandID})
}

// Opened tells every server that an agent has opened a link or a stream.
func (b *Bus) Opened(kind, agentID, id string) {
	b.send(note{Kind: "opened", Reason: kind, Agent: agentID, ID: id})
}

// question is what is asked of rivals.
type question struct {
	Agent  string       `json:"a"`
	Caller fleet.Caller `json:"c"`
}

// Rival asks the other servers where another start of an agent comes from whose
// link they hold and that lives; "" when there is none, or the bus does not say so
// in time.
func (b *Bus) Rival(ctx context.Context, agentID string, c fleet.Caller) (place string) {
	if b.embedded != nil {
		return "" // there is no other server
	}
	data, err := json.Marshal(question{agentID, c})
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, rivalsAnswerWithin)
	defer cancel()
	answer, err := b.conn.RequestWithContext(ctx, rivals, data)
	if err != nil {
		return "" // the usual: nobody has anything to say
	}
	return string(answer.Data)
}

// receiveRival answers if this server has something to say.
func (b *Bus) receiveRival(m *nats.Msg) {
	var q question
	b.mu.Lock()
	ask := b.handlers.Rival
	b.mu.Unlock()
	if err := json.Unmarshal(m.Data, &q); err != nil || ask == nil {
		return
	}
	go func() { // it waits for the agent
		if place := ask(q.Agent, q.Caller); place != "" {
			if err := m.Respond([]byte(place)); err != nil {
				b.log.Warn("another server was not told of an agent that lives here", "agent", q.Agent, "error", err)
			}
		}
	}()
}

// Follow returns a channel that gets a value when a task may have changed;
// several changes may come as one. The caller calls stop when it is done.
func (b *Bus) Follow(taskID string) (changed <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.followers[taskID] == nil {
		b.followers[taskID] = map[chan struct{}]bool{}
	}
	b.followers[taskID][ch] = true
	return ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.followers[taskID], ch)
		if len(b.followers[taskID]) == 0 {
			delete(b.followers, taskID)
		}
	}
}

func (b *Bus) receive(m *nats.Msg) {
	var n note
	if err := json.Unmarshal(m.Data, &n); err != nil {
		b.log.Warn("a wake-up was not understood", "error", err)
		return
	}
	b.mu.Lock()
	h := b.handlers
	if n.Kind == "task" {
		for ch := range b.followers[n.Task] {
			select {
			case ch <- struct{}{}:
			default: // it is awake already
			}
		}
	}
	b.mu.Unlock()
	switch {
	case n.Kind == "queued" && h.TaskQueued != nil:
		h.TaskQueued(n.Tenant, n.Agent)
	case n.Kind == "cancel" && h.TaskCancel != nil:
		h.TaskCancel(n.Agent, task.Ref{ID: n.Task, Attempt: n.Attempt}, n.Reason)
	case n.Kind == "agent" && h.AgentChanged != nil:
		h.AgentChanged(n.Tenant, n.Agent)
	case n.Kind == "command" && h.CommandSent != nil:
		h.CommandSent(n.Tenant, n.Command)
	case n.Kind == "opened" && h.Opened != nil:
		h.Opened(n.Reason, n.Agent, n.ID)
	}
}
