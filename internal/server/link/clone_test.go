package link

import (
	"testing"
	"time"

	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// start serves a link of one start of an agent; an empty one says none.
func (b *bench) start(a *fleet.Agent, instance string, boot int64) *wire {
	w := newWire(b.t)
	f := hello()
	f.GetHello().Instance, f.GetHello().Boot, f.GetHello().Host = instance, boot, "host of "+instance
	w.up <- f
	b.serve(a, w)
	return w
}

// answering has an agent's end answer when it is asked for a sign of life.
func (w *wire) answering() {
	go func() {
		for {
			select {
			case f := <-w.down:
				if f.GetHeartbeatWanted() != nil {
					w.up <- beat(&stellav1.Heartbeat{})
				}
			case <-w.closed:
				return
			}
		}
	}()
}

func (w *wire) wantWelcome(within time.Duration) {
	w.t.Helper()
	began := time.Now()
	if f := w.next(); f.GetWelcome() == nil {
		w.t.Fatalf("instead of a welcome: %v", f)
	}
	if took := time.Since(began); took > within {
		w.t.Errorf("it was let in after %s, want %s", took, within)
	}
}

func TestClones(t *testing.T) {
	t.Parallel()
	const soon = answerWithin + 2*time.Second
	t.Run("the older one lives", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		a := b.agent("a")
		old := b.start(a, "first", 1)
		old.wantWelcome(soon)
		old.answering()
		for range 3 {
			clone := b.start(a, "copy", 2)
			clone.wantEnd(fault.Conflict, "identity_in_use")
		}
		b.must(b.agents.WithClones(t.Context(), a.TenantID, a))
		if a.Clone == nil || a.Clone.Held != "host of copy" || a.Clone.Kept != "host of first" {
			t.Errorf("%+v", a.Clone)
		}
		// Neither does it get anything by asking, nor by asking for a certificate.
		for _, c := range []func(fleet.Caller) error{
			func(c fleet.Caller) error { return b.Sole(t.Context(), a, c) },
			func(c fleet.Caller) error { return b.Polled(t.Context(), a, c) },
		} {
			if err := c(fleet.Caller{Instance: "copy"}); fault.CodeOf(err) != "identity_in_use" {
				t.Errorf("%v", err)
			}
			b.must(c(fleet.Caller{Instance: "first"}))
			b.must(c(fleet.Caller{}))
		}
		if !b.Connected(a.ID) {
			t.Error("the older one is not connected any more")
		}
	})
	t.Run("the older link is half dead", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		a := b.agent("a")
		old := b.start(a, "first", 1)
		old.wantWelcome(soon)
		again := b.start(a, "second", 2)
		again.wantWelcome(soon)
		old.wantEnd(fault.Conflict, codeReplaced)
		b.must(b.agents.WithClones(t.Context(), a.TenantID, a))
		if a.Clone != nil {
			t.Errorf("%+v", a.Clone)
		}
	})
	t.Run("the same start again", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		a := b.agent("a")
		old := b.start(a, "first", 1)
		old.wantWelcome(soon)
		b.start(a, "first", 1).wantWelcome(answerWithin / 2)
	})
	t.Run("an agent that says no instance", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		a := b.agent("a")
		old := b.start(a, "", 0)
		old.wantWelcome(soon)
		b.start(a, "", 0).wantWelcome(answerWithin / 2)
		b.start(a, "first", 1).wantWelcome(answerWithin / 2)
	})
	// Its counter says that it is no restart: the older one gets more time.
	t.Run("the older one is slow", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		a := b.agent("a")
		old := b.start(a, "first", 7)
		old.wantWelcome(soon)
		clone := b.start(a, "copy", 7)
		if f := old.next(); f.GetHeartbeatWanted() == nil {
			t.Fatalf("%v", f)
		}
		<-time.After(2 * answerWithin)
		old.up <- beat(&stellav1.Heartbeat{})
		clone.wantEnd(fault.Conflict, "identity_in_use")
	})
}
