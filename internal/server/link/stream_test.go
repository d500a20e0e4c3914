package link

import (
	"log/slog"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/command"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/server/live"
)

func (b *bench) command(s *command.Service, to *fleet.Agent) *command.Command {
	b.t.Helper()
	c, err := s.Send(b.t.Context(), "default", "tester", command.Recipient{Scope: api.ScopeAgent, Name: to.ID}, api.CommandRequest{Type: "replay", ExpiresIn: 7200})
	b.must(err)
	return c
}

func (b *bench) stream(a *fleet.Agent) (events *live.Stream, leave func(slow bool)) {
	b.t.Helper()
	events, leave, err := b.OpenStream(b.t.Context(), a)
	b.must(err)
	b.t.Cleanup(func() { leave(false) })
	return events, leave
}

func (b *bench) wantEvent(s *live.Stream) {
	b.t.Helper()
	select {
	case <-s.Events():
	case <-time.After(patience):
		b.t.Fatal("no event comes")
	}
}

func over(s *live.Stream) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

// A reader for whom too much waits loses its stream, is counted once, and may
// come back; others keep theirs.
func TestSlowStreamIsDropped(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	slow, quick := b.agent("slow"), b.agent("quick")
	events, leave := b.stream(slow)
	others, _ := b.stream(quick)
	for range maxStreamQueue {
		b.command(b.commands, slow)
	}
	for deadline := time.Now().Add(patience); len(events.Events()) < maxStreamQueue; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d events wait", len(events.Events()))
		}
	}
	if over(events) || b.Dropped() != 0 {
		t.Fatal("dropped although there was room")
	}
	b.command(b.commands, slow)
	select {
	case <-events.Done():
	case <-time.After(patience):
		t.Fatal("not dropped")
	}
	leave(true) // as its writer says, too
	if b.Dropped() != 1 || b.Streaming(slow.ID) || over(others) || !b.Streaming(quick.ID) {
		t.Errorf("dropped %d streams; the slow one streams: %v, the quick one: %v", b.Dropped(), b.Streaming(slow.ID), b.Streaming(quick.ID))
	}
	again, leaveAgain := b.stream(slow)
	b.command(b.commands, slow)
	b.wantEvent(again)
	leave(false) // the old one's end, late
	if !b.Streaming(slow.ID) {
		t.Error("the end of the old stream took the new one along")
	}
	b.command(b.commands, quick)
	b.wantEvent(others)
	leaveAgain(true) // its writer waited too long
	if b.Dropped() != 2 {
		t.Errorf("dropped %d streams", b.Dropped())
	}
}

// Clocks of servers differ: what is sent after a stream was opened comes over
// it, whatever the time is where it was sent.
func TestStreamBesideAServerWhoseClockIsSlow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	slow := func() time.Time { return time.Now().UTC().Add(-time.Hour) }
	elsewhere := command.NewService(b.store, b, b, b.signer, command.Options{}, slow, slog.New(slog.DiscardHandler))
	events, _ := b.stream(a)
	b.command(elsewhere, a)
	b.wantEvent(events)
}

// A stream begins with what is sent after it was opened, also when what was
// sent before is looked for again; of what its wake-up was lost, it is told.
func TestStreamDoesNotReplay(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.command(b.commands, a)
	events, _ := b.stream(a)
	b.ahead.Add(int64(2 * unsentAfter))
	b.lookForCommands(t.Context())
	if n := len(events.Events()); n != 0 {
		t.Fatalf("%d commands come again", n)
	}
	deaf := command.NewService(b.store, mute{}, b, b.signer, command.Options{}, b.now, slog.New(slog.DiscardHandler))
	b.command(deaf, a)
	b.ahead.Add(int64(2 * unsentAfter))
	b.lookForCommands(t.Context())
	if n := len(events.Events()); n != 1 {
		t.Fatalf("%d commands come, of one whose wake-up was lost", n)
	}
}

// mute loses every wake-up.
type mute struct{}

// CommandSent implements command.Waker.
func (mute) CommandSent(string, string) {}

// Who is revoked behind the handshake and before the first word is not let in,
// although nobody could tell that link, or stream, which was not there yet.
func TestUnwelcomeSinceTheHandshake(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	w := newWire(t)
	b.serve(a, w)
	_, err := b.agents.Revoke(t.Context(), "default", a.ID)
	b.must(err)
	w.up <- hello()
	w.wantEnd(fault.Forbidden, "agent_revoked")
	if b.Connected(a.ID) {
		t.Error("it counts as connected")
	}
	if _, _, err := b.OpenStream(t.Context(), a); fault.CodeOf(err) != "agent_revoked" {
		t.Errorf("its stream: %v", err)
	}
	if b.Streaming(a.ID) {
		t.Error("it counts as streaming")
	}
}
