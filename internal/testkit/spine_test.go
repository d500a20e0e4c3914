package testkit_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/testkit"
)

func TestHostDeployment(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	cp.StartAgent("web-1")
	dir := filepath.Join(t.TempDir(), "app")
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "app", Kind: "host", Agent: "web-1", Config: api.TargetConfig{Directory: dir}}); err != nil {
		t.Fatal(err)
	}
	deploy := func(version, check string) *api.Task {
		t.Helper()
		payload, err := json.Marshal(api.DeployPayload{
			Artifacts: []api.ArtifactReference{{Name: "version.txt", Content: []byte(version)}},
			Config: api.DeployConfig{
				ReleaseID: version, Start: "true", Stop: "true",
				HealthCheck: &api.HealthCheck{Type: "command", Command: []string{"/bin/sh", "-c", check}, Timeout: 2, IntervalMs: 100},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		task, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: api.TaskDeploy, Target: "app", Payload: payload})
		if err != nil {
			t.Fatal(err)
		}
		return cp.WaitTask(task.ID, 30*time.Second)
	}
	runs := func() string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, "current", "version.txt"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if got := deploy("1.0.0", "true"); got.State != api.TaskSucceeded {
		t.Fatalf("deploy: %s %s", got.State, got.Reason)
	}
	if runs() != "1.0.0" {
		t.Fatalf("runs %s", runs())
	}
	got := deploy("2.0.0", "exit 1")
	if got.State != api.TaskFailed || got.Result == nil || got.Result.ErrorType != api.ErrHealthCheckFailed || !got.Result.RolledBack {
		t.Fatalf("broken deploy: %s %+v", got.State, got.Result)
	}
	if runs() != "1.0.0" {
		t.Fatalf("after the rollback %s runs", runs())
	}
	logs, err := cp.Client.TaskLogs(t.Context(), got.ID)
	if err != nil || len(logs.Entries) == 0 {
		t.Fatalf("logs: %v %v", logs, err)
	}
}
