package bus

import (
	"encoding/json"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/event"
)

var _ event.Publisher = (*Bus)(nil)

const events = "stella.events"

// maxEvents is how many events travel in one message.
const maxEvents = 500

// news is a message of events.
type news struct {
	Tenant string      `json:"t"`
	Events []api.Event `json:"e"`
}

// Publish tells events to those who listen, on every server.
func (b *Bus) Publish(tenant string, happened ...api.Event) {
	for part := range slices.Chunk(happened, maxEvents) {
		data, err := json.Marshal(news{Tenant: tenant, Events: part})
		if err == nil {
			err = b.conn.Publish(events, data)
		}
		if err != nil {
			b.log.Warn("events were not told", "events", len(part), "error", err)
		}
	}
}

// Listener gets the events that it asked for, in the order in which they came
// to this server.
type Listener struct {
	bus    *Bus
	tenant string
	filter event.Filter
	events chan *api.Event
	missed chan struct{}
	once   sync.Once
}

// maxListener is how many events may wait for a listener.
const maxListener = 8192

// Listen returns a listener for a tenant's events; the caller closes it.
func (b *Bus) Listen(tenant string, f event.Filter) *Listener {
	l := &Listener{bus: b, tenant: tenant, filter: f, events: make(chan *api.Event, maxListener), missed: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listeners[l] = true
	return l
}

// Events are the events as they come.
func (l *Listener) Events() <-chan *api.Event { return l.events }

// Missed is closed when the listener was so slow that an event was lost to it;
// no more come then.
func (l *Listener) Missed() <-chan struct{} { return l.missed }

// Close ends the listening; it may be called again.
func (l *Listener) Close() {
	l.bus.mu.Lock()
	defer l.bus.mu.Unlock()
	delete(l.bus.listeners, l)
}

func (b *Bus) receiveEvents(m *nats.Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.listeners) == 0 {
		return
	}
	var n news
	if err := json.Unmarshal(m.Data, &n); err != nil {
		b.log.Warn("events were not understood", "error", err)
		return
	}
	for l := range b.listeners {
		if l.tenant != n.Tenant {
			continue
		}
		for i := range n.Events {
			if !l.filter.Matches(&n.Events[i]) {
				continue
			}
			select {
			case l.events <- &n.Events[i]:
				continue
			default:
			}
			l.once.Do(func() { close(l.missed) })
			delete(b.listeners, l)
			break
		}
	}
}
