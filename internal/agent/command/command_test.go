package command

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// newTestRunner returns a runner that is drained when the test ends.
func newTestRunner(t *testing.T, folder string, builtins map[string]Builtin) *Runner {
	t.Helper()
	r := NewRunner(folder, builtins, func(*api.AgentCommand) error { return nil }, slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		cancel()
		r.Drain(ended)
	})
	return r
}

// order makes a command that is good for a while.
func order(id, kind string, goodFor time.Duration) *api.AgentCommand {
	now := time.Now()
	return &api.AgentCommand{ID: id, Type: kind, CreatedAt: now, ExpiresAt: now.Add(goodFor)}
}

// answers flushes until so many answers are out, and returns them by command.
func answers(t *testing.T, r *Runner, n int) map[string]*stellav1.CommandAck {
	t.Helper()
	patience := time.After(20 * time.Second)
	got := map[string]*stellav1.CommandAck{}
	for len(got) < n {
		select {
		case <-r.Dirty():
		case <-patience:
			t.Fatalf("%d of %d answers came: %v", len(got), n, got)
		}
		if err := r.Flush(collect(got)); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func collect(into map[string]*stellav1.CommandAck) func(*stellav1.ConnectRequest) error {
	return func(f *stellav1.ConnectRequest) error {
		ack := f.GetCommandAck()
		into[ack.GetCommandId()] = ack
		return nil
	}
}

// none passes when there is nothing to send.
func none(t *testing.T, r *Runner, when string) {
	t.Helper()
	got := map[string]*stellav1.CommandAck{}
	if err := r.Flush(collect(got)); err != nil || len(got) > 0 {
		t.Errorf("%s there is something to send: %v, %v", when, got, err)
	}
}

// counting is a builtin that counts its runs, and waits until it may end.
func counting(runs *atomic.Int64, end <-chan struct{}) Builtin {
	return func(context.Context, json.RawMessage) (any, error) {
		<-end
		return map[string]int64{"run": runs.Add(1)}, nil
	}
}

func TestEachCommandRunsOnce(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	end := make(chan struct{})
	r := newTestRunner(t, "", map[string]Builtin{"work": counting(&runs, end)})
	c := order("c1", "work", time.Minute)
	r.Take(c)
	r.Take(c) // while it runs
	close(end)
	if ack := answers(t, r, 1)["c1"]; ack.GetFailed() || string(ack.GetResultJson()) != `{"run":1}` {
		t.Errorf("answer: %v", ack)
	}
	none(t, r, "once it is answered")
	r.Take(c) // its answer was lost, or it was on its way already
	if ack := answers(t, r, 1)["c1"]; string(ack.GetResultJson()) != `{"run":1}` {
		t.Errorf("the answer that is sent again: %v", ack)
	}
	if runs.Load() != 1 {
		t.Errorf("it ran %d times", runs.Load())
	}
}

func TestAnswersAreKeptUntilTheServerHasThem(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	end := make(chan struct{})
	close(end)
	r := newTestRunner(t, "", map[string]Builtin{"work": counting(&runs, end)})
	r.Take(order("c1", "work", time.Minute))
	<-r.Dirty()
	broken := errors.New("the link is down")
	if err := r.Flush(func(*stellav1.ConnectRequest) error { return broken }); !errors.Is(err, broken) {
		t.Fatalf("flush: %v", err)
	}
	none(t, r, "over a link that is down")
	for range 2 { // the link is lost twice
		r.Reconnected()
		if ack := answers(t, r, 1)["c1"]; string(ack.GetResultJson()) != `{"run":1}` {
			t.Errorf("after the link came back: %v", ack)
		}
	}
	r.Known(t.Context(), &stellav1.CommandReceipt{CommandId: "c1", Accepted: true})
	r.Known(t.Context(), &stellav1.CommandReceipt{CommandId: "of another agent", Reason: "it was not sent to you"})
	r.Reconnected()
	none(t, r, "when the server has it")
	// What the server knows need not be kept, but that it was run.
	r.Take(order("c1", "work", time.Minute))
	if ack := answers(t, r, 1)["c1"]; ack.GetFailed() || len(ack.GetResultJson()) > 0 {
		t.Errorf("what came again: %v", ack)
	}
	if runs.Load() != 1 {
		t.Errorf("it ran %d times", runs.Load())
	}
}

// An id is known for as long as the command may come again, and no longer.
func TestOldCommandsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		end := make(chan struct{})
		close(end)
		r := newTestRunner(t, "", map[string]Builtin{"work": counting(&runs, end)})
		old := order("c1", "work", time.Hour)
		for _, wait := range []time.Duration{0, time.Hour, rememberFor - time.Second, 2 * time.Second} {
			time.Sleep(wait) //nolint:forbidigo // instant in the bubble
			r.Take(old)
			synctest.Wait()
		}
		if runs.Load() != 2 || len(r.runs) != 1 {
			t.Errorf("it ran %d times, and %d commands are known", runs.Load(), len(r.runs))
		}
	})
}

// A resume that comes right behind a drain does not overtake it.
func TestBuiltinsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said []string
		note := func(word string, wait time.Duration) Builtin {
			return func(context.Context, json.RawMessage) (any, error) {
				time.Sleep(wait) //nolint:forbidigo // instant in the bubble
				said = append(said, word)
				return nil, nil
			}
		}
		r := newTestRunner(t, "", map[string]Builtin{"drain": note("drain", time.Second), "resume": note("resume", 0)})
		for i, kind := range []string{"drain", "resume", "drain", "resume"} {
			r.Take(order(string(rune('a'+i)), kind, time.Minute))
		}
		time.Sleep(time.Minute) //nolint:forbidigo // instant in the bubble
		synctest.Wait()
		if got := strings.Join(said, " "); got != "drain resume drain resume" {
			t.Errorf("they ran in the order %s", got)
		}
	})
}

// A builtin that waits longer than it is good for is not run at all.
func TestBuiltinExpiresWhileItWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		end := make(chan struct{})
		r := newTestRunner(t, "", map[string]Builtin{"work": counting(&runs, end)})
		r.Take(order("long", "work", time.Hour))
		r.Take(order("short", "work", time.Second))
		time.Sleep(2 * time.Second) //nolint:forbidigo // instant in the bubble
		ack := answers(t, r, 1)["short"]
		if !ack.GetFailed() || !strings.Contains(ack.GetError(), "waited for other commands") || !strings.Contains(ack.GetError(), "its time of 1s is over") {
			t.Errorf("answer: %v", ack)
		}
		close(end)
		synctest.Wait()
		if runs.Load() != 1 {
			t.Errorf("%d ran", runs.Load())
		}
	})
}

func TestBuiltinsThatFail(t *testing.T) {
	t.Parallel()
	fails := func(v any, err error) Builtin {
		return func(context.Context, json.RawMessage) (any, error) { return v, err }
	}
	r := newTestRunner(t, "", map[string]Builtin{
		"refuses": fails(nil, errors.New("the disk is full")),
		"panics":  func(context.Context, json.RawMessage) (any, error) { panic("nobody thought of this") },
		"verbose": fails(strings.Repeat("x", MaxResult), nil),
		"odd":     fails(make(chan int), nil),
		"fits":    fails(strings.Repeat("x", MaxResult-2), nil),
		// A character at the cut, and bytes that are none.
		"long":   fails(nil, errors.New("\xffx"+strings.Repeat("é", maxError))),
		"binary": fails(nil, errors.New("\xc3\x28")),
	})
	for kind := range r.builtins {
		r.Take(order(kind, kind, time.Minute))
	}
	got := answers(t, r, len(r.builtins))
	for kind, want := range map[string]string{
		"refuses": "the disk is full", "panics": "the agent's log tells more", "verbose": "longer than the 262144",
		"odd": "encode its answer", "long": "éé…", "binary": "\uFFFD(",
	} {
		if ack := got[kind]; !ack.GetFailed() || !strings.Contains(ack.GetError(), want) || len(ack.GetResultJson()) > 0 {
			t.Errorf("%s: %.200v", kind, ack)
		}
	}
	if ack := got["fits"]; ack.GetFailed() || len(ack.GetResultJson()) != MaxResult {
		t.Errorf("what just fits: %d bytes, %s", len(ack.GetResultJson()), ack.GetError())
	}
	for kind, ack := range got {
		if len(ack.GetError()) > maxError || !utf8.ValidString(ack.GetError()) {
			t.Errorf("%s: an error of %d bytes, %q", kind, len(ack.GetError()), ack.GetError())
		}
		if _, err := proto.Marshal(ack); err != nil {
			t.Errorf("%s: it does not go into a frame, and would end the link: %v", kind, err)
		}
	}
}

// What runs when the agent stops is given time, and what has not begun is not.
func TestDrainLetsCommandsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		ended := atomic.Bool{}
		r := newTestRunner(t, "", map[string]Builtin{
			"slow": func(ctx context.Context, _ json.RawMessage) (any, error) {
				select {
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				case <-time.After(5 * time.Second):
					ended.Store(true)
					return nil, nil
				}
			},
			"work": counting(&runs, nil),
		})
		r.Take(order("c1", "slow", time.Minute))
		r.Take(order("waits", "work", time.Minute))
		synctest.Wait()
		grace, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r.Drain(grace)
		if !ended.Load() || grace.Err() != nil {
			t.Errorf("what ran has ended: %v, within its grace: %v", ended.Load(), grace.Err() == nil)
		}
		r.Take(order("late", "work", time.Minute))
		synctest.Wait()
		got := map[string]*stellav1.CommandAck{}
		if err := r.Flush(collect(got)); err != nil {
			t.Fatal(err)
		}
		if ack := got["waits"]; !strings.Contains(ack.GetError(), "was not begun") || got["late"] != nil || runs.Load() != 0 {
			t.Errorf("what had not begun: %v", got)
		}
	})
}
