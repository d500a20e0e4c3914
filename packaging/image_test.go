//go:build linux

package packaging_test

import (
	"context"
	"encoding/json"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/peers"
)

// engine runs docker.
func engine(ctx context.Context, t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(ctx, "docker", append([]string{"--host", peers.Docker(t)}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func mustEngine(t *testing.T, args ...string) string {
	t.Helper()
	out, err := engine(t.Context(), t, args...)
	if err != nil {
		t.Fatalf("docker %q: %v: %s", args, err, out)
	}
	return out
}

// testImage loads the image and registers an agent in it, as nobody's user,
// that keeps its identity in a volume.
func testImage(t *testing.T, d dist) {
	loaded := mustEngine(t, "load", "--input", d.file(t, "stella-agent_", "_image_"+runtime.GOARCH+".tar.gz"))
	image := regexp.MustCompile(`stella/agent:\S+`).FindString(loaded)
	volume := "stella-test-image-" + strings.ToLower(d.version)
	t.Cleanup(func() {
		_, _ = engine(context.WithoutCancel(t.Context()), t, "image", "rm", "--force", image)
		_, _ = engine(context.WithoutCancel(t.Context()), t, "volume", "rm", "--force", volume)
	})
	if image != "stella/agent:"+d.version {
		t.Fatalf("it is loaded as %q", loaded)
	}
	checkConfig(t, d, image)

	cp := testkit.StartServer(t)
	args := []string{
		"run", "--detach", "--label", "stella.test=1", "--network", "host", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
		"--tmpfs", "/run/stella-agent:uid=65532,gid=65532,mode=750", "--tmpfs", "/tmp",
		"--volume", volume + ":/var/lib/stella-agent", "--health-interval", "1s", "--health-start-period", "1s", "--health-retries", "1",
		"--env", "STELLA_SERVER=" + cp.URL, "--env", "STELLA_NAME=contained", "--env", "STELLA_BOOTSTRAP_TOKEN",
		"--env", "STELLA_MAX_RECONNECT_ATTEMPTS=2", "--env", "STELLA_RECONNECT_BACKOFF=100ms",
	}
	start := func(token string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "docker", append([]string{"--host", peers.Docker(t)}, append(args, image)...)...)
		cmd.Env = append(cmd.Environ(), "STELLA_BOOTSTRAP_TOKEN="+token)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("run the image: %v: %s", err, out)
		}
		id := strings.TrimSpace(string(out))
		t.Cleanup(func() {
			if t.Failed() {
				logs, _ := engine(context.WithoutCancel(t.Context()), t, "logs", id)
				t.Logf("the agent said:\n%s", logs)
			}
			_, _ = engine(context.WithoutCancel(t.Context()), t, "rm", "--force", id)
		})
		return id
	}
	id := start(cp.Token())
	first := cp.WaitOnline("contained")
	if user := mustEngine(t, "top", id, "-o", "pid,uid,gid,args"); !regexp.MustCompile(`(?m)^\d+\s+65532\s+65532\s+/stella-agent --register$`).MatchString(user) {
		t.Errorf("it runs as:\n%s", user)
	}
	health(t, id, "healthy")
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	health(t, id, "unhealthy")
	cp.Start()
	health(t, id, "healthy")

	// SIGTERM ends it in good order, and the volume is all that the next one needs.
	mustEngine(t, "stop", "--time", "30", id)
	if code := mustEngine(t, "inspect", "--format", "{{.State.ExitCode}}", id); code != "0" {
		t.Errorf("it ended with %s when it was stopped", code)
	}
	mustEngine(t, "rm", id)
	health(t, start(""), "healthy")
	if again := cp.WaitOnline("contained"); again.ID != first.ID {
		t.Errorf("with its volume it is %s, and was %s", again.ID, first.ID)
	}
	theLine(t, cp, image)
}

// theLine runs what a bootstrap says for Docker: as a user without rights, the
// agent reaches the engine by the group of its socket.
func theLine(t *testing.T, cp *testkit.ControlPlane, image string) {
	t.Helper()
	made, err := cp.Client.Bootstrap(t.Context(), api.BootstrapRequest{RegistrationTokenRequest: api.RegistrationTokenRequest{Name: "by-line", Platform: "docker"}})
	if err != nil {
		t.Fatal(err)
	}
	own := "stella-test-" + strings.TrimPrefix(made.ID, "0")
	at := strings.LastIndex(made.InstallCommand, "stella/agent:")
	if at < 0 {
		t.Fatalf("the line names no image: %s", made.InstallCommand)
	}
	line := made.InstallCommand[:at] + image
	for from, to := range map[string]string{
		"--name stella-agent ": "--label stella.test=1 --network host --name " + own + " ", "stella-agent:/var/lib": own + ":/var/lib",
		"docker run": "docker --host " + peers.Docker(t) + " run",
	} {
		if !strings.Contains(line, from) {
			t.Fatalf("there is no %q in %s", from, line)
		}
		line = strings.Replace(line, from, to, 1)
	}
	t.Cleanup(func() {
		_, _ = engine(context.WithoutCancel(t.Context()), t, "rm", "--force", own)
		_, _ = engine(context.WithoutCancel(t.Context()), t, "volume", "rm", "--force", own)
	})
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	if a := cp.WaitOnline("by-line"); !slices.Contains(a.Capabilities, "docker.deploy") || a.Platform != "docker" {
		t.Errorf("by the line it is %+v", a)
	}
}

// health waits for what docker's health check finds.
func health(t *testing.T, id, want string) {
	t.Helper()
	testkit.Eventually(t, time.Minute, "the container to be "+want, func() (bool, string) {
		out := mustEngine(t, "inspect", "--format", "{{json .State.Health}}", id)
		var state struct{ Status string }
		if err := json.Unmarshal([]byte(out), &state); err != nil {
			t.Fatalf("health of the container: %v: %s", err, out)
		}
		return state.Status == want, out
	})
}

func checkConfig(t *testing.T, d dist, image string) {
	t.Helper()
	type config struct {
		User, StopSignal, Created string
		Entrypoint, Cmd, Env      []string
		Volumes                   map[string]struct{}
		Labels                    map[string]string
		Healthcheck               struct{ Test []string }
	}
	var got config
	if err := json.Unmarshal([]byte(mustEngine(t, "inspect", "--format", "{{json .Config}}", image)), &got); err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"description", "vendor", "url", "revision"} {
		delete(got.Labels, "org.opencontainers.image."+label)
	}
	want := config{
		User: "65532:65532", StopSignal: "SIGTERM", Entrypoint: []string{"/stella-agent"}, Cmd: []string{"--register"},
		Env:     []string{"PATH=/", "STELLA_DATA=/var/lib/stella-agent", "STELLA_SOCKET=/run/stella-agent/agent.sock"},
		Volumes: map[string]struct{}{"/var/lib/stella-agent": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title": "stella-agent", "org.opencontainers.image.version": d.version, "org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	want.Healthcheck.Test = []string{"CMD", "/stella-agent", "health"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the image's configuration (-want +got):\n%s", diff)
	}
}
