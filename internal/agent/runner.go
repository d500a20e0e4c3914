package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/agent/journal"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/artifact"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/secret"
)

// runner runs tasks: it writes them to the journal before they begin, keeps
// their results until the server has them, and after a restart ends what an
// earlier process had begun.
type runner struct {
	executors map[string]executor.Executor
	journal   *journal.Journal
	agentID   string // known once the agent is registered, before anything runs
	calls     *calls // as is this
	unwrap    *unwrapper
	// artifacts is Stella's store as a task may read it; set with agentID.
	artifacts func(t *api.AgentTask) artifact.Source
	dataDir   string
	slots     chan struct{}
	log       *slog.Logger

	wg    sync.WaitGroup
	dirty chan struct{} // has a value when something is to be sent

	mu     sync.Mutex
	active map[string]*activeTask
	busy   map[string]chan struct{} // by target: held by the task that changes it
}

// activeTask is a task from its beginning until the server has its result.
type activeTask struct {
	id     string
	kind   api.TaskType
	log    *taskLog
	cancel context.CancelCauseFunc

	// Guarded by runner.mu.
	attempt int64
	// refused: what came as the task was not what the server had sent, or could
	// not be read. It is not in the journal, and of nobody's business but its
	// result's: when that is lost, the task comes again and is refused again.
	refused    bool
	accepted   bool // the server has been told
	acceptedAt time.Time
	result     []byte // JSON, once it has ended
	sent       bool   // the result was sent on this connection
}

func newRunner(executors []executor.Executor, j *journal.Journal, dataDir string, slots int, log *slog.Logger) *runner {
	r := &runner{
		executors: map[string]executor.Executor{}, journal: j, dataDir: dataDir,
		slots: make(chan struct{}, slots), log: log, dirty: make(chan struct{}, 1), active: map[string]*activeTask{},
		busy: map[string]chan struct{}{},
	}
	for _, e := range executors {
		r.executors[e.Kind()] = e
	}
	return r
}

// busyWith is how many tasks have not ended.
func (r *runner) busyWith() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, a := range r.active {
		if a.result == nil {
			n++
		}
	}
	return n
}

func (r *runner) touch() {
	select {
	case r.dirty <- struct{}{}:
	default: // it is known already
	}
}

// take takes a task as it came over the link, see assign. One that must not be
// run is reported as failed.
func (r *runner) take(ctx context.Context, data, signature []byte) error {
	t, err := r.unwrap.task(ctx, data, signature)
	if err == nil {
		return r.assign(ctx, t)
	}
	if t == nil {
		return err
	}
	r.log.ErrorContext(ctx, "a task is refused", "task", t.ID, "attempt", t.Attempt, "error", err)
	if f, ok := errors.AsType[*deploy.Error](err); ok && f.Type == api.ErrUntrusted {
		t.Attempt = 0 // the current one, whatever somebody has made of it
	}
	r.refuse(ctx, t, err)
	return nil
}

// refuse has a task's end reported that was not begun. One that the agent has
// taken up already goes on: somebody only says its name.
func (r *runner) refuse(ctx context.Context, t *api.AgentTask, why error) {
	res := deploy.Ended(context.WithoutCancel(ctx), t, time.Now(), nil, why)
	data, err := json.Marshal(res)
	if err != nil {
		r.log.ErrorContext(ctx, "a refusal was not encoded", "task", t.ID, "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active[t.ID] != nil {
		return
	}
	a := r.add(t.ID, t.Type, t.Attempt, time.Now(), nil)
	a.refused, a.result = true, data
	r.touch()
}

// assign takes a task that the server handed out. It returns once the task is
// in the journal; an error means that it is not, and was not begun.
func (r *runner) assign(ctx context.Context, t *api.AgentTask) error {
	e, begun, ended, err := r.journal.Begin(t)
	if err != nil {
		return err
	}
	r.mu.Lock()
	a := r.active[t.ID]
	if a != nil && a.refused {
		delete(r.active, t.ID) // now it came as it should
		a = nil
	}
	switch {
	case ended:
		r.mu.Unlock()
		r.log.InfoContext(ctx, "a task that is over was delivered again and is passed over", "task", t.ID, "attempt", t.Attempt)
		return nil
	case !begun:
		if a != nil {
			a.attempt, a.accepted, a.sent = e.Task.Attempt, false, false
		}
		r.mu.Unlock()
		r.touch()
		return nil
	}
	a = r.add(t.ID, t.Type, t.Attempt, e.AcceptedAt, secretsOf(t))
	// The task outlives the connection that brought it.
	run, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	a.cancel = cancel
	r.mu.Unlock()
	r.touch()
	r.wg.Go(func() {
		defer cancel(nil)
		select {
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
			r.run(run, a, t)
		case <-run.Done(): // cancelled before its turn came
			r.end(run, a, deploy.Ended(run, t, time.Now(), nil, context.Cause(run)))
		}
	})
	return nil
}

// add makes an active task; the caller holds mu.
func (r *runner) add(id string, kind api.TaskType, attempt int64, acceptedAt time.Time, secrets []string) *activeTask {
	a := &activeTask{
		id: id, kind: kind, attempt: attempt, acceptedAt: acceptedAt, log: newTaskLog(seal.NewMasker(secrets...), r.touch),
		cancel: func(error) {},
	}
	r.active[id] = a
	return a
}

func (r *runner) run(ctx context.Context, a *activeTask, t *api.AgentTask) {
	r.log.InfoContext(ctx, "task begins", "task", t.ID, "type", t.Type, "target", t.Target.Name, "attempt", t.Attempt)
	ctx, stop := context.WithTimeoutCause(ctx, time.Duration(t.Timeout)*time.Second, deploy.ErrTimeout)
	defer stop()
	r.end(ctx, a, r.protect(t.ID, t.Attempt, func() *api.TaskResult {
		e := r.executors[t.Target.Kind]
		unlock, err := r.lockTarget(ctx, t)
		if err != nil {
			return deploy.Ended(ctx, t, time.Now(), nil, err)
		}
		defer unlock()
		if e == nil {
			return deploy.Ended(ctx, t, time.Now(), nil, deploy.Fail(api.ErrUnsupported,
				"this agent has no executor for targets of kind %q: update it, or give the target another agent", t.Target.Kind))
		}
		if t.Credentials != nil {
			resolved := *t // the task itself stays as it came
			if resolved.Payload, err = secret.Resolve(t.Payload, t.Credentials.Secrets); err != nil {
				return deploy.Ended(ctx, t, time.Now(), nil, deploy.Fail(api.ErrInvalidPayload, "%w", err))
			}
			t = &resolved
		}
		env := r.env(a)
		if r.artifacts != nil {
			env.Artifacts = r.artifacts(t)
		}
		return e.Run(ctx, t, env)
	}))
}

// lockTarget keeps two changes of one target apart. The server sees to it too,
// but it may have given up a task that this agent is still undoing. The error
// is why ctx has ended meanwhile.
func (r *runner) lockTarget(ctx context.Context, t *api.AgentTask) (unlock func(), err error) {
	switch t.Type {
	case api.TaskDeploy, api.TaskRollback, api.TaskUploadFiles, api.TaskWriteSticker:
	default:
		return func() {}, nil
	}
	r.mu.Lock()
	ch := r.busy[t.TargetID]
	if ch == nil {
		ch = make(chan struct{}, 1)
		r.busy[t.TargetID] = ch
	}
	r.mu.Unlock()
	select {
	case ch <- struct{}{}:
		return func() { <-ch }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (r *runner) env(a *activeTask) executor.Env {
	return executor.Env{
		AgentID: r.agentID, DataDir: r.dataDir, Journal: r.journal, Log: a.log,
		Credentials: func(ctx context.Context) (*api.Credentials, error) {
			r.mu.Lock()
			attempt := a.attempt
			r.mu.Unlock()
			c, err := r.calls.credentials(ctx, a.id, attempt)
			if err == nil {
				a.log.hide(credentialSecrets(c)...)
			}
			return c, err
		},
	}
}

// protect turns a panic into a result: one broken task must not end others.
func (r *runner) protect(id string, attempt int64, fn func() *api.TaskResult) (res *api.TaskResult) {
	began := time.Now().UTC()
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("task panicked", "task", id, "panic", p, "stack", string(debug.Stack()))
			res = nil
		}
		if res == nil {
			res = &api.TaskResult{
				TaskID: id, Attempt: attempt, StartedAt: began, CompletedAt: time.Now().UTC(), ErrorType: api.ErrInternal,
				Error: "the agent met an error of its own while it ran the task; its log tells more; look at the target before you deploy again",
			}
		}
	}()
	return fn()
}

// end masks a result, keeps it in the journal and has it sent.
func (r *runner) end(ctx context.Context, a *activeTask, res *api.TaskResult) {
	m := a.log.masker()
	res.Error = m.Mask(res.Error)
	res.Logs = a.log.end()
	res.Outputs, _ = maskValue(m, res.Outputs).(map[string]any)
	for try := 0; ; try++ {
		err := r.journal.Finish(a.id, res)
		if err == nil {
			break
		}
		// Without the journal the result lives in memory only; it is sent
		// all the same, and the disk may come back meanwhile.
		r.log.ErrorContext(ctx, "the result is not in the journal", "task", a.id, "error", err)
		if try >= 5 {
			break
		}
		time.Sleep(backoff(200*time.Millisecond, try, 0))
	}
	r.mu.Lock()
	res.Attempt = a.attempt
	data, err := json.Marshal(res)
	if err != nil {
		data, _ = json.Marshal(&api.TaskResult{
			TaskID: a.id, Attempt: a.attempt, StartedAt: res.StartedAt, CompletedAt: res.CompletedAt,
			Success: res.Success, Error: fmt.Sprintf("the result could not be encoded: %v", err), ErrorType: api.ErrInternal,
		})
	}
	a.result = data
	r.mu.Unlock()
	r.log.InfoContext(ctx, "task has ended", "task", a.id, "success", res.Success, "error_type", res.ErrorType, "error", res.Error)
	r.touch()
}

// cancelTask asks a running task to stop; how it ends is its result's to say.
func (r *runner) cancelTask(id, reason string) {
	r.mu.Lock()
	a := r.active[id]
	r.mu.Unlock()
	if a != nil {
		a.log.Line("system", reason)
		a.cancel(deploy.ErrCancelled)
	}
}

// recover takes up what the journal says an earlier process had begun.
func (r *runner) recover(ctx context.Context) error {
	entries, err := r.journal.Entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		r.mu.Lock()
		a := r.add(e.Task.ID, e.Task.Type, e.Task.Attempt, e.AcceptedAt, nil)
		a.accepted = false
		// The server has lines of the last process, and passes over numbers
		// that it knows: this one's begin behind all that can have been.
		a.log.nextSeq = time.Now().UnixMilli()
		if e.Result != nil {
			a.result, err = json.Marshal(e.Result)
		}
		r.mu.Unlock()
		if err != nil {
			return fmt.Errorf("result of task %s: %w", e.Task.ID, err)
		}
		if e.Result == nil {
			r.log.WarnContext(ctx, "a task was interrupted and is ended now", "task", e.Task.ID, "type", e.Task.Type)
			r.wg.Go(func() {
				r.end(ctx, a, r.protect(e.Task.ID, e.Task.Attempt, func() *api.TaskResult { return r.resume(ctx, a, e) }))
			})
		}
	}
	return nil
}

func (r *runner) resume(ctx context.Context, a *activeTask, e *journal.Entry) *api.TaskResult {
	if e.Record == nil && e.Task.Type == api.TaskExecuteCommand {
		// Nobody knows how far it got, so nobody may run it again unasked.
		return deploy.Ended(ctx, &e.Task, e.AcceptedAt, nil, deploy.Fail(api.ErrAgentRestarted,
			"the agent was restarted while the command may have been running: look at what it did before you run it again"))
	}
	if e.Record == nil {
		return deploy.Ended(ctx, &e.Task, e.AcceptedAt, nil, deploy.Fail(api.ErrAgentRestarted,
			"the agent was restarted before the task had touched anything; run it again").Retry())
	}
	ex := r.executors[e.Task.Target.Kind]
	if ex == nil {
		return deploy.Ended(ctx, &e.Task, e.AcceptedAt, nil, deploy.Fail(api.ErrUnsupported,
			"the agent was restarted without an executor for targets of kind %q: look at the target before you deploy again", e.Task.Target.Kind))
	}
	ctx = context.WithoutCancel(ctx)
	unlock, err := r.lockTarget(ctx, &e.Task)
	if err != nil {
		return deploy.Ended(ctx, &e.Task, e.AcceptedAt, nil, err)
	}
	defer unlock()
	return ex.Recover(ctx, e.Record, r.env(a))
}

// held names every task that the journal holds.
func (r *runner) held() []*stellav1.TaskRef {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*stellav1.TaskRef, 0, len(r.active))
	for id, a := range r.active {
		if !a.refused {
			out = append(out, &stellav1.TaskRef{TaskId: id, Attempt: a.attempt})
		}
	}
	return out
}

// acked forgets a task whose result the server has dealt with.
func (r *runner) acked(ctx context.Context, ref *stellav1.TaskRef, accepted bool, reason string) {
	id := ref.GetTaskId()
	if !accepted {
		r.log.WarnContext(ctx, "the server refused a result; it keeps its own", "task", id, "attempt", ref.GetAttempt(), "reason", reason)
	}
	r.mu.Lock()
	a := r.active[id]
	if a == nil || a.result == nil || a.attempt != ref.GetAttempt() {
		r.mu.Unlock()
		return
	}
	delete(r.active, id)
	r.mu.Unlock()
	if a.refused {
		return
	}
	if err := r.journal.Forget(id); err != nil {
		r.log.ErrorContext(ctx, "a task is still in the journal and will be reported again", "task", id, "error", err)
	}
}

// drain waits for running tasks to end, until ctx does.
func (r *runner) drain(ctx context.Context) error {
	done := make(chan struct{})
	go func() { r.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.New("tasks are still running; they are undone or finished at the next start")
	}
}

func credentialSecrets(c *api.Credentials) []string {
	if c == nil {
		return nil
	}
	out := slices.Collect(maps.Values(c.Secrets))
	if c.Registry != nil {
		out = append(out, c.Registry.Password, c.Registry.Token)
	}
	return out
}

// secretsOf lists what must not be seen in a task's log.
func secretsOf(t *api.AgentTask) []string {
	out := credentialSecrets(t.Credentials)
	var p struct {
		Environment map[string]string `json:"environment"`
		Config      struct {
			Environment map[string]string `json:"environment"`
		} `json:"config"`
		Hooks  api.Hooks `json:"hooks"`
		Deploy *struct {
			Config struct {
				Environment map[string]string `json:"environment"`
			} `json:"config"`
			Hooks api.Hooks `json:"hooks"`
		} `json:"deploy"`
	}
	if json.Unmarshal(t.Payload, &p) != nil {
		return out // the executor will say what is wrong with it
	}
	envs := []map[string]string{p.Environment, p.Config.Environment}
	hooks := []*api.Hook{p.Hooks.PreDeploy, p.Hooks.PostDeploy}
	if p.Deploy != nil {
		envs = append(envs, p.Deploy.Config.Environment)
		hooks = append(hooks, p.Deploy.Hooks.PreDeploy, p.Deploy.Hooks.PostDeploy)
	}
	for _, h := range hooks {
		if h != nil {
			envs = append(envs, h.Environment)
		}
	}
	for _, env := range envs {
		for name, v := range env {
			if secretName(name) || looksSecret(v) {
				out = append(out, v)
			}
		}
	}
	return append(out, t.Token)
}
