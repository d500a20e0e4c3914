package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/cli/out"
)

// phases makes the log of a deployment: name:state:milliseconds since before,
// or stream>text.
func phases(lines ...string) []api.LogEntry {
	var log []api.LogEntry
	now := at
	for i, l := range lines {
		e := api.LogEntry{Seq: int64(i), At: now}
		if stream, text, ok := strings.Cut(l, ">"); ok {
			e.Stream, e.Text = stream, text
		} else {
			parts := strings.Split(l, ":")
			d, err := time.ParseDuration(parts[2])
			if err != nil {
				panic(err)
			}
			now = now.Add(d)
			e.At, e.Stream, e.Phase, e.PhaseState = now, "system", parts[0], parts[1]
		}
		log = append(log, e)
	}
	return log
}

func deployTask(state api.TaskState, result *api.TaskResult) api.Task {
	started, finished := at, at.Add(12345*time.Millisecond)
	payload, err := json.Marshal(api.DeployPayload{Image: "nginx", Digest: digest, Config: api.DeployConfig{ReleaseName: "1.4.2"}})
	if err != nil {
		panic(err)
	}
	return api.Task{
		ID: "t1", Type: api.TaskDeploy, TargetID: "id-web", TargetName: "web", AgentID: "id-a", AgentName: "a1", State: state,
		Payload: payload, CreatedAt: at, StartedAt: &started, FinishedAt: &finished, Result: result,
	}
}

func deploying(t *testing.T, end api.Task, log []api.LogEntry) (*fakeAPI, *terminal) {
	t.Helper()
	f := newFakeAPI(t)
	f.logs = log
	f.answer("GET /api/v1/targets/web", api.Target{ID: "id-web", Name: "web", Kind: "docker"})
	f.answer("POST /api/v1/tasks", api.Task{ID: "t1", Type: api.TaskDeploy, TargetName: "web", State: api.TaskRunning})
	f.answer("GET /api/v1/tasks/t1", end)
	f.answer("GET /api/v1/tasks/t1/logs", api.TaskLogs{Entries: nil})
	return f, newTerminal(t, f)
}

func TestWatchSuccess(t *testing.T) {
	t.Parallel()
	_, term := deploying(t, deployTask(api.TaskSucceeded, &api.TaskResult{Success: true, Outputs: map[string]any{"warnings": []any{"the disk is nearly full"}}}),
		phases("pull:started:0s", "stdout>not shown", "pull:done:1200ms", "switch:started:0s", "switch:done:340ms"))
	term.must(t, "deploy", "web", "--image", "nginx@"+digest)
	want := `deployment to web, task t1
✓ pull          1.2s
✓ switch        0.3s
✓ web runs nginx@sha256:e3b0c44298fc…, release 1.4.2 (12.3s)
warning: the disk is nearly full
`
	if diff := cmp.Diff(want, term.stderr); diff != "" {
		t.Error(diff)
	}
	if term.stdout != "" {
		t.Errorf("stdout: %q", term.stdout)
	}
}

func TestWatchFailure(t *testing.T) {
	t.Parallel()
	_, term := deploying(t, deployTask(api.TaskFailed, &api.TaskResult{
		Error: "not healthy after 10s", ErrorType: api.ErrHealthCheckFailed, RolledBack: true,
	}), phases("health-check:started:0s", "stdout>starting \x1b[31mred", "stderr>no database", "stderr>", "health-check:failed:10s", "stdout>old one starts", "switch:undone:1s"))
	code := term.run(t.Context(), "deploy", "web", "--image", "nginx@"+digest, "-o", "json")
	if code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	want := `deployment to web, task t1
✗ health-check  10.0s
↶ switch        undone
✗ deployment to web failed: the health check did not pass
  not healthy after 10s
  its last lines were:
  │ starting �[31mred
  │ no database
  web runs again what it ran before
next: ` + "`stella task logs t1` shows the whole log; mend the version, or its health check, and deploy again\n"
	if diff := cmp.Diff(want, term.stderr); diff != "" {
		t.Error(diff)
	}
	var task api.Task
	if err := json.Unmarshal([]byte(term.stdout), &task); err != nil || task.Result == nil || !task.Result.RolledBack {
		t.Errorf("stdout is not the task: %v\n%s", err, term.stdout)
	}
}

func TestWatchShowsTheLogWhenAsked(t *testing.T) {
	t.Parallel()
	log := phases("pull:started:0s", "stdout>layer 1", "pull:done:1s")
	log[1].Lost = 3
	_, term := deploying(t, deployTask(api.TaskSucceeded, nil), log)
	term.must(t, "deploy", "web", "--image", "nginx@"+digest, "--follow")
	want := `deployment to web, task t1
  … 3 lines lost here
  │ layer 1
✓ pull          1.0s
✓ web runs nginx@sha256:e3b0c44298fc…, release 1.4.2 (12.3s)
`
	if diff := cmp.Diff(want, term.stderr); diff != "" {
		t.Error(diff)
	}
}

// An interrupt leaves the task to itself, and says how to get back to it.
func TestDetach(t *testing.T) {
	t.Parallel()
	f, term := deploying(t, deployTask(api.TaskRunning, nil), phases("pull:started:0s"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.following = func(over context.Context) {
		cancel()
		<-over.Done()
	}
	if code := term.run(ctx, "deploy", "web", "--image", "nginx@"+digest); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"task t1 goes on", "stella task cancel t1", "stella task logs --follow t1"} {
		if !strings.Contains(term.stderr, want) {
			t.Errorf("%q is not in %s", want, term.stderr)
		}
	}
	for _, r := range f.asked() {
		if strings.Contains(r, "cancel") {
			t.Errorf("the task was cancelled")
		}
	}
}

// What a summary says of how a task ended.
func TestSummary(t *testing.T) {
	t.Parallel()
	failed := func(errorType string, more func(r *api.TaskResult)) api.Task {
		r := &api.TaskResult{Error: "because", ErrorType: errorType}
		if more != nil {
			more(r)
		}
		return deployTask(api.TaskFailed, r)
	}
	for name, tc := range map[string]struct {
		task api.Task
		want []string
	}{
		"before anything": {failed(api.ErrPullFailed, nil), []string{
			"✗ deployment to web failed: the image could not be pulled", "  because",
			"  web runs what it ran before: it was not touched",
			"next: check the image's name; a registry that asks for a login needs --registry-user",
		}},
		"the first deployment": {failed(api.ErrHealthCheckFailed, func(r *api.TaskResult) {
			r.Phases = []api.PhaseTime{{Name: "switch", State: "undone"}}
		}), []string{
			"✗ deployment to web failed: the health check did not pass", "  because",
			"  nothing runs on web: it ran nothing before that could be brought back",
			"next: `stella task logs t1` shows the whole log; mend the version, or its health check, and deploy again",
		}},
		"no way back": {failed(api.ErrRollbackFailed, nil), []string{
			"✗ deployment to web failed: it failed, and so did going back to the previous version", "  because",
			"  what runs on web now is uncertain: it needs a look by hand",
			"next: `stella inspect web` shows what is there; `stella task logs t1` shows the whole log",
		}},
		"agent lost": {failed(api.ErrAgentLost, nil), []string{
			"✗ deployment to web failed: the agent was lost", "  because",
			"  what runs on web now is not known until its agent is back",
			"next: `stella agent status a1` shows how the agent is; then do it again",
		}},
		"a word that is new": {failed("solar_flare", func(r *api.TaskResult) { r.Retriable = true }), []string{
			"✗ deployment to web failed", "  because",
			"  web runs what it ran before: it was not touched",
			"next: the same again may well work; `stella task logs t1` shows the whole log",
		}},
		"expired": {api.Task{ID: "t1", Type: api.TaskDeploy, TargetName: "web", State: api.TaskExpired, Reason: "no agent took it"}, []string{
			"✗ deployment to web expired: no agent took it in time", "  no agent took it", "  nothing on web was touched",
			"next: `stella agent list` shows which agents are there; then do it again",
		}},
		"cancelled": {deployTask(api.TaskCancelled, &api.TaskResult{Error: "cancelled by joe", ErrorType: api.ErrCancelled, RolledBack: true}), []string{
			"✗ deployment to web was cancelled", "  cancelled by joe", "  web runs again what it ran before",
		}},
		"a rollback": {api.Task{
			ID: "t1", Type: api.TaskRollback, TargetName: "web", State: api.TaskSucceeded,
			Result: &api.TaskResult{Outputs: map[string]any{"sticker": map[string]any{"releaseId": "1.0", "image": "nginx", "digest": digest}}},
		}, []string{"✓ web runs nginx@sha256:e3b0c44298fc…, release 1.0"}},
		"a look": {api.Task{ID: "t1", Type: api.TaskInspect, TargetName: "web", State: api.TaskSucceeded}, []string{"✓ look at web succeeded"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, summary(&tc.task, nil, out.Style{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Every word of the contract has a sentence.
func TestErrorWords(t *testing.T) {
	t.Parallel()
	for _, word := range []string{
		api.ErrDigestMismatch, api.ErrPullFailed, api.ErrPreHookFailed, api.ErrPostHookFailed, api.ErrSwitchFailed,
		api.ErrHealthCheckFailed, api.ErrRollbackFailed, api.ErrNothingToRestore, api.ErrCommandFailed, api.ErrTimeout,
		api.ErrCancelled, api.ErrAgentLost, api.ErrAgentRestarted, api.ErrUnsupported, api.ErrInvalidPayload,
		api.ErrTargetUnreachable, api.ErrInternal,
	} {
		if errorWords[word] == "" {
			t.Errorf("%s has none", word)
		}
	}
}
