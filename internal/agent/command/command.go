// Package command runs the commands that come over an agent's link: each once,
// by what the agent itself can do or by an executable that its user has put
// into a folder, and keeps the answers until the server has them.
//
// It knows no connection and no task; what the agent itself can do, it is given.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

const (
	// atOnce is how many executables run at a time; more wait, and their time
	// runs.
	atOnce = 4
	// giveUpBefore is how long before the end of its time a command is given
	// up, or a tenth of its time when that is less.
	giveUpBefore = time.Second
	// rememberFor is how long a command's id is known after its expiry, so
	// that one that comes again does not run again.
	rememberFor = 10 * time.Minute
	// MaxResult bounds an answer, as the server does.
	MaxResult = 256 << 10
	// maxError bounds what is said of why a command failed, as the server does.
	maxError = 4096
)

// Builtin runs one type of command. What it returns is encoded as JSON; its
// error is what the sender sees.
type Builtin func(ctx context.Context, payload json.RawMessage) (any, error)

// Runner runs commands. It is safe for concurrent use.
type Runner struct {
	folder   string
	builtins map[string]Builtin
	begin    func(*api.AgentCommand) error
	log      *slog.Logger
	slots    chan struct{}
	dirty    chan struct{}
	running  sync.WaitGroup
	// life ends what runs. It is not a link's: commands outlive the link that
	// they came over.
	life context.Context
	end  context.CancelCauseFunc

	mu      sync.Mutex
	stopped bool // nothing begins any more
	runs    map[string]*run
	// last is closed when the last builtin that came has ended: they run in
	// the order in which they came, so that a resume never overtakes a drain.
	last chan struct{}
}

// run is one command, from its arrival until it may be forgotten.
type run struct {
	forget time.Time
	ack    *stellav1.CommandAck // nil while it runs; replaced, never altered
	sent   bool                 // over the link that stands now
	known  bool                 // the server has the answer
	// refused: what came was not what the server had sent. That may come yet.
	refused bool
}

// errStopped is why a command is given up when the agent ends.
var errStopped = errors.New("the agent was stopped")

// NewRunner returns a runner that looks for executables in folder and can do
// builtins itself. begin is asked before a command begins; its error says why it
// must not, for the one who sent it.
func NewRunner(folder string, builtins map[string]Builtin, begin func(*api.AgentCommand) error, log *slog.Logger) *Runner {
	// Executables are run in this folder, where a relative path would mean
	// something else.
	if abs, err := filepath.Abs(folder); err == nil && folder != "" {
		folder = abs
	}
	r := &Runner{
		folder: folder, builtins: builtins, begin: begin, log: log, slots: make(chan struct{}, atOnce), dirty: make(chan struct{}, 1),
		runs: map[string]*run{}, last: make(chan struct{}),
	}
	r.life, r.end = context.WithCancelCause(context.Background())
	close(r.last)
	return r
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
// It does not block. The command is given up when its time is over, or by
// Drain.
func (r *Runner) Take(c *api.AgentCommand) {
	// How long it is good for, by this machine's clock: the server's may
	// differ. It is given up a little before, so that why is told in time.
	left := c.ExpiresAt.Sub(c.CreatedAt)
	runFor := left - min(left/10, giveUpBefore)
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, old := range r.runs {
		if now.After(old.forget) {
			delete(r.runs, id)
		}
	}
	if old := r.runs[c.ID]; old != nil && !old.refused {
		old.sent, old.known = false, false
		r.touch()
		return
	}
	if r.stopped {
		return // who takes this agent's place will not know of it, and may run it
	}
	this := &run{forget: now.Add(left + rememberFor)}
	r.runs[c.ID] = this
	before, done := r.last, func() {}
	if r.builtins[c.Type] != nil {
		mine := make(chan struct{})
		r.last, done = mine, func() { close(mine) }
	}
	r.running.Go(func() {
		defer done()
		ctx, cancel := context.WithTimeoutCause(r.life, runFor, fmt.Errorf("its time of %s is over", left.Round(time.Second)))
		defer cancel()
		ack := r.perform(ctx, c, before)
		ack.CommandId = c.ID
		r.mu.Lock()
		this.ack = ack
		r.mu.Unlock()
		r.touch()
	})
}

// Refuse answers a command that must not be run, unless it came before. It does
// not block.
func (r *Runner) Refuse(id string, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.runs[id] != nil || r.stopped {
		return // somebody only says its name
	}
	ack := failed("it was not run: " + why.Error())
	ack.CommandId = id
	r.runs[id] = &run{forget: time.Now().Add(rememberFor), ack: ack, refused: true}
	r.touch()
}

// perform runs a command and makes its answer.
func (r *Runner) perform(ctx context.Context, c *api.AgentCommand, before <-chan struct{}) (ack *stellav1.CommandAck) {
	defer func() {
		if p := recover(); p != nil {
			r.log.ErrorContext(ctx, "a command broke its handler", "command", c.ID, "type", c.Type, "panic", p)
			ack = failed("the agent's handler of this type broke; the agent's log tells more")
		}
	}()
	leave, err := r.enter(ctx, c.Type, before)
	if err != nil {
		return failed("it waited for other commands of this agent, and was not begun: " + err.Error())
	}
	defer leave()
	if err := r.begin(c); err != nil {
		r.log.WarnContext(ctx, "a command is not run", "command", c.ID, "type", c.Type, "error", err)
		return failed("it was not run: " + err.Error())
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

// enter waits until a command may begin: a builtin for the one before it, and
// an executable for a slot, so that what the agent can do itself never waits
// for what its user has added.
func (r *Runner) enter(ctx context.Context, kind string, before <-chan struct{}) (leave func(), err error) {
	leave = func() {}
	if r.builtins[kind] != nil {
		select {
		case <-before:
		case <-ctx.Done():
		}
	} else {
		select {
		case r.slots <- struct{}{}:
			leave = func() { <-r.slots }
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	stopped := r.stopped
	r.mu.Unlock()
	switch {
	case ctx.Err() != nil: // also when it came at the same time as the slot
		err = context.Cause(ctx)
	case stopped:
		err = errStopped
	default:
		return leave, nil
	}
	leave()
	return nil, err
}

func (r *Runner) handle(ctx context.Context, c *api.AgentCommand) (json.RawMessage, error) {
	do := r.builtins[c.Type]
	if do == nil {
		return r.runExecutable(ctx, c)
	}
	v, err := do(ctx, c.Payload)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode its answer: %w", err)
	}
	if len(data) > MaxResult {
		return nil, fmt.Errorf("its answer of %d bytes is longer than the %d that are taken", len(data), MaxResult)
	}
	return data, nil
}

// failed is the answer of a command that did not work. A frame takes only
// UTF-8: a character that is cut in two would end the link, again and again.
func failed(why string) *stellav1.CommandAck {
	const more = "…"
	why = strings.ToValidUTF8(why, "\uFFFD")
	if len(why) > maxError {
		why = strings.ToValidUTF8(why[:maxError-len(more)], "") + more
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
	if this := r.runs[receipt.GetCommandId()]; this != nil && this.refused {
		delete(r.runs, receipt.GetCommandId())
	} else if this != nil && this.ack != nil {
		this.known = true
		// The first answer stands: should this one be asked for again, then
		// not for its result, which may be long.
		this.ack = &stellav1.CommandAck{CommandId: this.ack.GetCommandId(), Failed: this.ack.GetFailed(), Error: this.ack.GetError()}
	}
	r.mu.Unlock()
	if !receipt.GetAccepted() {
		r.log.WarnContext(ctx, "the answer to a command came to nothing", "command", receipt.GetCommandId(), "reason", receipt.GetReason())
	}
}

// Drain lets nothing new begin, gives what runs time until ctx ends, ends what
// runs then, and returns when nothing runs any more.
func (r *Runner) Drain(ctx context.Context) {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	defer context.AfterFunc(ctx, func() { r.end(errStopped) })()
	r.running.Wait()
}
