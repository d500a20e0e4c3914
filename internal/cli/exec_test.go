package cli

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

func executing(t *testing.T, end api.Task) (*fakeAPI, *terminal) {
	t.Helper()
	end.ID, end.Type, end.TargetName = "t1", api.TaskExecuteCommand, "web"
	f := newFakeAPI(t)
	f.logs = []api.LogEntry{
		{Stream: "system", Text: "running"}, {Stream: "stdout", Text: "one"}, {Stream: "stderr", Text: "two"}, {Stream: "stdout", Text: "three"},
	}
	f.answer("POST /api/v1/tasks", api.Task{ID: "t1", State: api.TaskRunning})
	f.answer("GET /api/v1/tasks/t1", end)
	f.answer("GET /api/v1/tasks/t1/logs", api.TaskLogs{})
	f.answer("POST /api/v1/tasks/t1/cancel", end)
	return f, newTerminal(t, f)
}

func ended(state api.TaskState, errorType string, exit any) api.Task {
	r := &api.TaskResult{Success: state == api.TaskSucceeded, ErrorType: errorType, Error: "it says why"}
	if exit != nil {
		r.Outputs = map[string]any{"exitCode": exit}
	}
	return api.Task{State: state, Result: r}
}

func TestExec(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		task api.Task
		code int
		says string
	}{
		"success":         {ended(api.TaskSucceeded, "", 0), 0, ""},
		"its own failure": {ended(api.TaskFailed, api.ErrCommandFailed, 7), 7, ""},
		"not started":     {ended(api.TaskFailed, api.ErrCommandFailed, nil), exitStella, "it says why"},
		"a timeout":       {ended(api.TaskFailed, api.ErrTimeout, 137), exitStella, "took longer"},
		"no agent":        {api.Task{State: api.TaskExpired, Reason: "nobody came"}, exitStella, "nobody came"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, term := executing(t, tc.task)
			if code := term.run(t.Context(), "exec", "web", "--", "cmd"); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			if diff := cmp.Diff("one\nthree\n", term.stdout); diff != "" {
				t.Error(diff)
			}
			if !strings.HasPrefix(term.stderr, "two\n") || !strings.Contains(term.stderr, tc.says) {
				t.Errorf("stderr: %s", term.stderr)
			}
			if tc.says == "" && term.stderr != "two\n" {
				t.Errorf("stderr has more than the command wrote: %q", term.stderr)
			}
		})
	}
}

func TestExecArguments(t *testing.T) {
	t.Parallel()
	f, term := executing(t, ended(api.TaskSucceeded, "", 0))
	term.env["SECRET"] = "s3"
	term.must(t, "exec", "web", "-u", "root", "-w", "/srv", "-e", "A=b", "-e", "SECRET", "--timeout", "1m", "--", "ls", "-l", "--", "x")
	req := taken[api.TaskRequest](t, f, "POST /api/v1/tasks")
	want := `{"command":["ls","-l","--","x"],"environment":{"A":"b","SECRET":"s3"},"workingDir":"/srv","user":"root"}`
	if diff := cmp.Diff(want, string(req.Payload)); diff != "" {
		t.Error(diff)
	}
	if req.Timeout != 60 || req.Target != "web" || req.Type != api.TaskExecuteCommand {
		t.Errorf("request: %+v", req)
	}
	for _, wrong := range []string{"exec", "exec web", "exec web --", "exec web x -- y", "exec -- web ls"} {
		if code := term.run(t.Context(), strings.Fields(wrong)...); code != exitUsage {
			t.Errorf("%q: exit code %d", wrong, code)
		}
	}
}

// An interrupt is meant for the command, and so stops it.
func TestExecInterrupted(t *testing.T) {
	t.Parallel()
	f, term := executing(t, api.Task{State: api.TaskRunning})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.following = func(over context.Context) {
		cancel()
		<-over.Done()
	}
	if code := term.run(ctx, "exec", "web", "--", "sleep", "60"); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	if last := f.asked()[len(f.asked())-1]; last != "POST /api/v1/tasks/t1/cancel" {
		t.Errorf("the last request was %s", last)
	}
}

func TestExecUnreachable(t *testing.T) {
	t.Parallel()
	f, term := executing(t, ended(api.TaskSucceeded, "", 0))
	f.answer("POST /api/v1/tasks", &api.Problem{Status: 403, Title: "Forbidden", Detail: "a viewer may not", Code: "forbidden"})
	if code := term.run(t.Context(), "exec", "web", "--", "ls"); code != exitStella {
		t.Errorf("exit code %d", code)
	}
}
