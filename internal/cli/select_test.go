package cli

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

const bySelector = "POST /api/v1/tasks/by-selector"

// selecting is a server with targets of these names, for each of which a task
// that is named after it ends as told, a second after it began.
func selecting(t *testing.T, typ api.TaskType, ends map[string]api.Task) (*fakeAPI, *terminal) {
	t.Helper()
	f := newFakeAPI(t)
	targets, queued := api.TargetList{}, api.TaskList{}
	for _, name := range []string{"web-1", "web-2", "web-3"} {
		end, ok := ends[name]
		if !ok {
			continue
		}
		targets.Items = append(targets.Items, api.Target{ID: "id-" + name, Name: name, Kind: "docker", Environment: "prod", AgentID: "id-a", AgentName: "a1"})
		task := api.Task{ID: "t-" + name, Type: typ, TargetID: "id-" + name, TargetName: name, State: api.TaskRunning}
		queued.Items = append(queued.Items, task)
		started, finished := at, at.Add(1200*time.Millisecond)
		task.State, task.Result, task.Reason, task.StartedAt, task.FinishedAt = end.State, end.Result, end.Reason, &started, &finished
		f.answer("GET /api/v1/tasks/"+task.ID, task)
		f.answer("GET /api/v1/tasks/"+task.ID+"/logs", api.TaskLogs{})
		f.answer("POST /api/v1/tasks/"+task.ID+"/cancel", task)
	}
	f.answer("GET /api/v1/targets", targets)
	f.answer(bySelector, queued)
	f.answer("POST /api/v1/rollouts/preview", api.RolloutPreview{})
	return f, newTerminal(t, f)
}

// sorted are the lines of a text in an order that does not depend on which
// task was over first.
func sorted(text string) []string {
	return slices.Sorted(strings.Lines(text))
}

func TestSelector(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]api.TargetSelector{
		"env=production":                     {Environment: "production"},
		"environment=production , kind=host": {Environment: "production", Kind: "host"},
		"kind=docker and label.tier=web and label.zone=a=b": {
			Kind: "docker", Labels: map[string]string{"tier": "web", "zone": "a=b"},
		},
	} {
		var s selector
		if err := s.Set(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, s.TargetSelector); diff != "" || s.String() != text {
			t.Errorf("%q: %s", text, diff)
		}
		if err := s.Set(text); err == nil {
			t.Errorf("%q was taken twice", text)
		}
	}
	for text, want := range map[string]string{
		"": "no part", "env": "no part", "env=": "no part", "env=a,": "no part", "env=a,,kind=b": "no part",
		"zone=a": `"zone" is nothing to select targets by`, "label.=a": "nothing to select", "=a": "nothing to select",
		"env=a,environment=b": "twice", "label.a=1,label.a=2": "twice",
	} {
		var s selector
		if err := s.Set(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What flags become, as the server gets it.
func TestSelectRequests(t *testing.T) {
	t.Parallel()
	const prod = `{"selector":{"environment":"prod","labels":{"tier":"web"}},`
	for _, tc := range []struct{ args, payload, body string }{
		{
			"rollback --release 1.0 --priority high --timeout 1m", `{"releaseId":"1.0"}`,
			prod + `"type":"rollback","payload":$,"timeout":60,"priority":"high","idempotencyKey":"k"}`,
		},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			f, term := selecting(t, api.TaskRollback, map[string]api.Task{"web-1": {}, "web-2": {}})
			command, rest, _ := strings.Cut(tc.args, " ")
			term.must(t, append([]string{command, "--select", "env=prod,label.tier=web", "--yes", "--no-wait", "--idempotency-key", "k"}, strings.Fields(rest)...)...)
			req := taken[api.TasksRequest](t, f, bySelector)
			if diff := cmp.Diff(asJSON(t, tc.payload), asJSON(t, string(req.Payload))); diff != "" {
				t.Error(diff)
			}
			req.Payload = json.RawMessage(`"payload"`)
			body, err := json.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Replace(tc.body, "$", `"payload"`, 1), string(body)); diff != "" {
				t.Error(diff)
			}
			want := []string{"GET /api/v1/targets?environment=prod&label=tier%3Dweb", "POST /api/v1/tasks/by-selector"}
			if diff := cmp.Diff(want, f.asked()); diff != "" {
				t.Error(diff)
			}
			if term.stdout != "t-web-1\nt-web-2\n" {
				t.Errorf("stdout: %q", term.stdout)
			}
		})
	}
}

func asJSON(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func TestSelectRefuses(t *testing.T) {
	t.Parallel()
	both := map[string]api.Task{"web-1": {}, "web-2": {}}
	image := " --image nginx@" + digest
	for _, tc := range []struct {
		args, want string
		code       int
	}{
		{"deploy web --select env=prod" + image, "names one too", exitUsage},
		{"deploy" + image, "not said which target", exitUsage},
		{"deploy a b" + image, "2 arguments", exitUsage},
		{"deploy --select zone=a" + image, "nothing to select targets by", exitUsage},
		{"deploy --select env=prod" + image, "2 targets match, and there is nobody to ask\nnext: give --yes", exitUsage},
		{"deploy --select env=prod --yes", "a docker target takes an image", exitUsage},
		{"deploy --select env=prod --yes --file x", "--file is for a compose or host or ssh target", exitUsage},
		{"rollback web --select env=prod", "names one too", exitUsage},
		{"rollback", "not said which target", exitUsage},
		{"rollback --select env=prod", "give --yes", exitUsage},
		{"exec web --select env=prod -- ls", "names one too", exitUsage},
		{"exec --select env=prod ls", "names one too", exitUsage},
		{"exec --select env=prod --", "the command to run there", exitUsage},
		{"exec --select env=prod -- ls", "give --yes", exitUsage},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			f, term := selecting(t, api.TaskDeploy, both)
			if code := term.run(t.Context(), strings.Fields(tc.args)...); code != tc.code || !strings.Contains(term.stderr, tc.want) {
				t.Errorf("exit code %d, %s", code, term.stderr)
			}
			for _, r := range f.asked() {
				if strings.HasPrefix(r, "POST") && !strings.HasSuffix(r, "/preview") {
					t.Errorf("a task was queued: %s", r)
				}
			}
		})
	}
}

func TestSelectNobody(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]int{
		"rollback --select env=nowhere":                       exitNotFound,
		"deploy --select env=nowhere --image nginx@" + digest: exitNotFound,
		"exec --select env=nowhere -- ls":                     exitStella,
	} {
		_, term := selecting(t, api.TaskDeploy, nil)
		if code := term.run(t.Context(), strings.Fields(args)...); code != want || !strings.Contains(term.stderr, "no target matches env=nowhere") {
			t.Errorf("%s: exit code %d, %s", args, code, term.stderr)
		}
	}
}

func TestSelectMixedKinds(t *testing.T) {
	t.Parallel()
	f, term := selecting(t, api.TaskDeploy, nil)
	f.answer("GET /api/v1/targets", api.TargetList{Items: []api.Target{{Name: "web", Kind: "docker"}, {Name: "api", Kind: "host"}}})
	code := term.run(t.Context(), "deploy", "--select", "env=prod", "--yes", "--image", "nginx@"+digest)
	if want := "web is of kind docker, and api of kind host"; code != exitUsage || !strings.Contains(term.stderr, want) {
		t.Errorf("exit code %d, %s", code, term.stderr)
	}
}

// On a terminal, more than one target is asked about.
func TestSelectAsks(t *testing.T) {
	t.Parallel()
	ends := map[string]api.Task{"web-1": {State: api.TaskSucceeded}, "web-2": {State: api.TaskSucceeded}}
	for answer, want := range map[string]int{"y\n": exitOK, "n\n": exitFailed} {
		f, term := selecting(t, api.TaskRollback, ends)
		term.tty, term.stdin = true, answer
		if code := term.run(t.Context(), "rollback", "--select", "env=prod"); code != want || !strings.Contains(term.stderr, "Roll these 2 targets back? [y/N]") {
			t.Errorf("%q: exit code %d, %s", answer, code, term.stderr)
		}
		if queued := f.bodies[bySelector] != nil; queued != (want == exitOK) {
			t.Errorf("%q: queued %v", answer, queued)
		}
	}
}

const listed = `NAME   KIND    ENVIRONMENT  REACHED BY
web-1  docker  prod         agent a1
web-2  docker  prod         agent a1
web-3  docker  prod         agent a1
`

func TestSelectEnds(t *testing.T) {
	t.Parallel()
	f, term := selecting(t, api.TaskRollback, map[string]api.Task{
		"web-1": {State: api.TaskSucceeded, Result: &api.TaskResult{Success: true}},
		"web-2": {State: api.TaskFailed, Result: &api.TaskResult{Error: "not healthy\nafter 10s", ErrorType: api.ErrHealthCheckFailed, RolledBack: true}},
		"web-3": {State: api.TaskExpired, Reason: "a1 is offline"},
	})
	f.logs = phases("pull:started:0s", "stdout>not shown", "pull:done:1s")
	code := term.run(t.Context(), "rollback", "--select", "env=prod", "-y", "-o", "json")
	if code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	rest, ok := strings.CutPrefix(term.stderr, listed)
	if !ok {
		t.Errorf("the targets are not listed: %s", term.stderr)
	}
	rest, ok = strings.CutSuffix(rest, "1 of 3 succeeded\n")
	if !ok {
		t.Errorf("there is no summary: %s", term.stderr)
	}
	want := []string{
		"✓ web-1 1.2s\n",
		"✗ web-2 failed: the health check did not pass, rolled back: not healthy after 10s (task t-web-2)\n",
		"✗ web-3 expired: no agent took it in time: a1 is offline (task t-web-3)\n",
	}
	if diff := cmp.Diff(want, sorted(rest)); diff != "" {
		t.Error(diff)
	}
	var list api.TaskList
	if err := json.Unmarshal([]byte(term.stdout), &list); err != nil || len(list.Items) != 3 || list.Items[2].State != api.TaskExpired {
		t.Errorf("stdout is not the list: %v\n%s", err, term.stdout)
	}
	if key := taken[api.TasksRequest](t, f, bySelector).IdempotencyKey; key == "" {
		t.Error("there is no idempotency key")
	}
}

// With --follow the logs are there too, each line with its target's name.
func TestSelectFollows(t *testing.T) {
	t.Parallel()
	f, term := selecting(t, api.TaskRollback, map[string]api.Task{"web-1": {State: api.TaskSucceeded}, "web-2": {State: api.TaskSucceeded}})
	f.logs = phases("switch:started:0s", "stdout>hello", "switch:done:1s")
	term.must(t, "rollback", "--select", "env=prod", "-y", "--follow")
	for _, want := range []string{"web-1 | ✓ switch        1.0s\n", "web-2 |   │ hello\n", "2 of 2 succeeded\n"} {
		if !strings.Contains(term.stderr, want) {
			t.Errorf("%q is not in %s", want, term.stderr)
		}
	}
}

// A selector that picks one is shown as that one is, but for the list.
func TestSelectOne(t *testing.T) {
	t.Parallel()
	f, term := selecting(t, api.TaskRollback, map[string]api.Task{"web-1": {State: api.TaskSucceeded}})
	f.logs = phases("switch:started:0s", "switch:done:1s")
	term.must(t, "rollback", "--select", "env=prod", "-o", "yaml")
	want := `NAME   KIND    ENVIRONMENT  REACHED BY
web-1  docker  prod         agent a1
rollback of web-1, task t-web-1
✓ switch        1.0s
✓ web-1 runs the new version (1.2s)
`
	if diff := cmp.Diff(want, term.stderr); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(term.stdout, "items:\n") {
		t.Errorf("stdout: %s", term.stdout)
	}
}

func TestSelectExec(t *testing.T) {
	t.Parallel()
	f, term := selecting(t, api.TaskExecuteCommand, map[string]api.Task{
		"web-1": ended(api.TaskSucceeded, "", 0), "web-2": ended(api.TaskFailed, api.ErrCommandFailed, 7),
	})
	f.logs = []api.LogEntry{{Stream: "system", Text: "running"}, {Stream: "stdout", Text: "one"}, {Stream: "stderr", Text: "two"}}
	if code := term.run(t.Context(), "exec", "--select", "env=prod", "--yes", "--", "cmd", "-x"); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if diff := cmp.Diff([]string{"web-1 | one\n", "web-2 | one\n"}, sorted(term.stdout)); diff != "" {
		t.Error(diff)
	}
	want := []string{
		"1 of 2 succeeded\n", "NAME   KIND    ENVIRONMENT  REACHED BY\n", "web-1  docker  prod         agent a1\n", "web-1 | two\n",
		"web-2  docker  prod         agent a1\n", "web-2 | two\n", "✓ web-1 1.2s\n", "✗ web-2 exited with 7 (task t-web-2)\n",
	}
	if diff := cmp.Diff(want, sorted(term.stderr)); diff != "" {
		t.Error(diff)
	}
	req := taken[api.TasksRequest](t, f, bySelector)
	if string(req.Payload) != `{"command":["cmd","-x"]}` || req.Type != api.TaskExecuteCommand || req.IdempotencyKey == "" {
		t.Errorf("request: %+v", req)
	}
	f, term = selecting(t, api.TaskExecuteCommand, map[string]api.Task{"web-2": ended(api.TaskFailed, api.ErrCommandFailed, 7)})
	if code := term.run(t.Context(), "exec", "--select", "env=prod", "--", "cmd"); code != 7 {
		t.Errorf("one alone: exit code %d", code)
	}
	f.answer("GET /api/v1/targets", &api.Problem{Status: 403, Title: "Forbidden", Code: "forbidden"})
	if code := term.run(t.Context(), "exec", "--select", "env=prod", "--", "cmd"); code != exitStella {
		t.Errorf("not allowed: exit code %d", code)
	}
}

// An interrupt leaves deployments to themselves, and stops commands.
func TestSelectInterrupted(t *testing.T) {
	t.Parallel()
	running := map[string]api.Task{"web-1": {State: api.TaskRunning}, "web-2": {State: api.TaskRunning}}
	for _, tc := range []struct {
		typ     api.TaskType
		args    string
		says    string
		cancels int
	}{
		{api.TaskRollback, "rollback", "2 of 2 tasks go on without you\nnext: `stella task list` shows them, `stella task cancel t-web-1 t-web-2` stops them", 0},
		{api.TaskExecuteCommand, "exec -- sleep 60", "(task t-web-2)", 2},
	} {
		f, term := selecting(t, tc.typ, running)
		ctx, cancel := context.WithCancel(t.Context())
		f.following = func(over context.Context) {
			cancel()
			<-over.Done()
		}
		command, rest, _ := strings.Cut(tc.args, " ")
		code := term.run(ctx, append([]string{command, "--select", "env=prod", "--yes"}, strings.Fields(rest)...)...)
		cancel()
		if code != exitInterrupted || !strings.Contains(term.stderr, tc.says) || strings.Contains(term.stderr, "succeeded") {
			t.Errorf("%s: exit code %d, %s", tc.args, code, term.stderr)
		}
		cancels := 0
		for _, r := range f.asked() {
			if strings.HasSuffix(r, "/cancel") {
				cancels++
			}
		}
		if cancels != tc.cancels {
			t.Errorf("%s: %d tasks were cancelled", tc.args, cancels)
		}
	}
}

// A task that cannot be watched is told of, and the others go on.
func TestSelectLosesOne(t *testing.T) {
	t.Parallel()
	f, term := selecting(t, api.TaskRollback, map[string]api.Task{"web-1": {State: api.TaskSucceeded}, "web-2": {}})
	f.answer("GET /api/v1/tasks/t-web-2", &api.Problem{Status: 403, Title: "Forbidden", Detail: "a viewer may not", Code: "forbidden"})
	if code := term.run(t.Context(), "rollback", "--select", "env=prod", "--yes"); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"✓ web-1 1.2s\n", "✗ web-2 cannot be watched: a viewer may not (task t-web-2)\n", "1 of 2 succeeded\n"} {
		if !strings.Contains(term.stderr, want) {
			t.Errorf("%q is not in %s", want, term.stderr)
		}
	}
}

// The server picks the targets again when it queues: what changed is told.
func TestSelectChanges(t *testing.T) {
	t.Parallel()
	f, term := selecting(t, api.TaskRollback, map[string]api.Task{"web-1": {}, "web-2": {}})
	f.answer(bySelector, api.TaskList{Items: []api.Task{{ID: "t1", TargetID: "id-web-1"}, {ID: "t9", TargetID: "id-web-9", TargetName: "web-9"}}})
	term.must(t, "rollback", "--select", "env=prod", "--yes", "--no-wait")
	for _, want := range []string{"web-2 does not match any more", "web-9 matches since a moment ago"} {
		if !strings.Contains(term.stderr, want) {
			t.Errorf("%q is not in %s", want, term.stderr)
		}
	}
}
