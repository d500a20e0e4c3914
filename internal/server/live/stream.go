package live

import "sync"

// Event is one event on its way to a reader.
type Event struct {
	Type string
	Data []byte // one line of JSON
	// Sent is called when the event is on the wire.
	Sent func()
}

// Stream is the queue between those who have something to say and the one
// reader of a stream. It is safe for concurrent use.
type Stream struct {
	events chan Event
	done   chan struct{}
	once   sync.Once
}

// NewStream returns a stream in which so many events may wait.
func NewStream(queue int) *Stream {
	return &Stream{events: make(chan Event, queue), done: make(chan struct{})}
}

// Offer queues an event and reports whether there was room for it. It does not
// block.
func (s *Stream) Offer(e Event) bool {
	select {
	case s.events <- e:
		return true
	default:
		return false
	}
}

// Events are what is to be written.
func (s *Stream) Events() <-chan Event { return s.events }

// Done is closed when the stream is over.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Close ends the stream, and reports whether it was the one to do so.
func (s *Stream) Close() (first bool) {
	s.once.Do(func() { close(s.done); first = true })
	return first
}
