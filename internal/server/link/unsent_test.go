package link

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/task"
)

// claimUnderWay has an agent's link begin to claim a task, and returns when it
// has; finish lets it have the task, and nobody else before.
func (b *bench) claimUnderWay(a *fleet.Agent) (k *task.Task, finish func()) {
	b.t.Helper()
	begun, first, others := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var claims atomic.Int64
	wait := func() {
		if claims.Add(1) > 1 {
			<-others
			return
		}
		close(begun)
		<-first
	}
	b.beforeClaim.Store(&wait)
	letFirst, letOthers := sync.OnceFunc(func() { close(first) }), sync.OnceFunc(func() { close(others) })
	b.t.Cleanup(func() { letFirst(); letOthers() })
	k = b.submit(a)
	select {
	case <-begun:
	case <-time.After(patience):
		b.t.Fatal("nobody claims the task")
	}
	return k, func() {
		b.t.Helper()
		letFirst()
		b.becomes(k.ID, api.TaskAssigned)
		b.beforeClaim.Store(nil)
		letOthers()
	}
}

// becomes waits until a task is in a state.
func (b *bench) becomes(id string, want api.TaskState) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); b.state(id).State != want; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("the task is %s", b.state(id).State)
		}
	}
}

// nothing checks that nothing but acknowledgements has come.
func (w *wire) nothing() {
	w.t.Helper()
	w.settle()
	w.settle()
}

// found has a hub look until a task comes: it passes over a link that is claiming.
func (w *wire) found(b *bench) (*api.AgentTask, *stellav1.TaskRef) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); len(w.down) == 0 && time.Now().Before(deadline); <-time.After(time.Millisecond) {
		b.lookForUnsent(w.t.Context())
	}
	return w.task()
}

// taskAmongAcks takes a task, and the acknowledgements of results before it.
func (w *wire) taskAmongAcks() (*api.AgentTask, *stellav1.TaskRef) {
	w.t.Helper()
	f := w.next()
	for ; f.GetResultAck() != nil; f = w.next() {
		continue
	}
	return w.taskIn(f)
}

// A task that a link claims while another takes its place goes out over that one,
// once, and soon.
func TestTaskThatAnEndedLinkClaims(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	old := b.connect(a)
	k, finish := b.claimUnderWay(a)
	anew := b.connect(a)
	anew.settle() // it has taken stock, and found nothing
	finish()
	old.wantEnd(fault.Conflict, codeReplaced)
	anew.nothing()

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { _ = b.Run(ctx) }()
	began := time.Now()
	got, ref := anew.task()
	if got.ID != k.ID || got.Attempt != 1 || time.Since(began) > 2*lookEvery {
		t.Errorf("%+v after %s", got, time.Since(began))
	}
	for range 3 {
		b.lookForUnsent(t.Context())
	}
	anew.nothing()
	anew.up <- result(ref, `{"success":true}`)
	if ack := anew.next().GetResultAck(); !ack.GetAccepted() {
		t.Errorf("%v", ack)
	}
	b.lookForUnsent(t.Context())
	anew.nothing()
}

// The same when the two links are on two servers, and the old one does not know
// yet that it has ended.
func TestTaskThatALinkOnAnotherServerClaims(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.connect(a)
	k, finish := b.claimUnderWay(a)
	other := &bench{t: t, store: b.store, tgts: b.tgts}
	other.Hub = NewHub(b.agents, b.monitor, b.tasks, b.commands, quiet{}, b.opts, b.now, b.log)
	anew := other.connect(a)
	anew.settle() // as above
	finish()
	anew.nothing()
	if got, _ := anew.found(other); got.ID != k.ID || got.Attempt != 1 {
		t.Errorf("%+v", got)
	}
	other.lookForUnsent(t.Context())
	anew.nothing()
}

// quiet is a server that no other hears.
type quiet struct{}

// Opened implements Opener.
func (quiet) Rival(context.Context, string, fleet.Caller) string { return "" }
func (quiet) Opened(string, string, string)                      {}

// Publish implements event.Publisher.
func (quiet) Publish(string, ...api.Event) {}

// What an agent that takes nothing was given before waits until it takes some.
func TestLostTaskWaitsForWhoTakesNone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.connect(a)
	k, finish := b.claimUnderWay(a)
	anew := newWire(t)
	first := hello()
	first.GetHello().NotAccepting = "it is drained"
	anew.up <- first
	b.serve(a, anew)
	if anew.next().GetWelcome() == nil {
		t.Fatal("no welcome")
	}
	getsNothing := func() {
		t.Helper()
		anew.up <- beat(&stellav1.Heartbeat{NotAccepting: "it is drained"})
		if f := anew.next(); f.GetHeartbeatAck() == nil {
			t.Fatalf("it gets %v", f)
		}
	}
	getsNothing() // and its link has asked what it was given
	finish()
	b.lookForUnsent(t.Context())
	getsNothing()
	anew.settle()
	if got, _ := anew.found(b); got.ID != k.ID {
		t.Errorf("%+v", got)
	}
}

// However often it is looked, what goes out over a link goes out once; nor does
// what the agent has named come again.
func TestNothingGoesOutTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	w := b.connect(a)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				b.lookForUnsent(b.t.Context())
			}
		}
	}()
	const many = 40
	seen := map[string]bool{}
	for range many {
		b.submit(a)
	}
	for range many {
		k, ref := w.taskAmongAcks()
		if seen[k.ID] {
			t.Fatalf("task %s comes again", k.ID)
		}
		seen[k.ID] = true
		w.up <- result(ref, `{"success":true}`)
	}
	close(stop)
	<-stopped
	for id := range seen {
		b.becomes(id, api.TaskSucceeded)
	}
	b.submit(a)
	_, ref := w.taskAmongAcks()
	w.leave()
	// It is in the agent's journal, and the word of that was lost with the link.
	again := b.connect(a, ref)
	b.lookForUnsent(t.Context())
	again.nothing()
}
