// Package executortest is the one suite that every executor passes: what a
// deployment, a rollback and the small tasks promise, on a real target, with
// the agent killed at every write of its journal.
//
// It is for tests alone, and knows no executor: a Fixture tells it how to look
// at a target.
package executortest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
)

// Fixture is a fresh target with nothing on it.
type Fixture struct {
	Executor executor.Executor
	TargetID string
	Target   api.AgentTarget
	// Credentials go with each task, and are had anew in a recovery; none of
	// their values may get into a record.
	Credentials *api.Credentials
	// Deploy makes the payload that deploys a version, under a release id of
	// the same name, with a health check over http.
	Deploy func(version string) api.DeployPayload
	// Running is the version that answers now; "" for none.
	Running func() string
	// Leftovers names what should not be there between tasks.
	Leftovers func() []string
	// Say and Exit are commands on the target that print a text and that exit
	// with a code.
	Say  func(text string) []string
	Exit func(code int) []string
	// UploadDir goes before the names of uploaded files, and Read reads one.
	UploadDir string
	// UploadStays says that an upload cannot be taken back once it was sent.
	UploadStays bool
	Read        func(name string) string
	// HookDir is a folder that hooks can write to, under the same path as the
	// test; one of the test's own when left out.
	HookDir string
}

// Run runs the suite; open makes a fresh target for each part of it.
func Run(t *testing.T, open func(t *testing.T) *Fixture) {
	for name, part := range map[string]func(t *testing.T, b *bench){
		"Deploy":                       testDeploy,
		"PreHookFailureTouchesNothing": testPreHook,
		"HealthCheckFailureRestores":   testUnhealthy,
		"FirstDeploymentFails":         testFirstFails,
		"PostHookFailureRestores":      testPostHook,
		"Cancel":                       testCancel,
		"CancelInHook":                 testCancelInHook,
		"Timeout":                      testTimeout,
		"Stickers":                     testStickers,
		"Rollback":                     testRollback,
		"Inspect":                      testInspect,
		"HealthCheck":                  testHealthCheck,
		"Command":                      testCommand,
		"Upload":                       testUpload,
		"InvalidPayloads":              testInvalid,
		"JournalFails":                 testJournalFails,
		"KilledInDeploy":               testKilledInDeploy,
		"KilledMidStep":                testKilledMidStep,
		"KilledInFailingDeploy":        testKilledInFailingDeploy,
		"KilledInRollback":             testKilledInRollback,
		"KilledInRecovery":             testKilledInRecovery,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			part(t, &bench{t: t, Fixture: open(t), data: t.TempDir()})
		})
	}
}

// secret must never be in a record.
const secret = "hunter2-correct-horse"

// bench runs tasks on one fixture. It is used by one goroutine.
type bench struct {
	*Fixture
	t    *testing.T
	data string
	n    int
	log  *recorder // of the task that ran last
}

// task makes a task with an id of its own.
func (b *bench) task(kind api.TaskType, payload any) *api.AgentTask {
	b.t.Helper()
	b.n++
	data, err := json.Marshal(payload)
	if err != nil {
		b.t.Fatal(err)
	}
	return &api.AgentTask{
		ID: fmt.Sprintf("task-%d-%d", b.n, time.Now().UnixNano()), Attempt: 1, Type: kind,
		TargetID: b.TargetID, Target: b.Target, Payload: data, Token: secret,
		Credentials: b.Credentials,
	}
}

func (b *bench) env(j *journal) executor.Env {
	if b.Credentials != nil {
		j.kept = slices.Collect(maps.Values(b.Credentials.Secrets))
	}
	b.log = &recorder{on: map[string]func(){}}
	return executor.Env{
		AgentID: "agent-1", DataDir: b.data, Journal: j, Log: b.log,
		Credentials: func(context.Context) (*api.Credentials, error) { return b.Credentials, nil },
	}
}

// do runs a task to its end.
func (b *bench) do(kind api.TaskType, payload any) *api.TaskResult {
	b.t.Helper()
	return b.run(b.t.Context(), b.task(kind, payload), &journal{t: b.t})
}

func (b *bench) run(ctx context.Context, task *api.AgentTask, j *journal) *api.TaskResult {
	b.t.Helper()
	res := b.Executor.Run(ctx, task, b.env(j))
	b.check(task, res)
	return res
}

// check is what holds for every result.
func (b *bench) check(task *api.AgentTask, res *api.TaskResult) {
	b.t.Helper()
	switch {
	case res == nil:
		b.t.Fatalf("%s: no result", task.Type)
	case res.TaskID != task.ID || res.Attempt != task.Attempt:
		b.t.Errorf("%s: the result is of task %s attempt %d, want %s", task.Type, res.TaskID, res.Attempt, task.ID)
	case res.StartedAt.IsZero() || res.CompletedAt.Before(res.StartedAt):
		b.t.Errorf("%s: started at %v, completed at %v", task.Type, res.StartedAt, res.CompletedAt)
	case res.Success != (res.ErrorType == "") || res.Success != (res.Error == ""):
		b.t.Errorf("%s: success=%v with error type %q and error %q", task.Type, res.Success, res.ErrorType, res.Error)
	}
	if left := b.Leftovers(); len(left) > 0 {
		b.t.Errorf("%s (%s) left over: %v", task.Type, res.Error, left)
	}
}

// deployed makes sure that a version runs.
func (b *bench) deployed(version string) {
	b.t.Helper()
	if res := b.do(api.TaskDeploy, b.payload(version)); !res.Success {
		b.t.Fatalf("deploy %s: %s: %s\n%s", version, res.ErrorType, res.Error, b.log)
	}
	b.runs(version)
}

// payload keeps the previous version, so that a rollback has something to go
// back to.
func (b *bench) payload(version string) api.DeployPayload {
	p := b.Deploy(version)
	if p.Config.Environment == nil {
		p.Config.Environment = map[string]string{}
	}
	p.Config.Environment["PASSWORD"] = secret
	keep := false
	p.Config.CleanupPrevious = &keep
	return p
}

// unhealthy makes a payload's health check fail, and soon.
func unhealthy(p api.DeployPayload) api.DeployPayload {
	hc := *p.Config.HealthCheck
	hc.ExpectedStatus, hc.Timeout = 418, 1
	p.Config.HealthCheck = &hc
	return p
}

// runs waits until a version answers; "" means none.
func (b *bench) runs(version string) {
	b.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		got := b.Running()
		if got == version {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%q runs, want %q\n%s", got, version, b.log)
		}
		<-tick.C
	}
}

// fails checks a failure's type, and that it left a version running.
func (b *bench) fails(res *api.TaskResult, errType, running string) {
	b.t.Helper()
	if res.Success || res.ErrorType != errType {
		b.t.Fatalf("success=%v errorType=%q (%s), want %s\n%s", res.Success, res.ErrorType, res.Error, errType, b.log)
	}
	b.runs(running)
}

// sticker reads the target's sticker.
func (b *bench) sticker() *api.VersionSticker {
	b.t.Helper()
	res := b.do(api.TaskReadSticker, struct{}{})
	if !res.Success {
		b.t.Fatalf("read-sticker: %s", res.Error)
	}
	if res.Outputs["found"] != true {
		return nil
	}
	return convert[api.VersionSticker](b.t, res.Outputs["sticker"])
}

func convert[T any](t *testing.T, value any) *T {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	into := new(T)
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return into
}

// hookFile is a hook that notes each of its runs, and the file that it notes
// them in.
func (b *bench) hookFile() (func(name string) *api.Hook, func(name string) int) {
	dir := b.HookDir
	if dir == "" {
		dir = b.t.TempDir()
	}
	b.n++
	file := filepath.Join(dir, fmt.Sprintf("hooks-%d", b.n))
	hook := func(name string) *api.Hook {
		return &api.Hook{Command: []string{"sh", "-c", `echo "$0" >> "$1"`, name, file}}
	}
	return hook, func(name string) int {
		data, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			b.t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(data)) {
			if strings.TrimSpace(line) == name {
				n++
			}
		}
		return n
	}
}

// journal keeps the last record as JSON, and can kill the agent at a write.
type journal struct {
	t      *testing.T
	kept   []string // what no record may hold, beside the secret
	last   []byte
	writes int
	stopAt int  // the write at which to kill
	after  bool // once it is on disk
	failAt int  // the write that fails
}

func (j *journal) Save(_ context.Context, rec *deploy.Record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	for _, s := range append(j.kept, secret) {
		if strings.Contains(string(data), s) {
			j.t.Errorf("a record holds a secret: %s", data)
		}
	}
	j.writes++
	switch {
	case j.writes == j.failAt:
		return fmt.Errorf("no space left on device")
	case j.writes == j.stopAt && !j.after:
		runtime.Goexit()
	}
	j.last = data
	if j.writes == j.stopAt {
		runtime.Goexit()
	}
	return nil
}

// recorder keeps the log, and does something when a phase comes to a state.
type recorder struct {
	mu    sync.Mutex
	lines []string
	on    map[string]func()
	// stopAt kills the agent at the n-th thing that Stella itself says, which
	// is in the midst of a step.
	stopAt, said int
}

func (r *recorder) say() {
	if r.said++; r.said == r.stopAt {
		runtime.Goexit()
	}
}

func (r *recorder) Line(stream, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, stream+": "+text)
	if stream == "system" {
		r.say()
	}
}

func (r *recorder) Phase(name, state string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, "phase: "+name+" "+state)
	if f := r.on[name+" "+state]; f != nil {
		f()
	}
	r.say()
}

func (r *recorder) phases() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, line := range r.lines {
		if phase, ok := strings.CutPrefix(line, "phase: "); ok {
			all = append(all, phase)
		}
	}
	return all
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// Single runs one task outside the suite, and returns its result and its log.
func Single(t *testing.T, f *Fixture, kind api.TaskType, payload any, change ...func(*api.AgentTask)) (*api.TaskResult, string) {
	t.Helper()
	b := &bench{t: t, Fixture: f, data: t.TempDir()}
	task := b.task(kind, payload)
	for _, c := range change {
		c(task)
	}
	res := b.run(t.Context(), task, &journal{t: t})
	return res, b.log.String()
}

// Await waits until a version answers; "" means none.
func Await(t *testing.T, f *Fixture, version string) {
	t.Helper()
	(&bench{t: t, Fixture: f, log: &recorder{}}).runs(version)
}
