package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/agent/journal"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
)

// doer is an executor that does what a test says.
type doer struct {
	run func(ctx context.Context, t *api.AgentTask, env executor.Env) *api.TaskResult
	rec func(ctx context.Context, rec *deploy.Record, env executor.Env) *api.TaskResult
}

var _ executor.Executor = (*doer)(nil)

func (*doer) Kind() string { return "docker" }

func (*doer) Capabilities(context.Context) ([]string, error) { return []string{"docker.deploy"}, nil }

func (d *doer) Run(ctx context.Context, t *api.AgentTask, env executor.Env) *api.TaskResult {
	return d.run(ctx, t, env)
}

func (d *doer) Recover(ctx context.Context, rec *deploy.Record, env executor.Env) *api.TaskResult {
	return d.rec(ctx, rec, env)
}

// bench is a runner over a real journal, and the server's ear.
type bench struct {
	*runner
	t    *testing.T
	dir  string
	doer *doer

	mu      sync.Mutex
	frames  []*stellav1.ConnectRequest
	results map[string]*stellav1.TaskResult
}

func newBench(t *testing.T, d *doer) *bench {
	b := &bench{t: t, dir: t.TempDir(), doer: d}
	b.open()
	return b
}

// open makes a runner as a new process of the agent would.
func (b *bench) open() {
	b.t.Helper()
	j, err := journal.Open(filepath.Join(b.dir, journalFile))
	b.must(err)
	b.t.Cleanup(func() { _ = j.Close() })
	b.runner = newRunner([]executor.Executor{b.doer}, j, b.dir, 5, slog.New(slog.DiscardHandler))
	b.agentID = "agent-1"
	b.frames, b.results = nil, map[string]*stellav1.TaskResult{}
	b.must(b.recover(b.t.Context()))
}

// reopen ends the process and begins another.
func (b *bench) reopen() {
	b.t.Helper()
	b.must(b.drain(b.t.Context()))
	b.must(b.journal.Close())
	b.open()
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) hear(f *stellav1.ConnectRequest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frames = append(b.frames, f)
	if r := f.GetTaskResult(); r != nil {
		b.results[r.GetRef().GetTaskId()] = r
	}
	return nil
}

// result sends what there is to send until a task's result has gone.
func (b *bench) result(id string) (*api.TaskResult, *stellav1.TaskRef) {
	b.t.Helper()
	patience := time.After(10 * time.Second)
	for {
		b.must(b.flush(b.hear))
		b.mu.Lock()
		r := b.results[id]
		b.mu.Unlock()
		if r != nil {
			var res api.TaskResult
			b.must(json.Unmarshal(r.GetResultJson(), &res))
			return &res, r.GetRef()
		}
		select {
		case <-b.dirty:
		case <-patience:
			b.t.Fatalf("task %s has no result", id)
		}
	}
}

func (b *bench) assigned(t *api.AgentTask) {
	b.t.Helper()
	b.must(b.assign(b.t.Context(), t))
}

func (b *bench) entries() []*journal.Entry {
	b.t.Helper()
	es, err := b.journal.Entries()
	b.must(err)
	return es
}

func aTask(id string, change ...func(*api.AgentTask)) *api.AgentTask {
	t := &api.AgentTask{
		ID: id, Attempt: 1, Type: api.TaskDeploy, TargetID: "target-1", Target: api.AgentTarget{Name: "web", Kind: "docker"},
		Payload: json.RawMessage(`{"config":{"environment":{"DB_PASSWORD":"payload-secret"}}}`), Timeout: 60, Token: "token-secret",
		Credentials: &api.Credentials{Registry: &api.RegistryAuth{Password: "registry-secret"}},
	}
	for _, c := range change {
		c(t)
	}
	return t
}

func success(context.Context, *api.AgentTask, executor.Env) *api.TaskResult {
	return &api.TaskResult{Success: true}
}

// A task is in the journal before its executor begins, and without its
// secrets; one that cannot be written down does not begin.
func TestTaskIsJournaledBeforeItBegins(t *testing.T) {
	t.Parallel()
	d := &doer{}
	b := newBench(t, d)
	runs := 0
	d.run = func(ctx context.Context, k *api.AgentTask, env executor.Env) *api.TaskResult {
		runs++
		es, err := b.journal.Entries()
		if err != nil || len(es) != 1 || es[0].Task.ID != k.ID || strings.Contains(string(es[0].Task.Payload), "secret") || es[0].Task.Credentials != nil || es[0].Task.Token != "" {
			t.Errorf("the journal holds %+v, %v", es, err)
		}
		if env.AgentID != "agent-1" || env.DataDir != b.dir || env.Journal == nil || env.Log == nil || k.Credentials == nil {
			t.Errorf("the executor gets %+v", env)
		}
		return success(ctx, k, env)
	}
	b.assigned(aTask("t1"))
	if r, ref := b.result("t1"); !r.Success || ref.GetAttempt() != 1 {
		t.Errorf("%+v of attempt %d", r, ref.GetAttempt())
	}
	b.must(b.journal.Close())
	if err := b.assign(t.Context(), aTask("t2")); err == nil {
		t.Error("a task began without being in the journal")
	}
	b.must(b.drain(t.Context()))
	if held := b.held(); runs != 1 || len(held) != 1 {
		t.Errorf("%d runs, %d tasks held", runs, len(held))
	}
}

// The server hears that a task has begun, then its log, then its result.
func TestWhatIsSentAndInWhichOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t, &doer{run: func(ctx context.Context, k *api.AgentTask, env executor.Env) *api.TaskResult {
		for range maxChunk + 1 {
			env.Log.Line("stdout", "line")
		}
		return success(ctx, k, env)
	}})
	b.assigned(aTask("t1"))
	b.must(b.drain(t.Context()))
	b.result("t1")
	kinds := func() (out []string) {
		for _, f := range b.frames {
			switch {
			case f.GetTaskAccepted() != nil:
				out = append(out, "accepted")
			case f.GetLogChunk() != nil:
				out = append(out, "log")
			case f.GetTaskResult() != nil:
				out = append(out, "result")
			}
		}
		return out
	}
	want := []string{"accepted", "log", "log", "result"}
	if diff := cmp.Diff(want, kinds()); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
	// Nothing twice on one connection, and everything again on the next.
	b.must(b.flush(b.hear))
	if len(b.frames) != len(want) {
		t.Errorf("sent again: %q", kinds())
	}
	b.frames = nil
	b.reconnected()
	b.must(b.flush(b.hear))
	if diff := cmp.Diff(want, kinds()); diff != "" {
		t.Errorf("sent on the next connection (-want +got):\n%s", diff)
	}
	// A connection that breaks keeps what it could not take.
	b.reconnected()
	b.frames = nil
	broken := errors.New("broken")
	if err := b.flush(func(f *stellav1.ConnectRequest) error {
		if f.GetTaskResult() != nil {
			return broken
		}
		return b.hear(f)
	}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if held := b.held(); len(held) != 1 || len(b.entries()) != 1 {
		t.Errorf("held: %v", held)
	}
}

// A result does not overtake the log: while the server has not acknowledged
// enough of that, it waits.
func TestResultWaitsForTheLog(t *testing.T) {
	t.Parallel()
	b := newBench(t, &doer{run: func(ctx context.Context, k *api.AgentTask, env executor.Env) *api.TaskResult {
		for range maxChunk*maxUnacked + 1 {
			env.Log.Line("stdout", "line")
		}
		return success(ctx, k, env)
	}})
	b.assigned(aTask("t1"))
	b.must(b.drain(t.Context()))
	b.must(b.flush(b.hear))
	if len(b.results) != 0 || len(b.frames) != 1+maxUnacked {
		t.Fatalf("%d frames were sent, and %d results", len(b.frames), len(b.results))
	}
	b.logAcked(&stellav1.TaskRef{TaskId: "t1", Attempt: 1}, maxChunk)
	if r, _ := b.result("t1"); !r.Success {
		t.Errorf("%+v", r)
	}
}

func TestTaskDeliveredTwiceRunsOnce(t *testing.T) {
	t.Parallel()
	var runs atomic.Int32
	release := make(chan struct{})
	b := newBench(t, &doer{run: func(ctx context.Context, k *api.AgentTask, env executor.Env) *api.TaskResult {
		runs.Add(1)
		<-release
		return success(ctx, k, env)
	}})
	b.assigned(aTask("t1"))
	b.assigned(aTask("t1"))
	close(release)
	_, ref := b.result("t1")
	b.assigned(aTask("t1")) // ended, not yet acknowledged
	b.acked(t.Context(), ref, true, "")
	b.assigned(aTask("t1")) // ended and acknowledged
	b.assigned(aTask("t1", func(k *api.AgentTask) { k.Attempt = 2 }))
	b.reopen()
	b.assigned(aTask("t1"))
	b.must(b.drain(t.Context()))
	if runs.Load() != 1 || len(b.entries()) != 0 || len(b.held()) != 0 {
		t.Errorf("%d runs, %d entries, held %v", runs.Load(), len(b.entries()), b.held())
	}
}

// The server may count another attempt while the agent still runs the first:
// the task goes on under the new number, and an acknowledgement of the old one
// does not end it.
func TestNewerAttemptIsAdopted(t *testing.T) {
	t.Parallel()
	var runs atomic.Int32
	release := make(chan struct{})
	b := newBench(t, &doer{run: func(ctx context.Context, k *api.AgentTask, env executor.Env) *api.TaskResult {
		runs.Add(1)
		<-release
		return success(ctx, k, env)
	}})
	b.assigned(aTask("t1"))
	b.must(b.flush(b.hear))
	b.assigned(aTask("t1", func(k *api.AgentTask) { k.Attempt = 3 }))
	b.assigned(aTask("t1", func(k *api.AgentTask) { k.Attempt = 2 })) // came late
	if held := b.held(); len(held) != 1 || held[0].GetAttempt() != 3 {
		t.Fatalf("held: %v", held)
	}
	b.frames = nil
	b.must(b.flush(b.hear))
	if len(b.frames) != 1 || b.frames[0].GetTaskAccepted().GetRef().GetAttempt() != 3 {
		t.Errorf("the server is not told that attempt 3 has begun: %v", b.frames)
	}
	close(release)
	r, ref := b.result("t1")
	if ref.GetAttempt() != 3 || r.Attempt != 3 || runs.Load() != 1 {
		t.Errorf("result of attempt %d/%d after %d runs", ref.GetAttempt(), r.Attempt, runs.Load())
	}
	b.acked(t.Context(), &stellav1.TaskRef{TaskId: "t1", Attempt: 1}, false, "a newer attempt has replaced this one")
	if len(b.held()) != 1 {
		t.Fatal("the refusal of an old attempt made the agent forget the new one")
	}
	b.acked(t.Context(), ref, true, "")
	if len(b.held()) != 0 || len(b.entries()) != 0 {
		t.Errorf("held: %v", b.held())
	}
}

// A result is kept until the server has it, through a restart of the agent.
func TestResultSurvivesARestart(t *testing.T) {
	t.Parallel()
	b := newBench(t, &doer{
		run: func(context.Context, *api.AgentTask, executor.Env) *api.TaskResult {
			return &api.TaskResult{Error: "it did not work", ErrorType: api.ErrSwitchFailed, Outputs: map[string]any{"releaseId": "r1"}}
		},
		rec: func(context.Context, *deploy.Record, executor.Env) *api.TaskResult {
			t.Error("a task that has ended is ended again")
			return nil
		},
	})
	b.assigned(aTask("t1"))
	first, _ := b.result("t1")
	for range 2 {
		b.reopen()
		if held := b.held(); len(held) != 1 || held[0].GetTaskId() != "t1" {
			t.Fatalf("held after the restart: %v", held)
		}
		again, ref := b.result("t1")
		if diff := cmp.Diff(first, again, cmp.AllowUnexported(api.TaskResult{}, api.TaskMetrics{})); diff != "" || ref.GetAttempt() != 1 {
			t.Fatalf("after the restart, attempt %d (-first +again):\n%s", ref.GetAttempt(), diff)
		}
	}
	b.acked(t.Context(), &stellav1.TaskRef{TaskId: "t1", Attempt: 1}, false, "too late") // refused is dealt with, too
	b.reopen()
	if len(b.held()) != 0 || len(b.entries()) != 0 {
		t.Errorf("held: %v", b.held())
	}
}

func TestPanicBecomesAResult(t *testing.T) {
	t.Parallel()
	b := newBench(t, &doer{run: func(ctx context.Context, k *api.AgentTask, env executor.Env) *api.TaskResult {
		switch k.ID {
		case "panics":
			panic("payload-secret")
		case "nothing":
			return nil
		}
		return success(ctx, k, env)
	}})
	// One after the other on one target: the lock is given back.
	for _, id := range []string{"panics", "nothing"} {
		b.assigned(aTask(id))
		if r, _ := b.result(id); r.Success || r.ErrorType != api.ErrInternal || r.Error == "" || strings.Contains(r.Error, "secret") || r.TaskID != id {
			t.Errorf("%s: %+v", id, r)
		}
	}
	b.assigned(aTask("well"))
	if r, _ := b.result("well"); !r.Success {
		t.Errorf("the next task: %+v", r)
	}
}

func TestCancelAndTimeoutReachTheExecutor(t *testing.T) {
	t.Parallel()
	began := make(chan struct{})
	b := newBench(t, &doer{run: func(ctx context.Context, k *api.AgentTask, _ executor.Env) *api.TaskResult {
		close(began)
		<-ctx.Done()
		return deploy.Ended(ctx, k, time.Now(), nil, context.Cause(ctx))
	}})
	b.assigned(aTask("t1"))
	<-began
	b.cancelTask("t1", "cancelled by tester")
	b.cancelTask("another", "is not here")
	if r, _ := b.result("t1"); r.ErrorType != api.ErrCancelled || !strings.Contains(r.Logs, "cancelled by tester") {
		t.Errorf("%+v", r)
	}
	began = make(chan struct{})
	b.assigned(aTask("t2", func(k *api.AgentTask) { k.Timeout = 0 }))
	if r, _ := b.result("t2"); r.ErrorType != api.ErrTimeout {
		t.Errorf("%+v", r)
	}
}

// Two changes of one target never run at the same time, whatever the server
// hands out; looking at it meanwhile is free, and so are other targets.
func TestChangesOfOneTargetDoNotOverlap(t *testing.T) {
	t.Parallel()
	var at, most, all atomic.Int32
	entered, release := make(chan string, 10), make(chan struct{})
	b := newBench(t, &doer{run: func(ctx context.Context, k *api.AgentTask, env executor.Env) *api.TaskResult {
		if k.TargetID != "target-1" || k.Type == api.TaskInspect {
			return success(ctx, k, env)
		}
		if n := at.Add(1); n > most.Load() {
			most.Store(n)
		}
		if all.Add(1) == 1 {
			entered <- k.ID
			<-release
		}
		for range 1000 {
			runtime.Gosched() // time for another to come in
		}
		at.Add(-1)
		return success(ctx, k, env)
	}})
	b.slots = make(chan struct{}, 20)
	changing := []api.TaskType{api.TaskDeploy, api.TaskRollback, api.TaskUploadFiles, api.TaskWriteSticker}
	for i, typ := range slices.Repeat(changing, 2) {
		b.assigned(aTask(string(rune('a'+i)), func(k *api.AgentTask) { k.Type = typ }))
	}
	<-entered
	b.assigned(aTask("look", func(k *api.AgentTask) { k.Type = api.TaskInspect }))
	b.assigned(aTask("elsewhere", func(k *api.AgentTask) { k.TargetID = "target-2" }))
	b.result("look")
	b.result("elsewhere")
	close(release)
	b.must(b.drain(t.Context()))
	if most.Load() != 1 || all.Load() != 8 {
		t.Errorf("%d changes at once, %d in all", most.Load(), all.Load())
	}
}

// No more tasks run at a time than there are slots.
func TestSlots(t *testing.T) {
	t.Parallel()
	var at, most atomic.Int32
	b := newBench(t, &doer{run: func(ctx context.Context, k *api.AgentTask, env executor.Env) *api.TaskResult {
		if n := at.Add(1); n > most.Load() {
			most.Store(n)
		}
		for range 1000 {
			runtime.Gosched()
		}
		at.Add(-1)
		return success(ctx, k, env)
	}})
	b.slots = make(chan struct{}, 2)
	for i := range 8 {
		b.assigned(aTask(string(rune('a'+i)), func(k *api.AgentTask) { k.Type = api.TaskInspect }))
	}
	b.must(b.drain(t.Context()))
	if most.Load() > 2 {
		t.Errorf("%d tasks ran at once", most.Load())
	}
}

// What a task says about itself is masked, wherever it says it, also what is
// kept in the journal.
func TestResultIsMasked(t *testing.T) {
	t.Parallel()
	const all = "payload-secret registry-secret token-secret"
	b := newBench(t, &doer{run: func(_ context.Context, _ *api.AgentTask, env executor.Env) *api.TaskResult {
		env.Log.Line("stdout", all)
		return &api.TaskResult{Error: all, Outputs: map[string]any{
			"stdout": all, "lines": []string{all}, "labels": map[string]string{"k": all}, "deep": []any{map[string]any{"k": all}},
		}}
	}})
	b.assigned(aTask("t1"))
	b.must(b.drain(t.Context()))
	for _, e := range b.entries() {
		data, err := json.Marshal(e)
		if err != nil || strings.Contains(string(data), "-secret") {
			t.Errorf("in the journal: %s, %v", data, err)
		}
	}
	r, _ := b.result("t1")
	if r.Error != "*** *** ***" || r.Logs != "*** *** ***" || r.Outputs["stdout"] != "*** *** ***" {
		t.Errorf("%+v", r)
	}
	for _, f := range b.frames {
		if strings.Contains(f.String(), "-secret") {
			t.Errorf("sent: %s", f)
		}
	}
}

// After a restart the journal says where each task stood.
func TestRecover(t *testing.T) {
	t.Parallel()
	d := &doer{rec: func(_ context.Context, rec *deploy.Record, env executor.Env) *api.TaskResult {
		env.Log.Line("system", "undoing "+rec.Step)
		return &api.TaskResult{Error: "undone", ErrorType: api.ErrAgentRestarted, RolledBack: true}
	}}
	b := newBench(t, d)
	// As an earlier process left it.
	for _, k := range []*api.AgentTask{
		aTask("untouched"), aTask("half"),
		aTask("command", func(k *api.AgentTask) { k.Type = api.TaskExecuteCommand }),
		aTask("foreign", func(k *api.AgentTask) { k.Target.Kind = "compose" }),
	} {
		if _, _, _, err := b.journal.Begin(k); err != nil {
			t.Fatal(err)
		}
		if k.ID == "half" || k.ID == "foreign" {
			b.must(b.journal.Save(t.Context(), &deploy.Record{Task: deploy.Bare(k), Step: "switch"}))
		}
	}
	b.reopen()
	for _, c := range []struct {
		id, errorType string
		retriable     bool
	}{
		{"untouched", api.ErrAgentRestarted, true},
		{"command", api.ErrAgentRestarted, false},
		{"half", api.ErrAgentRestarted, false},
		{"foreign", api.ErrUnsupported, false},
	} {
		r, ref := b.result(c.id)
		if r.Success || r.ErrorType != c.errorType || r.Retriable != c.retriable || r.Error == "" || ref.GetAttempt() != 1 {
			t.Errorf("%s: %+v", c.id, r)
		}
		if c.id == "half" && (!r.RolledBack || r.Logs != "undoing switch") {
			t.Errorf("%s: %+v", c.id, r)
		}
	}
}

// The server passes over numbers of log lines that it has: what is said after
// a restart comes behind what was said before it.
func TestLogGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	s := &logServer{}
	collect := func(b *bench) {
		for _, f := range b.frames {
			if c := f.GetLogChunk(); c != nil {
				if c.GetFirstSeq() <= s.last {
					t.Errorf("numbered from %d, and the server has %d", c.GetFirstSeq(), s.last)
				}
				s.last = c.GetFirstSeq() + int64(len(c.GetEntries())) - 1
			}
		}
	}
	release := make(chan struct{})
	logged := make(chan struct{})
	b := newBench(t, &doer{
		run: func(ctx context.Context, k *api.AgentTask, env executor.Env) *api.TaskResult {
			for range 50 {
				env.Log.Line("stdout", "before")
			}
			close(logged)
			<-release
			return success(ctx, k, env)
		},
		rec: func(_ context.Context, _ *deploy.Record, env executor.Env) *api.TaskResult {
			env.Log.Line("system", "after")
			return &api.TaskResult{Error: "undone"}
		},
	})
	k := aTask("t1")
	b.assigned(k)
	b.must(b.journal.Save(t.Context(), &deploy.Record{Task: deploy.Bare(k), Step: "switch"}))
	<-logged
	b.must(b.flush(b.hear))
	collect(b)
	if s.last != 50 {
		t.Fatalf("the server has %d lines", s.last)
	}
	// Killed: nothing of this process reaches the journal any more.
	b.must(b.journal.Close())
	b.open()
	b.result("t1")
	collect(b)
	if s.last <= 50 {
		t.Error("the line after the restart was not sent")
	}
	close(release) // let the killed one go
}
