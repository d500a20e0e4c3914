package testkit_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/testkit"
)

// estate is six host targets, on two agents, each in a folder of its own.
type estate struct {
	*testing.T
	cp  *testkit.ControlPlane
	dir string
}

func newEstate(t *testing.T, cp *testkit.ControlPlane) *estate {
	e := &estate{T: t, cp: cp, dir: t.TempDir()}
	for _, name := range []string{"left", "right"} {
		cp.StartAgent(name, func(c *agent.Config) { c.Capabilities = []string{"host"} })
	}
	for i := range 6 {
		name := fmt.Sprintf("app-%d", i)
		_, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{
			Name: name, Kind: "host", Agent: []string{"left", "right"}[i%2], Environment: "production", Labels: map[string]string{"tier": "web"},
			Config: api.TargetConfig{Directory: filepath.Join(e.dir, name)},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// payload deploys a version that is healthy on targets whose folder has no file
// of the version's name in it.
func (e *estate) payload(version string) json.RawMessage {
	e.Helper()
	data, err := json.Marshal(api.DeployPayload{
		Artifacts: []api.ArtifactReference{{Name: "version.txt", Content: []byte(version)}},
		Config: api.DeployConfig{
			ReleaseID: version, Environment: map[string]string{"TOKEN": "secret://deploy-token"},
			Start:       `echo "it is $TOKEN" | tee "$STELLA_DIRECTORY/said"`,
			HealthCheck: &api.HealthCheck{Type: "command", Command: []string{"sh", "-c", "test ! -e ../../ill-" + version}, Timeout: 1, IntervalMs: 50},
		},
	})
	if err != nil {
		e.Fatal(err)
	}
	return data
}

func (e *estate) ail(target, version string) {
	e.Helper()
	if err := os.WriteFile(filepath.Join(e.dir, target, "ill-"+version), nil, 0o600); err != nil {
		e.Fatal(err)
	}
}

// run begins a rollout and waits until it comes to a state.
func (e *estate) run(req api.RolloutRequest, want api.RolloutState) *api.Rollout {
	e.Helper()
	if req.Filter == "" {
		req.Filter = "env=production and label.tier=web"
	}
	made, err := e.cp.Client.CreateRollout(e.Context(), req)
	if err != nil {
		e.Fatal(err)
	}
	return e.await(made.ID, want)
}

func (e *estate) await(id string, want api.RolloutState) (r *api.Rollout) {
	e.Helper()
	testkit.Eventually(e, time.Minute, "the rollout is "+string(want), func() (bool, string) {
		var err error
		if r, err = e.cp.Client.Rollout(e.Context(), id); err != nil {
			return false, err.Error()
		}
		return r.State == want, fmt.Sprintf("%s %s %v", r.State, r.Reason, r.Counts)
	})
	return r
}

// runs are the versions on the targets, in order.
func (e *estate) runs() string {
	e.Helper()
	var all []string
	for i := range 6 {
		data, err := os.ReadFile(filepath.Join(e.dir, fmt.Sprintf("app-%d", i), "current", "version.txt"))
		if err != nil {
			data = []byte("-")
		}
		all = append(all, string(data))
	}
	return strings.Join(all, " ")
}

func (e *estate) want(versions string) {
	e.Helper()
	if got := e.runs(); got != versions {
		e.Fatalf("%s runs, want %s", got, versions)
	}
}

func TestRollout(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, cp *testkit.ControlPlane) {
		e := newEstate(t, cp)
		if _, err := cp.Client.SetSecret(t.Context(), "deploy-token", "hunter22-s3cr3t"); err != nil {
			t.Fatal(err)
		}
		first := e.run(api.RolloutRequest{Payload: e.payload("1.0"), Strategy: "all-at-once"}, api.RolloutSucceeded)
		e.want("1.0 1.0 1.0 1.0 1.0 1.0")
		e.secretless(first)

		// A canary, and then the rest.
		paused := e.run(api.RolloutRequest{Payload: e.payload("1.1"), MaxParallel: 3, PauseAfter: 1}, api.RolloutPaused)
		e.want("1.1 1.0 1.0 1.0 1.0 1.0")
		if _, err := cp.Client.ResumeRollout(t.Context(), paused.ID, false); err != nil {
			t.Fatal(err)
		}
		e.await(paused.ID, api.RolloutSucceeded)
		e.want("1.1 1.1 1.1 1.1 1.1 1.1")

		// It stops at the limit; what was not healthy has come back by itself.
		e.ail("app-2", "1.2")
		stopped := e.run(api.RolloutRequest{Payload: e.payload("1.2")}, api.RolloutStopped)
		e.want("1.2 1.2 1.1 1.1 1.1 1.1")
		if x := stopped.Targets[2]; x.State != api.RolloutTargetFailed || x.From != "1.1" || !strings.Contains(x.Reason, "not healthy") {
			t.Errorf("%+v", x)
		}
		// It goes back by hand.
		if _, err := cp.Client.RollbackRollout(t.Context(), stopped.ID); err != nil {
			t.Fatal(err)
		}
		e.await(stopped.ID, api.RolloutRolledBack)
		e.want("1.1 1.1 1.1 1.1 1.1 1.1")

		// And by its plan.
		e.ail("app-4", "1.3")
		e.run(api.RolloutRequest{Payload: e.payload("1.3"), MaxParallel: 2, OnFailure: api.OnFailureRollbackAll}, api.RolloutRolledBack)
		e.want("1.1 1.1 1.1 1.1 1.1 1.1")
		e.inventory()
	})
}

// secretless looks for the secret where people look.
func (e *estate) secretless(r *api.Rollout) {
	e.Helper()
	task, err := e.cp.Client.Task(e.Context(), r.Targets[0].TaskID)
	if err != nil {
		e.Fatal(err)
	}
	logs, err := e.cp.Client.TaskLogs(e.Context(), task.ID)
	if err != nil {
		e.Fatal(err)
	}
	if said, err := os.ReadFile(filepath.Join(e.dir, "app-0", "said")); err != nil || string(said) != "it is hunter22-s3cr3t\n" {
		e.Errorf("%q, %v", said, err)
	}
	text, err := json.Marshal([]any{r, task, logs})
	if err != nil {
		e.Fatal(err)
	}
	if strings.Contains(string(text), "hunter22") || !strings.Contains(string(text), "it is ***") || !strings.Contains(string(text), "secret://deploy-token") {
		e.Errorf("%s", text)
	}
}

// inventory looks at the targets, one of which somebody has tampered with.
func (e *estate) inventory() {
	e.Helper()
	if err := os.Remove(filepath.Join(e.dir, "app-3", "version.json")); err != nil {
		e.Fatal(err)
	}
	for i := range 4 {
		if got := submit(e.T, e.cp, api.TaskInspect, fmt.Sprintf("app-%d", i), api.InspectPayload{}, nil); got.State != api.TaskSucceeded {
			e.Fatalf("%s %s", got.State, got.Reason)
		}
	}
	list, err := e.cp.Client.InventoryPage(e.Context(), client.InventoryFilter{Filter: "env=production", Sort: "name"})
	if err != nil || len(list.Items) != 6 {
		e.Fatalf("%+v, %v", list, err)
	}
	for i := range list.Items {
		x, want := &list.Items[i], api.InventorySame
		switch i {
		case 3:
			want = api.InventoryDiffers
		case 4, 5:
			want = api.InventoryUnknown
		}
		if x.State != want || x.Expected == nil || x.Expected.ReleaseID != "1.1" {
			e.Errorf("%s: %+v, want %s", x.TargetName, x, want)
		}
	}
	if d := list.Items[3].Differences; len(d) != 1 || d[0] != "there is no sticker" {
		e.Errorf("%v", d)
	}
}

// A rollout goes on when its server comes back.
func TestRolloutOutlivesItsServer(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	e := newEstate(t, cp)
	if _, err := cp.Client.SetSecret(t.Context(), "deploy-token", "hunter22-s3cr3t"); err != nil {
		t.Fatal(err)
	}
	made, err := cp.Client.CreateRollout(t.Context(), api.RolloutRequest{Filter: "kind=host", Payload: e.payload("1.0"), MaxParallel: 2})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := cp.Stop(); err != nil {
			t.Fatal(err)
		}
		cp.Start()
	}
	done := e.await(made.ID, api.RolloutSucceeded)
	e.want("1.0 1.0 1.0 1.0 1.0 1.0")
	tasks, err := cp.Client.TaskPage(t.Context(), client.TaskFilter{Type: api.TaskDeploy})
	if err != nil || len(tasks.Items) != 6 {
		t.Errorf("%d tasks for %d targets: %v", len(tasks.Items), done.Total, err)
	}
}
