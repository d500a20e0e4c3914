package bus_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"stella-ops.org/stella/internal/bus"
	"stella-ops.org/stella/internal/task"
)

const patience = 10 * time.Second

func open(t *testing.T, url string) *bus.Bus {
	t.Helper()
	b, err := bus.Open(url, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// heard makes a bus tell what it is woken for.
func heard(b *bus.Bus) <-chan string {
	ch := make(chan string, 1000)
	b.Handle(bus.Handlers{
		TaskQueued: func(tenant, agent string) { ch <- fmt.Sprintf("queued %s %s", tenant, agent) },
		TaskCancel: func(agent string, ref task.Ref, reason string) {
			ch <- fmt.Sprintf("cancel %s %s/%d %s", agent, ref.ID, ref.Attempt, reason)
		},
		AgentChanged: func(tenant, agent string) { ch <- fmt.Sprintf("agent %s %s", tenant, agent) },
	})
	return ch
}

func want(t *testing.T, ch <-chan string, want string) {
	t.Helper()
	select {
	case got := <-ch:
		if got != want {
			t.Fatalf("heard %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("did not hear %q", want)
	}
}

// until passes over what came before.
func until(t *testing.T, ch <-chan string, want string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case got := <-ch:
			if got == want {
				return
			}
		case <-deadline:
			t.Fatalf("did not hear %q", want)
		}
	}
}

// joined waits until one bus hears the other: subscriptions take a moment, and
// what was sent before is lost, as every message may be.
func joined(t *testing.T, from *bus.Bus, at <-chan string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for n := 0; ; n++ {
		from.AgentChanged("join", fmt.Sprint(n))
		select {
		case <-at:
			// And let the rest of them pass.
			from.AgentChanged("join", "last")
			until(t, at, "agent join last")
			return
		case <-tick.C:
		case <-deadline:
			t.Fatal("one bus does not hear the other")
		}
	}
}

func TestHandlersAreCalled(t *testing.T) {
	t.Parallel()
	b := open(t, "")
	b.TaskQueued("t", "nobody listens yet")
	ch := heard(b)
	joined(t, b, ch)
	b.TaskQueued("t", "a")
	want(t, ch, "queued t a")
	b.TaskQueued("t", "")
	want(t, ch, "queued t ")
	b.TaskCancel("a", task.Ref{ID: "k", Attempt: 3}, "cancelled by tester")
	want(t, ch, "cancel a k/3 cancelled by tester")
	b.TaskChanged("t", "k") // for followers only
	b.AgentChanged("t", "a")
	want(t, ch, "agent t a")
}

// settle waits until the bus has delivered what was sent before.
func settle(t *testing.T, b *bus.Bus, ch <-chan string) {
	t.Helper()
	b.AgentChanged("settle", "")
	want(t, ch, "agent settle ")
}

func woken(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	b := open(t, "")
	ch := heard(b)
	joined(t, b, ch)
	one, stopOne := b.Follow("k1")
	two, stopTwo := b.Follow("k1")
	other, stopOther := b.Follow("k2")
	defer stopOther()
	// Many changes while nobody looks are one.
	for range 100 {
		b.TaskChanged("t", "k1")
	}
	settle(t, b, ch)
	if !woken(one) || !woken(two) || woken(one) || woken(two) {
		t.Error("100 changes did not wake each follower once")
	}
	if woken(other) {
		t.Error("a follower of another task was woken")
	}
	stopOne()
	stopOne() // idempotent
	b.TaskChanged("t", "k1")
	settle(t, b, ch)
	if woken(one) || !woken(two) {
		t.Error("one who has stopped is woken, or stopped the other")
	}
	stopTwo()
	again, stop := b.Follow("k1")
	defer stop()
	b.TaskChanged("t", "k1")
	settle(t, b, ch)
	if !woken(again) {
		t.Error("nobody can follow any more")
	}
}

// Two servers wake each other over a cluster; both hear what one says.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	srv, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not start")
	}
	a, b := open(t, srv.ClientURL()), open(t, srv.ClientURL())
	atA, atB := heard(a), heard(b)
	joined(t, a, atA)
	joined(t, a, atB)
	a.AgentChanged("begin", "")
	until(t, atA, "agent begin ")
	until(t, atB, "agent begin ")
	changed, stop := b.Follow("k")
	defer stop()
	a.TaskChanged("t", "k")
	a.TaskCancel("agent", task.Ref{ID: "k", Attempt: 1}, "why")
	for _, ch := range []<-chan string{atA, atB} {
		want(t, ch, "cancel agent k/1 why")
	}
	if !woken(changed) {
		t.Error("a follower at the other server is not woken")
	}
	b.Close()
	a.TaskQueued("t", "a")
	want(t, atA, "queued t a")
	if len(atB) != 0 {
		t.Error("a closed bus still hears")
	}
}

// A cluster that is away at the start does not keep a server from starting:
// messages are lost until it is there.
func TestClusterThatIsAway(t *testing.T) {
	t.Parallel()
	b := open(t, "nats://127.0.0.1:1")
	b.TaskQueued("t", "a")
}
