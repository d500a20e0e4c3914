package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

// logServer is a task with its log, served as the server does, but for what
// each connection does before it ends.
type logServer struct {
	mu      sync.Mutex
	entries []string
	state   api.TaskState
	after   []int // what each connection asked for
	// connection is called for each, with its number from 0.
	connection func(s *logServer, n int, send func(text string))
}

func (s *logServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/api/v1/tasks/t1":
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(api.Task{ID: "t1", State: s.state})
	case r.URL.Query().Get("follow") == "true":
		s.follow(w, r)
	default:
		s.mu.Lock()
		defer s.mu.Unlock()
		skip, _ := strconv.Atoi(r.URL.Query().Get("after"))
		logs := api.TaskLogs{Entries: []api.LogEntry{}}
		for _, text := range s.entries[skip:] {
			logs.Entries = append(logs.Entries, api.LogEntry{Text: text})
		}
		_ = json.NewEncoder(w).Encode(logs)
	}
}

func (s *logServer) follow(w http.ResponseWriter, r *http.Request) {
	skip, _ := strconv.Atoi(r.URL.Query().Get("after"))
	s.mu.Lock()
	n := len(s.after)
	s.after = append(s.after, skip)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-ndjson")
	flusher, _ := w.(http.Flusher)
	fmt.Fprint(w, "\n")
	flusher.Flush()
	s.connection(s, n, func(text string) {
		s.mu.Lock()
		s.entries = append(s.entries, text)
		s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(api.LogEntry{Text: text})
		flusher.Flush()
	})
}

func (s *logServer) end(state api.TaskState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
}

func texts(t *testing.T, c *Client) ([]string, error) {
	t.Helper()
	var have []string
	for e, err := range c.FollowTaskLogs(t.Context(), "t1") {
		if err != nil {
			return have, err
		}
		have = append(have, e.Text)
	}
	return have, nil
}

func TestFollowToTheEnd(t *testing.T) {
	t.Parallel()
	s := &logServer{state: api.TaskRunning, connection: func(s *logServer, _ int, send func(string)) {
		send("one")
		send("two")
		s.end(api.TaskSucceeded)
	}}
	have, err := texts(t, newTestClient(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"one", "two"}, have); diff != "" {
		t.Error(diff)
	}
}

// A lost connection, a server that goes down, and one that keeps the last
// entries for itself: each entry comes once.
func TestFollowResumes(t *testing.T) {
	t.Parallel()
	s := &logServer{state: api.TaskRunning, connection: func(s *logServer, n int, send func(string)) {
		switch n {
		case 0:
			send("one")
			send("two")
			panic(http.ErrAbortHandler)
		case 1:
			send("three") // and a clean end, although the task runs
		case 2:
			send("four")
			s.mu.Lock()
			s.entries = append(s.entries, "five") // not sent
			s.mu.Unlock()
			s.end(api.TaskFailed)
		default:
			t.Errorf("connection %d", n)
		}
	}}
	have, err := texts(t, newTestClient(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"one", "two", "three", "four", "five"}, have); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int{0, 2, 3}, s.after); diff != "" {
		t.Errorf("where connections went on: %s", diff)
	}
}

func TestFollowWhatIsNotThere(t *testing.T) {
	t.Parallel()
	_, err := texts(t, newTestClient(t, http.NotFoundHandler()))
	if p, ok := errors.AsType[*api.Problem](err); !ok || p.Status != http.StatusNotFound {
		t.Errorf("error: %v", err)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := &logServer{state: api.TaskRunning, connection: func(_ *logServer, _ int, send func(string)) {
		send("one")
		<-ctx.Done()
	}}
	c := newTestClient(t, s)
	var last error
	for _, err := range c.FollowTaskLogs(ctx, "t1") {
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("error: %v", last)
	}
}

func TestFollowerMayLeave(t *testing.T) {
	t.Parallel()
	s := &logServer{state: api.TaskRunning, connection: func(_ *logServer, _ int, send func(string)) {
		send("one")
		send("two")
	}}
	for e, err := range newTestClient(t, s).FollowTaskLogs(t.Context(), "t1") {
		if err != nil || e.Text != "one" {
			t.Errorf("%v, %v", e, err)
		}
		break
	}
}
