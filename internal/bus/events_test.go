package bus_test

import (
	"fmt"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/bus"
	"stella-ops.org/stella/internal/event"
)

func nextEvent(t *testing.T, l *bus.Listener) *api.Event {
	t.Helper()
	select {
	case e := <-l.Events():
		return e
	case <-time.After(patience):
		t.Fatal("no event comes")
		return nil
	}
}

// Listeners get what they asked for, of their tenant, in order, and nothing
// else; on another server, too.
func TestEventsReachListeners(t *testing.T) {
	t.Parallel()
	b := open(t, "")
	all := b.Listen("t", event.Filter{})
	tasks := b.Listen("t", event.Filter{Kinds: []string{"task"}})
	one := b.Listen("t", event.Filter{Kinds: []string{api.EventAgentStale, "command"}, AgentID: "a"})
	other := b.Listen("other", event.Filter{})
	b.Publish("t", api.Event{Kind: api.EventAgentStale, AgentID: "b"}, api.Event{Kind: api.EventTaskFailed, TaskID: "k", AgentID: "a"})
	b.Publish("t", api.Event{Kind: api.EventAgentStale, AgentID: "a"}, api.Event{Kind: api.EventCommandExpired, AgentID: "a"})
	b.Publish("other", api.Event{Kind: api.EventAgentDead, AgentID: "x"})
	for _, c := range []struct {
		name string
		l    *bus.Listener
		want []string
	}{
		{"all", all, []string{"agent.stale b", "task.failed a", "agent.stale a", "command.expired a"}},
		{"tasks", tasks, []string{"task.failed a"}},
		{"one", one, []string{"agent.stale a", "command.expired a"}},
		{"another tenant", other, []string{"agent.dead x"}},
	} {
		for _, want := range c.want {
			if e := nextEvent(t, c.l); e.Kind+" "+e.AgentID != want {
				t.Errorf("%s: %s %s, want %s", c.name, e.Kind, e.AgentID, want)
			}
		}
	}
	all.Close()
	all.Close()
	b.Publish("t", api.Event{Kind: api.EventTaskFailed, AgentID: "last"})
	if e := nextEvent(t, tasks); e.AgentID != "last" {
		t.Errorf("%+v", e)
	}
	for name, l := range map[string]*bus.Listener{"one that left": all, "one that did not ask": one, "another tenant": other} {
		if n := len(l.Events()); n != 0 {
			t.Errorf("%s got %d events more", name, n)
		}
	}
}

// Who does not read is told that he missed something, and holds up nobody.
func TestSlowListenerIsTold(t *testing.T) {
	t.Parallel()
	b := open(t, "")
	slow, quick := b.Listen("t", event.Filter{}), b.Listen("t", event.Filter{Kinds: []string{"agent"}})
	defer quick.Close()
	many := make([]api.Event, 10_000)
	for i := range many {
		many[i] = api.Event{Kind: api.EventTaskQueued, TaskID: fmt.Sprint(i)}
	}
	b.Publish("t", many...)
	b.Publish("t", api.Event{Kind: api.EventAgentLive})
	nextEvent(t, quick)
	select {
	case <-slow.Missed():
	default:
		t.Fatal("it was not told that it missed something")
	}
	first := nextEvent(t, slow)
	if first.TaskID != "0" {
		t.Errorf("what waits begins with %s", first.TaskID)
	}
	slow.Close()
}

// A note of what was opened, or sent, wakes the handlers.
func TestNotesOfLinksAndCommands(t *testing.T) {
	t.Parallel()
	b := open(t, "")
	ch := make(chan string, 10)
	b.Handle(bus.Handlers{
		CommandSent: func(tenant, id string) { ch <- "command " + tenant + " " + id },
		Opened:      func(kind, agent, id string) { ch <- "opened " + kind + " " + agent + " " + id },
	})
	b.CommandSent("t", "c")
	want(t, ch, "command t c")
	b.Opened("link", "a", "1")
	want(t, ch, "opened link a 1")
}
