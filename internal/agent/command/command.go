// Package command runs the commands that come over an agent's link: each once,
// by what the agent itself can do or by an executable that its user has put
// into a folder, and keeps the answers until the server has them.
//
// It knows no connection and no task; what the agent itself can do, it is given.
package command

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

const (
	// atOnce is how many commands run at a time; more wait, and their time
	// runs.
	atOnce = 4
	// rememberFor is how long a command's id is known after its expiry, so
	// that one that comes again does not run again.
	rememberFor = 10 * time.Minute
	// maxResult bounds an answer, as the server does.
	maxResult = 256 << 10
)

// Builtin runs one type of command. What it returns is encoded as JSON; its
// error is what the sender sees.
type Builtin func(ctx context.Context, payload json.RawMessage) (any, error)

// Runner runs commands. It is safe for concurrent use.
type Runner struct {
	folder   string
	builtins map[string]Builtin
	log      *slog.Logger
	slots    chan struct{}
	dirty    chan struct{}
	running  sync.WaitGroup

	mu   sync.Mutex
	runs map[string]*run // by the command's id
}

// run is one command, from its arrival until it may be forgotten.
type run struct {
	forget time.Time
	ack    *stellav1.CommandAck // nil while it runs
	sent   bool                 // over the link that stands now
	known  bool                 // the server has the answer
}

// NewRunner returns a runner that looks for executables in folder and can do
// builtins itself.
func NewRunner(folder string, builtins map[string]Builtin, log *slog.Logger) *Runner {
	return &Runner{
		folder: folder, builtins: builtins, log: log, slots: make(chan struct{}, atOnce), dirty: make(chan struct{}, 1), runs: map[string]*run{},
	}
}

// Dirty has a value when Flush has something to send.
func (r *Runner) Dirty() <-chan struct{} { return r.dirty }

func (r *Runner) touch() {
	select {
	case r.dirty <- struct{}{}:
	default: // it is known already
	}
}

// Take runs a command, unless it came before; then its answer is sent again.
// It does not block. The command is given up when ctx ends or its time is over.
func (r *Runner) Take(ctx context.Context, c *api.AgentCommand) {
	// How long it is good for, by this machine's clock: the server's may
	// differ.
	left := c.ExpiresAt.Sub(c.CreatedAt)
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, old := range r.runs {
		if now.After(old.forget) {
			delete(r.runs, id)
		}
	}
	if old := r.runs[c.ID]; old != nil {
		old.sent, old.known = false, false
		r.touch()
		return
	}
	this := &run{forget: now.Add(left + rememberFor)}
	r.runs[c.ID] = this
	r.running.Go(func() {
		ctx, cancel := context.WithTimeoutCause(ctx, left, fmt.Errorf("its time of %s is over", left.Round(time.Second)))
		defer cancel()
		ack := r.perform(ctx, c)
		ack.CommandId = c.ID
		r.mu.Lock()
		this.ack = ack
		r.mu.Unlock()
		r.touch()
	})
}

// perform runs a command and makes its answer.
func (r *Runner) perform(ctx context.Context, c *api.AgentCommand) (ack *stellav1.CommandAck) {
	defer func() {
		if p := recover(); p != nil {
			r.log.ErrorContext(ctx, "a command broke its handler", "command", c.ID, "type", c.Type, "panic", p)
			ack = failed("the agent's handler of this type broke; the agent's log tells more")
		}
	}()
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return failed("the agent was busy with other commands until " + context.Cause(ctx).Error())
	}
	began := time.Now()
	result, err := r.handle(ctx, c)
	if err != nil {
		r.log.WarnContext(ctx, "a command failed", "command", c.ID, "type", c.Type, "error", err)
		return failed(err.Error())
	}
	r.log.InfoContext(ctx, "a command was run", "command", c.ID, "type", c.Type, "took", time.Since(began).Round(time.Millisecond).String())
	return &stellav1.CommandAck{ResultJson: result}
}

func (r *Runner) handle(ctx context.Context, c *api.AgentCommand) (json.RawMessage, error) {
	if do := r.builtins[c.Type]; do != nil {
		v, err := do(ctx, c.Payload)
		if err != nil {
			return nil, err
		}
		data, err := json.Marshal(v)
		if err == nil && len(data) > maxResult {
			err = fmt.Errorf("its answer of %d bytes is longer than the %d that are taken", len(data), maxResult)
		}
		return data, err
	}
	return r.runExecutable(ctx, c)
}

func failed(why string) *stellav1.CommandAck {
	const most = 4096
	if len(why) > most {
		why = why[:most-len("…")] + "…"
	}
	return &stellav1.CommandAck{Failed: true, Error: why}
}

// Flush sends the answers that the server does not have.
func (r *Runner) Flush(send func(*stellav1.ConnectRequest) error) error {
	r.mu.Lock()
	var acks []*stellav1.CommandAck
	for _, this := range r.runs {
		if this.ack != nil && !this.sent && !this.known {
			this.sent = true
			acks = append(acks, this.ack)
		}
	}
	r.mu.Unlock()
	for _, ack := range acks {
		if err := send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_CommandAck{CommandAck: ack}}); err != nil {
			return err
		}
	}
	return nil
}

// Reconnected has everything sent again that the last link may have lost.
func (r *Runner) Reconnected() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, this := range r.runs {
		this.sent = false
	}
	r.touch()
}

// Known notes that the server has the answer to a command, or wants none.
func (r *Runner) Known(ctx context.Context, receipt *stellav1.CommandReceipt) {
	r.mu.Lock()
	this := r.runs[receipt.GetCommandId()]
	if this != nil {
		this.known = true
	}
	r.mu.Unlock()
	if !receipt.GetAccepted() {
		r.log.WarnContext(ctx, "the answer to a command came to nothing", "command", receipt.GetCommandId(), "reason", receipt.GetReason())
	}
}

// Wait returns when no command runs any more.
func (r *Runner) Wait() { r.running.Wait() }
