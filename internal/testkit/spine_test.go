package testkit_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/peers"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

// onEachEngine runs a test with a control plane on SQLite and on PostgreSQL.
func onEachEngine(t *testing.T, test func(t *testing.T, cp *testkit.ControlPlane)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, testkit.StartServer(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		database := peers.Database(t)
		test(t, testkit.StartServer(t, func(c *server.Config) { c.Database = database }))
	})
}

func submit(t *testing.T, cp *testkit.ControlPlane, typ api.TaskType, target string, payload any, credentials *api.Credentials) *api.Task {
	t.Helper()
	raw, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	task, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: typ, Target: target, Payload: raw, Credentials: credentials, IdempotencyKey: fmt.Sprint(time.Now().UnixNano())})
	if err != nil {
		t.Fatal(err)
	}
	return cp.WaitTask(task.ID, time.Minute)
}

func TestHostDeployment(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, cp *testkit.ControlPlane) {
		cp.StartAgent("web-1")
		dir := filepath.Join(t.TempDir(), "app")
		if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "app", Kind: "host", Agent: "web-1", Config: api.TargetConfig{Directory: dir}}); err != nil {
			t.Fatal(err)
		}
		deploy := func(version, check string) *api.Task {
			t.Helper()
			return submit(t, cp, api.TaskDeploy, "app", api.DeployPayload{
				Artifacts: []api.ArtifactReference{{Name: "version.txt", Content: []byte(version)}},
				Config: api.DeployConfig{
					ReleaseID: version, Start: "true", Stop: "true", Environment: map[string]string{"API_TOKEN": "do-not-show-me"},
					HealthCheck: &api.HealthCheck{Type: "command", Command: []string{"/bin/sh", "-c", check}, Timeout: 2, IntervalMs: 100},
				},
			}, nil)
		}
		runs := func(want string) {
			t.Helper()
			data, err := os.ReadFile(filepath.Join(dir, "current", "version.txt"))
			if err != nil || string(data) != want {
				t.Fatalf("%s runs, want %s: %v", data, want, err)
			}
		}
		first := deploy("1.0.0", "true")
		if first.State != api.TaskSucceeded {
			t.Fatalf("deploy: %s %s", first.State, first.Reason)
		}
		if strings.Contains(string(first.Payload), "do-not-show-me") {
			t.Errorf("the payload shows a secret: %s", first.Payload)
		}
		runs("1.0.0")
		got := deploy("2.0.0", "exit 1")
		if got.State != api.TaskFailed || got.Result == nil || got.Result.ErrorType != api.ErrHealthCheckFailed || !got.Result.RolledBack {
			t.Fatalf("broken deploy: %s %+v", got.State, got.Result)
		}
		runs("1.0.0")
		logs, err := cp.Client.TaskLogs(t.Context(), got.ID)
		if err != nil || len(logs.Entries) == 0 {
			t.Fatalf("logs: %v %v", logs, err)
		}
		if got := deploy("3.0.0", "true"); got.State != api.TaskSucceeded {
			t.Fatalf("deploy: %s %s", got.State, got.Reason)
		}
		runs("3.0.0")
		if got := submit(t, cp, api.TaskRollback, "app", api.RollbackPayload{}, nil); got.State != api.TaskSucceeded {
			t.Fatalf("rollback: %s %s", got.State, got.Reason)
		}
		runs("1.0.0")
		st := submit(t, cp, api.TaskReadSticker, "app", api.InspectPayload{}, nil)
		if st.State != api.TaskSucceeded || !strings.Contains(fmt.Sprint(st.Result.Outputs["sticker"]), "releaseId:1.0.0") {
			t.Fatalf("sticker: %+v", st.Result)
		}
	})
}

func TestDockerDeployment(t *testing.T) {
	t.Parallel()
	host, private := peers.Docker(t), peers.PrivateRegistry(t)
	repo := private.Address + "/e2e/spine"
	push := func(version, mode string) string {
		return sampleimage.Push(t, repo, sampleimage.Options{Version: version, Mode: mode, Username: private.Username, Password: private.Password})
	}
	v1, v2, v3 := push("1.0.0", ""), push("2.0.0", ""), push("3.0.0", "unhealthy")
	credentials := &api.Credentials{Registry: &api.RegistryAuth{Username: private.Username, Password: private.Password}}
	engine, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close() })

	onEachEngine(t, func(t *testing.T, cp *testkit.ControlPlane) {
		name := "spine-" + filepath.Base(t.Name())
		addr := testkit.FreePort(t)
		defer func() { _, _ = engine.ContainerRemove(t.Context(), name, client.ContainerRemoveOptions{Force: true}) }()
		cp.StartAgent("engine", func(c *agent.Config) { c.DockerHost, c.Capabilities = host, []string{"docker"} })
		if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: name, Kind: "docker", Agent: "engine"}); err != nil {
			t.Fatal(err)
		}
		deploy := func(digest string, c *api.Credentials) *api.Task {
			t.Helper()
			return submit(t, cp, api.TaskDeploy, name, api.DeployPayload{Image: repo, Digest: digest, Config: api.DeployConfig{
				Ports: []string{addr + ":8080"}, StopTimeout: 2,
				HealthCheck: &api.HealthCheck{Type: "http", URL: "http://" + addr + "/healthz", IntervalMs: 50, Timeout: 3},
			}}, c)
		}
		serves := func(want string) {
			t.Helper()
			res, err := http.Get("http://" + addr) //nolint:noctx // a look at a page
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil || strings.TrimSpace(string(body)) != want {
				t.Fatalf("%s serves, want %s: %v", body, want, err)
			}
		}
		if got := deploy(v1, credentials); got.State != api.TaskSucceeded || got.Result.Metrics.DeployDurationMs == 0 {
			t.Fatalf("deploy: %s %+v", got.State, got.Result)
		}
		serves("1.0.0")
		unknown := "sha256:" + strings.Repeat("0", 64)
		if got := deploy(unknown, credentials); got.State != api.TaskFailed || got.Result.ErrorType != api.ErrDigestMismatch {
			t.Fatalf("a digest that nobody has: %s %+v", got.State, got.Result)
		}
		serves("1.0.0")
		got := deploy(v3, credentials)
		if got.State != api.TaskFailed || got.Result.ErrorType != api.ErrHealthCheckFailed || !got.Result.RolledBack {
			t.Fatalf("broken deploy: %s %+v", got.State, got.Result)
		}
		if lines := fmt.Sprint(got.Result.Outputs["containerLogs"]); !strings.Contains(lines, "not healthy") {
			t.Errorf("the failed container's last lines: %s", lines)
		}
		serves("1.0.0")
		if got := deploy(v2, credentials); got.State != api.TaskSucceeded {
			t.Fatalf("deploy: %s %s", got.State, got.Reason)
		}
		serves("2.0.0")
		if got := submit(t, cp, api.TaskRollback, name, api.RollbackPayload{}, nil); got.State != api.TaskSucceeded {
			t.Fatalf("rollback to the previous: %s %s", got.State, got.Reason)
		}
		serves("1.0.0")
		if got := submit(t, cp, api.TaskRollback, name, api.RollbackPayload{TargetDigest: v2}, nil); got.State != api.TaskSucceeded {
			t.Fatalf("rollback by digest: %s %s", got.State, got.Reason)
		}
		serves("2.0.0")
	})
}
