package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/cli/out"
)

// happening is a fake that tells events, a connection for each list of them.
// Who has seen the last is interrupted.
func happening(t *testing.T, connections ...[]api.Event) (*fakeAPI, *terminal, context.Context) {
	t.Helper()
	f := newFakeAPI(t)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	var n atomic.Int64
	f.answer("GET /api/v1/events", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := int(n.Add(1))
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, ": hello\n\n")
		for _, e := range connections[i-1] {
			data, err := json.Marshal(e)
			if err != nil {
				panic(err)
			}
			fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", e.ID, e.Kind, data)
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			panic(err)
		}
		if i == len(connections) {
			<-r.Context().Done()
		}
	}))
	last := &lineCounter{reached: cancel}
	for _, c := range connections {
		last.left += len(c)
	}
	term := newTerminal(t, f)
	term.watch = last
	return f, term, ctx
}

// lineCounter does something when so many lines were written.
type lineCounter struct {
	left    int
	reached func()
}

// Write implements io.Writer.
func (l *lineCounter) Write(p []byte) (int, error) {
	if l.left -= bytes.Count(p, []byte("\n")); l.left == 0 {
		l.reached()
	}
	return len(p), nil
}

var happened = []api.Event{
	{ID: 1, At: at, Kind: api.EventAgentStale, AgentID: "id-1", AgentName: "web-1", Reason: "no heartbeat\nfor 90s"},
	{ID: 2, At: at, Kind: api.EventTaskQueued, TaskID: "t1", TargetID: "id-t", Target: "box", Type: "deploy", By: "joe"},
	{ID: 3, At: at, Kind: api.EventTaskFailed, TaskID: "t1", Target: "box", Type: "deploy", AgentName: "web-1", Reason: "the \x1b[2Jdisk is full"},
	{ID: 4, At: at, Kind: api.EventTaskCancelled, TaskID: "t2", Target: "box", Type: "inspect", Reason: "cancelled by joe", By: "joe"},
	{ID: 5, At: at, Kind: api.EventCommandSent, CommandID: "c1", Type: "drain", By: "joe"},
	{ID: 6, At: at, Kind: api.EventCommandAcknowledged, CommandID: "c1", Type: "drain", AgentName: "web-1"},
	{ID: 7, At: at, Kind: "moon.rose", Reason: "of a newer server"},
}

func TestEvents(t *testing.T) {
	t.Parallel()
	f, term, ctx := happening(t, happened)
	if code := term.run(ctx, "events", "--kind", "agent,task.failed", "--kind", "command", "--agent", "web-1", "--follow"); code != exitOK {
		t.Errorf("exit code %d: %s", code, term.stderr)
	}
	want := strings.ReplaceAll(`
TIME  agent.stale           web-1  no heartbeat for 90s
TIME  task.queued           deployment to box  by joe  t1
TIME  task.failed           deployment to box, agent web-1  the �[2Jdisk is full  t1
TIME  task.cancelled        look at box  cancelled by joe  t2
TIME  command.sent          drain  by joe  c1
TIME  command.acknowledged  drain to web-1  c1
TIME  moon.rose             of a newer server
`, "TIME", at.Local().Format("15:04:05"))
	if diff := cmp.Diff(want, "\n"+term.stdout); diff != "" {
		t.Error(diff)
	}
	if term.stderr != "" {
		t.Errorf("stderr: %s", term.stderr)
	}
	if diff := cmp.Diff([]string{"GET /api/v1/events?agent=web-1&kind=agent&kind=task.failed&kind=command"}, f.asked()); diff != "" {
		t.Error(diff)
	}
}

func TestEventsAsData(t *testing.T) {
	t.Parallel()
	_, term, ctx := happening(t, happened)
	if code := term.run(ctx, "events", "-o", "json"); code != exitOK {
		t.Errorf("exit code %d: %s", code, term.stderr)
	}
	var have []api.Event
	for line := range strings.Lines(term.stdout) {
		var e api.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		have = append(have, e)
	}
	if diff := cmp.Diff(happened, have, cmp.Comparer(func(a, b api.Event) bool { return fmt.Sprint(a) == fmt.Sprint(b) })); diff != "" {
		t.Error(diff)
	}
}

// A connection that is lost is said, and so is that something may be missing.
func TestEventsLoseTheConnection(t *testing.T) {
	t.Parallel()
	_, term, ctx := happening(t, happened[:1], happened[1:2], happened[2:3])
	if code := term.run(ctx, "events", "-o", "json"); code != exitOK || strings.Count(term.stdout, "\n") != 3 {
		t.Errorf("exit code %d, %s", code, term.stdout)
	}
	want := strings.Repeat("warning: the connection was lost (the server ended it); trying again\n"+
		"✓ connected again; what happened in between is not told here: `stella task list` and `stella command list` have it\n", 2)
	if diff := cmp.Diff(want, term.stderr); diff != "" {
		t.Error(diff)
	}
}

func TestEventsRefused(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"events -o yaml":        "events are not written as YAML\nnext: use -o json",
		"events --follow=false": "told only as they happen",
		"events x":              "does not take 1 argument",
		"events --kind tusk":    "kind: no such kind",
	} {
		f := newFakeAPI(t)
		f.answer("GET /api/v1/events", &api.Problem{Status: 422, Title: "Invalid", Errors: []api.ProblemField{{Location: "query.kind", Message: "no such kind"}}})
		term := newTerminal(t, f)
		if code := term.run(t.Context(), strings.Fields(args)...); code != exitUsage || !strings.Contains(term.stderr, want) {
			t.Errorf("%s: exit code %d, %s", args, code, term.stderr)
		}
	}
}

// Each kind has its colour.
func TestEventStyles(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]string{
		api.EventAgentLive: "\x1b[32m", api.EventAgentStale: "\x1b[33m", api.EventAgentDead: "\x1b[31m", api.EventTaskExpired: "\x1b[31m",
		api.EventCommandFailed: "\x1b[31m", api.EventTaskQueued: "",
	} {
		var text strings.Builder
		a := newApp("x", &out.IO{Out: &text, OutStyle: out.Style{On: true}}, func(string) string { return "" })
		if err := a.eventLine(&api.Event{At: at.Add(time.Hour), Kind: kind}); err != nil {
			t.Fatal(err)
		}
		if _, line, _ := strings.Cut(text.String(), "  "); !strings.HasPrefix(line, want+kind) {
			t.Errorf("%s: %q", kind, line)
		}
	}
}
