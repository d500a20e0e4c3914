package testkit_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// hostRig is a server, an agent and a host target.
func hostRig(t *testing.T, change ...func(*agent.Config)) (*testkit.ControlPlane, *testkit.Agent) {
	t.Helper()
	cp := testkit.StartServer(t)
	a := cp.StartAgent("web", change...)
	dir := filepath.Join(t.TempDir(), "app")
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "app", Kind: "host", Agent: "web", Config: api.TargetConfig{Directory: dir}}); err != nil {
		t.Fatal(err)
	}
	return cp, a
}

func submitCommand(t *testing.T, cp *testkit.ControlPlane, timeout int64, argv ...string) string {
	t.Helper()
	payload, err := json.Marshal(api.CommandPayload{Command: argv})
	if err != nil {
		t.Fatal(err)
	}
	task, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: api.TaskExecuteCommand, Target: "app", Payload: payload, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return task.ID
}

func TestBadInputNamesTheField(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	newHandmade(t, cp, "web")
	admin := map[string]string{"Authorization": "Bearer " + cp.AdminToken}
	c := httpClient(tlsConfig(cp))
	if status, body := call(t, c, http.MethodPost, cp.URL+"/api/v1/targets", admin, `{"name":"d","kind":"docker","agent":"web"}`); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
		code, mentions           string
	}{
		{"no JSON", "POST", "/targets", `{"name":`, 400, "malformed", "JSON"},
		{"wrong type", "POST", "/targets", `{"name":7,"kind":"host"}`, 422, "invalid", "body.name"},
		{"unknown field", "POST", "/targets", `{"name":"x","kind":"docker","agent":"web","colour":"red"}`, 422, "invalid", "body.colour"},
		{"missing field", "POST", "/targets", `{"kind":"docker","agent":"web"}`, 422, "invalid", "name"},
		{"unknown kind", "POST", "/targets", `{"name":"x","kind":"toaster","agent":"web"}`, 422, "invalid", "body.kind"},
		{"unknown agent", "POST", "/targets", `{"name":"x","kind":"docker","agent":"nobody"}`, 422, "invalid", "body.agent"},
		{"relative folder", "POST", "/targets", `{"name":"x","kind":"host","agent":"web","config":{"directory":"opt"}}`, 422, "invalid", "body.config.directory"},
		{"name taken", "POST", "/targets", `{"name":"d","kind":"docker","agent":"web"}`, 409, "name_taken", "d"},
		{"oversize", "POST", "/targets", `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "too_large", ""},
		{"tag only", "POST", "/tasks", `{"type":"deploy","target":"d","payload":{"image":"nginx:1.27","digest":""}}`, 422, "invalid", "body.payload.image"},
		{"no digest", "POST", "/tasks", `{"type":"deploy","target":"d","payload":{"image":"nginx"}}`, 422, "invalid", "body.payload.digest"},
		{"unknown field in the payload", "POST", "/tasks", `{"type":"deploy","target":"d","payload":{"image":"nginx","digest":"` + digest + `","prots":[]}}`, 422, "invalid", "body.payload.prots"},
		{"wrong type in the payload", "POST", "/tasks", `{"type":"deploy","target":"d","payload":{"image":"nginx","digest":"` + digest + `","config":{"ports":"80"}}}`, 422, "invalid", "config.ports"},
		{"unknown target", "POST", "/tasks", `{"type":"deploy","target":"nowhere","payload":{"image":"nginx","digest":"` + digest + `"}}`, 404, "target_not_found", "nowhere"},
		{"unknown type", "POST", "/tasks", `{"type":"dance","target":"d"}`, 422, "invalid", "body.type"},
		{"bad status word", "GET", "/agents?status=purple", ``, 422, "invalid", "purple"},
		{"bad label", "GET", "/agents?label=novalue", ``, 422, "invalid", "novalue"},
		{"unknown task", "GET", "/tasks/nothing", ``, 404, "task_not_found", ""},
		{"unknown path", "GET", "/nothing", ``, 404, "not_found", ""},
		{"wrong method", "PATCH", "/agents", ``, 405, "method_not_allowed", "GET"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			status, body := call(t, c, tc.method, cp.URL+"/api/v1"+tc.path, admin, tc.body)
			p := problem(t, body)
			if status != tc.status || p.Code != tc.code || p.Status != status || !strings.Contains(p.Detail, tc.mentions) {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	tasks, err := cp.Client.TaskPage(t.Context(), clientTasks())
	if err != nil || len(tasks.Items) != 0 {
		t.Errorf("something was queued: %v %v", tasks, err)
	}
}

func TestRevokedAgentGetsNothingQueued(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := newHandmade(t, cp, "web")
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "d", Kind: "docker", Agent: "web"}); err != nil {
		t.Fatal(err)
	}
	if _, err := cp.Client.RevokeAgent(t.Context(), h.id); err != nil {
		t.Fatal(err)
	}
	payload := fmt.Sprintf(`{"image":"nginx","digest":"sha256:%s"}`, strings.Repeat("a", 64))
	_, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: api.TaskDeploy, Target: "d", Payload: json.RawMessage(payload)})
	if err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Fatalf("a deploy to a revoked agent: %v", err)
	}
}

func TestProtocolVersion(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := newHandmade(t, cp, "web")
	c := httpClient(tlsConfig(cp, h.cert))
	for version, want := range map[string]int{"": 200, "1": 200, "2": 400, "0": 400, "one": 400} {
		status, body := call(t, c, http.MethodPost, h.url("/heartbeat"), map[string]string{api.HeaderProtocolVersion: version}, "{}")
		if status != want || want == 400 && !strings.Contains(problem(t, body).Detail, "1 to 1") {
			t.Errorf("version %q: %d %s", version, status, body)
		}
	}
}

func TestPolling(t *testing.T) {
	t.Parallel()
	cp, _ := hostRig(t, func(c *agent.Config) { c.Transport = "poll" })
	id := submitCommand(t, cp, 60, "/bin/sh", "-c", "echo one; echo two >&2; exit 3")
	got := cp.WaitTask(id, 30*time.Second)
	if got.State != api.TaskFailed || got.Result.ErrorType != api.ErrCommandFailed || got.Result.Outputs["exitCode"] != float64(3) {
		t.Fatalf("%s %+v", got.State, got.Result)
	}
	logs, err := cp.Client.TaskLogs(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, e := range logs.Entries {
		text += e.Stream + ":" + e.Text + "\n"
	}
	if !strings.Contains(text, "stdout:one") || !strings.Contains(text, "stderr:two") {
		t.Errorf("log: %s", text)
	}
	slow := submitCommand(t, cp, 60, "/bin/sh", "-c", "sleep 600")
	waitRunning(t, cp, slow)
	if _, err := cp.Client.CancelTask(t.Context(), slow); err != nil {
		t.Fatal(err)
	}
	if got := cp.WaitTask(slow, 30*time.Second); got.State != api.TaskCancelled {
		t.Errorf("cancelled by polling: %s %s", got.State, got.Reason)
	}
}

func waitRunning(t *testing.T, cp *testkit.ControlPlane, id string) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, "task "+id+" to run", func() (bool, string) {
		got, err := cp.Client.Task(t.Context(), id)
		if err != nil {
			return false, err.Error()
		}
		return got.State == api.TaskRunning, string(got.State) + " " + got.Reason
	})
}

func TestCancelAndTimeout(t *testing.T) {
	t.Parallel()
	cp, _ := hostRig(t)
	id := submitCommand(t, cp, 60, "/bin/sh", "-c", "sleep 600")
	waitRunning(t, cp, id)
	if _, err := cp.Client.CancelTask(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := cp.WaitTask(id, 20*time.Second); got.State != api.TaskCancelled {
		t.Errorf("cancelled: %s %s", got.State, got.Reason)
	}
	if _, err := cp.Client.CancelTask(t.Context(), id); err == nil || !strings.Contains(err.Error(), "over") {
		t.Errorf("a task that is over was cancelled again: %v", err)
	}
	got := cp.WaitTask(submitCommand(t, cp, 1, "/bin/sh", "-c", "sleep 600"), 20*time.Second)
	if got.State != api.TaskFailed || got.Result.ErrorType != api.ErrTimeout {
		t.Errorf("timeout: %s %+v", got.State, got.Result)
	}
}

func TestQueuedTaskWaitsCancelsAndExpires(t *testing.T) {
	t.Parallel()
	cp, a := hostRig(t)
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, "the server to notice", func() (bool, string) {
		v, err := cp.Client.Agent(t.Context(), "web")
		return err == nil && v.Transport == "", "still connected"
	})
	id := submitCommand(t, cp, 60, "true")
	if got, err := cp.Client.CancelTask(t.Context(), id); err != nil || got.State != api.TaskCancelled {
		t.Errorf("cancel while queued: %+v %v", got, err)
	}
	short, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: api.TaskExecuteCommand, Target: "app", Payload: json.RawMessage(`{"command":["true"]}`), DeliveryTimeout: 1})
	if err != nil {
		t.Fatal(err)
	}
	if got := cp.WaitTask(short.ID, 20*time.Second); got.State != api.TaskExpired {
		t.Errorf("expired: %s %s", got.State, got.Reason)
	}
	waits := submitCommand(t, cp, 60, "true")
	a.Start("")
	if got := cp.WaitTask(waits, 20*time.Second); got.State != api.TaskSucceeded {
		t.Errorf("the task that waited: %s %s", got.State, got.Reason)
	}
}

func TestServerRestartWhileTasksRun(t *testing.T) {
	t.Parallel()
	cp, _ := hostRig(t)
	var ids []string
	gate := filepath.Join(t.TempDir(), "gate")
	for range 4 {
		ids = append(ids, submitCommand(t, cp, 60, "/bin/sh", "-c", "echo before; while ! test -e "+gate+"; do sleep 0.05; done; echo after"))
	}
	for _, id := range ids {
		waitRunning(t, cp, id)
	}
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cp.Start()
	for _, id := range ids {
		got := cp.WaitTask(id, 30*time.Second)
		if got.State != api.TaskSucceeded || got.Attempt != 1 {
			t.Errorf("%s after %d attempts: %s", got.State, got.Attempt, got.Reason)
		}
		logs, err := cp.Client.TaskLogs(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, e := range logs.Entries {
			if e.Stream == "stdout" {
				said = append(said, e.Text)
			}
		}
		if strings.Join(said, " ") != "before after" {
			t.Errorf("log: %q", said)
		}
	}
}

func TestAgentThatNeverReturnsIsLost(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, func(c *server.Config) {
		c.HeartbeatInterval, c.StaleAfter, c.DeadAfter, c.TaskLease = 200*time.Millisecond, 2*time.Second, 2*time.Second, 2*time.Second
	})
	h := newHandmade(t, cp, "web")
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "d", Kind: "docker", Agent: "web"}); err != nil {
		t.Fatal(err)
	}
	payload := fmt.Sprintf(`{"image":"nginx","digest":"sha256:%s"}`, strings.Repeat("a", 64))
	task, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: api.TaskDeploy, Target: "d", Payload: json.RawMessage(payload)})
	if err != nil {
		t.Fatal(err)
	}
	c := httpClient(tlsConfig(cp, h.cert))
	_, body := h.beat(t, c)
	var beat api.HeartbeatResponse
	if err := json.Unmarshal(body, &beat); err != nil || len(beat.Tasks) != 1 {
		t.Fatalf("%s", body)
	}
	// It says once that it runs the task, and is not heard again.
	call(t, c, http.MethodPost, h.url("/heartbeat"), nil, api.HeartbeatRequest{RunningTasks: []api.TaskRef{{TaskID: task.ID, Attempt: 1}}})
	got := cp.WaitTask(task.ID, 20*time.Second)
	if got.State != api.TaskFailed || got.Result.ErrorType != api.ErrAgentLost {
		t.Fatalf("%s %+v", got.State, got.Result)
	}
	// Its late result is refused, and kept.
	status, body := call(t, c, http.MethodPost, h.url("/tasks/"+task.ID+"/complete"), map[string]string{"Authorization": "Bearer " + beat.Tasks[0].Token}, `{"success":true}`)
	var answer api.CompleteResponse
	if err := json.Unmarshal(body, &answer); err != nil || status != 200 || answer.Acknowledged {
		t.Fatalf("late result: %d %s", status, body)
	}
	found := false
	for e, err := range cp.Client.Audit(t.Context(), clientAudit()) {
		if err != nil {
			t.Fatal(err)
		}
		found = found || e.Action == "task.late_result" && e.Object == task.ID
	}
	if !found {
		t.Error("the audit log does not have the late result")
	}
	becomes := func(want api.Liveness) {
		t.Helper()
		testkit.Eventually(t, 20*time.Second, "the agent to be "+string(want), func() (bool, string) {
			v, err := cp.Client.Agent(t.Context(), h.id)
			if err != nil {
				return false, err.Error()
			}
			return v.Liveness == want, string(v.Liveness)
		})
	}
	becomes(api.Dead) // by way of stale
	h.beat(t, c)
	becomes(api.Live)
	becomes(api.Stale)
}

func TestStoreGoneTurnsReadinessFalse(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	if err := cp.Client.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"stella.db", "stella.db-wal", "stella.db-shm"} {
		if err := os.Remove(filepath.Join(cp.Data, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, 20*time.Second, "the server to be not ready", func() (bool, string) {
		err := cp.Client.Ready(t.Context())
		return err != nil, "still ready"
	})
	if err := cp.Client.Health(t.Context()); err != nil {
		t.Errorf("the process is alive, and says: %v", err)
	}
}

func TestTasksBySelector(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	cp.StartAgent("web")
	for name, env := range map[string]string{"a": "staging", "b": "staging", "c": "production"} {
		_, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: name, Kind: "host", Agent: "web", Environment: env, Config: api.TargetConfig{Directory: filepath.Join(t.TempDir(), name)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	req := api.TasksRequest{
		Selector: api.TargetSelector{Environment: "staging"}, Type: api.TaskExecuteCommand,
		Payload: json.RawMessage(`{"command":["true"]}`), IdempotencyKey: "once",
	}
	first, err := cp.Client.SubmitTasks(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := cp.Client.SubmitTasks(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Items) != 2 || len(again.Items) != 2 || first.Items[0].ID != again.Items[0].ID || first.Items[1].ID != again.Items[1].ID {
		t.Fatalf("first %d tasks, then %d", len(first.Items), len(again.Items))
	}
	for _, task := range first.Items {
		if got := cp.WaitTask(task.ID, 20*time.Second); got.State != api.TaskSucceeded || got.TargetName == "c" {
			t.Errorf("%s on %s: %s", got.State, got.TargetName, got.Reason)
		}
	}
	req.Selector = api.TargetSelector{}
	if _, err := cp.Client.SubmitTasks(t.Context(), req); err == nil || !strings.Contains(err.Error(), "every target") {
		t.Errorf("an empty selector: %v", err)
	}
	req.Selector.Labels = map[string]string{"no": "body"}
	if _, err := cp.Client.SubmitTasks(t.Context(), req); err == nil {
		t.Error("a selector that matches nothing was taken")
	}
}

func TestAnotherAgentTakesOver(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, func(c *server.Config) {
		c.HeartbeatInterval, c.StaleAfter, c.TaskLease = 200*time.Millisecond, 30*time.Second, 2*time.Second
	})
	a, b := newHandmade(t, cp, "a"), newHandmade(t, cp, "b")
	for _, h := range []*handmade{a, b} {
		labels := map[string]string{"pool": "x"}
		if _, err := cp.Client.UpdateAgent(t.Context(), h.id, api.AgentUpdate{Labels: &labels}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "d", Kind: "docker", AgentSelector: &api.AgentSelector{Labels: map[string]string{"pool": "x"}}}); err != nil {
		t.Fatal(err)
	}
	payload := fmt.Sprintf(`{"image":"nginx","digest":"sha256:%s"}`, strings.Repeat("a", 64))
	task, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: api.TaskDeploy, Target: "d", Payload: json.RawMessage(payload)})
	if err != nil {
		t.Fatal(err)
	}
	tasks := func(h *handmade, running ...api.TaskRef) []api.AgentTask {
		t.Helper()
		_, body := call(t, httpClient(tlsConfig(cp, h.cert)), http.MethodPost, h.url("/heartbeat"), nil, api.HeartbeatRequest{RunningTasks: running})
		var beat api.HeartbeatResponse
		if err := json.Unmarshal(body, &beat); err != nil {
			t.Fatalf("%s", body)
		}
		return beat.Tasks
	}
	got := tasks(a)
	if len(got) != 1 || got[0].Attempt != 1 {
		t.Fatalf("a got %+v", got)
	}
	first := got[0]
	tasks(a, api.TaskRef{TaskID: task.ID, Attempt: 1}) // it runs, and is not heard again
	testkit.Eventually(t, 20*time.Second, "b to get the task", func() (bool, string) {
		got = tasks(b)
		return len(got) == 1, "nothing"
	})
	if got[0].ID != task.ID || got[0].Attempt != 2 {
		t.Fatalf("b got %+v", got)
	}
	complete := func(h *handmade, token string) api.CompleteResponse {
		t.Helper()
		_, body := call(t, httpClient(tlsConfig(cp, h.cert)), http.MethodPost, h.url("/tasks/"+task.ID+"/complete"), map[string]string{"Authorization": "Bearer " + token}, `{"success":true}`)
		var answer api.CompleteResponse
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatalf("%s", body)
		}
		return answer
	}
	if late := complete(a, first.Token); late.Acknowledged {
		t.Error("the late result of the first attempt was taken")
	}
	if last := complete(b, got[0].Token); !last.Acknowledged {
		t.Errorf("the second attempt's result was refused: %s", last.Reason)
	}
	if again := complete(b, got[0].Token); !again.Acknowledged {
		t.Errorf("the same result again was refused: %s", again.Reason)
	}
	if end := cp.WaitTask(task.ID, 5*time.Second); end.State != api.TaskSucceeded || end.AgentID != b.id || end.Attempt != 2 {
		t.Errorf("%+v", end)
	}
}

func TestChangesAreAudited(t *testing.T) {
	t.Parallel()
	cp, _ := hostRig(t)
	id := submitCommand(t, cp, 60, "true")
	cp.WaitTask(id, 20*time.Second)
	agent, err := cp.Client.DeactivateAgent(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := cp.Client.DeleteAgent(t.Context(), "nobody"); err == nil {
		t.Fatal("nobody was deleted")
	}
	var got []string
	for e, err := range cp.Client.Audit(t.Context(), clientAudit()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Actor == "" || e.Remote == "" || e.At.IsZero() {
			t.Errorf("%+v", e)
		}
		got = append(got, e.Action+" "+e.Object+" "+e.Outcome)
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{"task.create " + id + " ok", "agent.deactivate " + agent.ID + " ok", "agent.delete nobody denied", "agent.register " + agent.ID + " ok"} {
		if !strings.Contains(all, want) {
			t.Errorf("the audit log lacks %q:\n%s", want, all)
		}
	}
}
