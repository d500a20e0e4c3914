package rest

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/bus"
	"stella-ops.org/stella/internal/event"
	"stella-ops.org/stella/internal/server/live"
)

// reader is a client's end of a stream: it takes what is written, or, while it
// is stuck, nothing until the deadline.
type reader struct {
	header http.Header
	taken  chan struct{} // closed: it takes everything; nil: it does from the start

	mu       sync.Mutex
	text     bytes.Buffer
	deadline time.Time
}

var _ http.ResponseWriter = (*reader)(nil)

func newReader() *reader { return &reader{header: http.Header{}} }

// Header implements http.ResponseWriter.
func (r *reader) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (*reader) WriteHeader(int) {}

// Flush implements http.Flusher.
func (*reader) Flush() {}

// SetWriteDeadline is what http.ResponseController looks for.
func (r *reader) SetWriteDeadline(at time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = at
	return nil
}

// Write implements http.ResponseWriter.
func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken != nil {
		late := time.After(time.Until(r.deadline))
		r.mu.Unlock()
		select {
		case <-r.taken:
		case <-late:
			r.mu.Lock()
			return 0, errors.New("http2: stream closed") // as it is said there
		}
		r.mu.Lock()
	}
	return r.text.Write(p)
}

func (r *reader) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// on makes the context of a request that is answered to the reader.
func (r *reader) on(ctx context.Context) huma.Context {
	return humago.NewContext(&huma.Operation{}, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody), r)
}

func streaming(now func() time.Time) *Server {
	return &Server{Deps: Deps{Stopping: make(chan struct{})}, now: now, log: slog.New(slog.DiscardHandler)}
}

// A stream that has nothing to say shows that it lives, every 15 seconds.
func TestStreamShowsThatItLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r, stream := streaming(time.Now), newReader(), live.NewStream(1)
		ended := make(chan error, 1)
		go func() { ended <- s.agentEvents(r.on(t.Context()), stream) }()
		synctest.Wait()
		said := ": ok\n\n"
		for range 3 {
			if r.String() != said {
				t.Fatalf("%q, want %q", r, said)
			}
			if !r.deadline.IsZero() {
				t.Fatal("nothing is being written, and that has a deadline")
			}
			time.Sleep(15*time.Second - time.Nanosecond) //nolint:forbidigo // the bubble's clock
			synctest.Wait()
			if r.String() != said {
				t.Fatalf("before its time: %q", r)
			}
			time.Sleep(time.Nanosecond) //nolint:forbidigo // the bubble's clock
			synctest.Wait()
			said += ": still here\n\n"
		}
		for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
			if got := r.header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		stream.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A reader that takes nothing for ten seconds is given up; what did not get
// through does not count as sent.
func TestStreamGivesUpAStuckReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r, stream := streaming(time.Now), newReader(), live.NewStream(2)
		ended := make(chan error, 1)
		go func() { ended <- s.agentEvents(r.on(t.Context()), stream) }()
		synctest.Wait()
		sent := 0
		stream.Offer(live.Event{Type: "one", Data: []byte(`{}`), Sent: func() { sent++ }})
		synctest.Wait()
		r.taken = make(chan struct{}) // from here on
		stream.Offer(live.Event{Type: "two", Data: []byte(`{}`), Sent: func() { sent++ }})
		began := time.Now()
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("it ends with %v", err)
		}
		if took := time.Since(began); took != 10*time.Second || sent != 1 {
			t.Errorf("after %s, with %d events sent", took, sent)
		}
	})
}

// Ids of events grow, also when the clock goes back or stands, and from one
// process to the next.
func TestEventIDsGrow(t *testing.T) {
	t.Parallel()
	at := time.Now()
	var first, next eventIDs
	last := uint64(0)
	for _, d := range []time.Duration{0, 0, time.Second, -time.Hour, 0, time.Minute} {
		id := first.next(at.Add(d))
		if id <= last {
			t.Errorf("%d after %d", id, last)
		}
		last = id
	}
	if id := next.next(at.Add(2 * time.Minute)); id <= last {
		t.Errorf("after a restart: %d after %d", id, last)
	}
	var wg sync.WaitGroup
	var seen sync.Map
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if _, again := seen.LoadOrStore(first.next(at), true); again {
					t.Error("an id was given twice")
				}
			}
		})
	}
	wg.Wait()
}

// A follower that does not keep up is cut off where it missed something, and
// not before; others go on.
func TestSlowFollowerIsCut(t *testing.T) {
	t.Parallel()
	b, err := bus.Open("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	b.Handle(bus.Handlers{})
	s := streaming(time.Now)
	follow := func(r *reader) (*bus.Listener, <-chan struct{}) {
		l, ended := b.Listen("t", event.Filter{}), make(chan struct{})
		go func() { defer close(ended); defer l.Close(); s.peopleEvents(r.on(t.Context()), l) }()
		return l, ended
	}
	slow, quick := newReader(), newReader()
	slow.taken = make(chan struct{})
	slowListener, slowEnded := follow(slow)
	_, quickEnded := follow(quick)
	const patience = 10 * time.Second
	deadline := time.Now().Add(patience)
	wait := func(what string, ok func() bool) {
		t.Helper()
		for !ok() {
			if time.Now().After(deadline) {
				t.Fatal("waited in vain for " + what)
			}
			<-time.After(time.Millisecond)
		}
	}
	n := 0
	missed := func() bool {
		select {
		case <-slowListener.Missed():
			return true
		default:
			return false
		}
	}
	wait("the slow one to miss something", func() bool {
		events := make([]api.Event, 1000)
		for i := range events {
			n++
			events[i] = api.Event{Kind: api.EventTaskQueued, TaskID: "t", At: time.Now()}
		}
		b.Publish("t", events...)
		wait("the quick one to have read them", func() bool { return strings.Count(quick.String(), "\nevent: task.queued\n") == n })
		return missed()
	})
	if n < 8192 {
		t.Errorf("cut after %d events", n)
	}
	close(slow.taken)
	select {
	case <-slowEnded:
	case <-time.After(patience):
		t.Fatal("the slow one's stream does not end")
	}
	select {
	case <-quickEnded:
		t.Error("the quick one's stream has ended, too")
	default:
	}
	ids := regexp.MustCompile(`(?m)^id: (\d+)$`).FindAllStringSubmatch(quick.String(), -1)
	for i := 1; i < len(ids); i++ {
		if ids[i][1] <= ids[i-1][1] {
			t.Fatalf("%s comes after %s", ids[i][1], ids[i-1][1])
		}
	}
}
