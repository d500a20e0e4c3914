package docker_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/docker"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/testkit/peers"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

// TestRefused: what cannot be deployed is refused with the right word, and the
// old version runs on.
func TestRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	taken := freeAddress(t)
	blocker := l.fixture(t)
	if res, log := executortest.Single(t, blocker, api.TaskDeploy, with(blocker.Deploy("v1"), func(p *api.DeployPayload) {
		p.Config.Ports, p.Config.HealthCheck = []string{taken + ":8080"}, nil
	})); !res.Success {
		t.Fatalf("%s\n%s", res.Error, log)
	}
	if res, log := executortest.Single(t, f, api.TaskDeploy, f.Deploy("v1")); !res.Success {
		t.Fatalf("%s\n%s", res.Error, log)
	}
	unknown := "sha256:" + strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		change     func(*api.DeployPayload)
		want, says string
		rolledBack bool
	}{
		"unknown digest":  {func(p *api.DeployPayload) { p.Digest = unknown }, api.ErrDigestMismatch, "does not serve", false},
		"no registry":     {func(p *api.DeployPayload) { p.Image = "127.0.0.1:1/x" }, api.ErrPullFailed, "refused", false},
		"a tag":           {func(p *api.DeployPayload) { p.Image += ":latest" }, api.ErrInvalidPayload, "tag", false},
		"no digest":       {func(p *api.DeployPayload) { p.Digest = "latest" }, api.ErrInvalidPayload, "sha256", false},
		"bad port":        {func(p *api.DeployPayload) { p.Config.Ports = []string{"http:80"} }, api.ErrInvalidPayload, "port", false},
		"bad restart":     {func(p *api.DeployPayload) { p.Config.RestartPolicy = "maybe" }, api.ErrInvalidPayload, "restartPolicy", false},
		"no such network": {func(p *api.DeployPayload) { p.Config.Networks = []string{"stella-test-none"} }, api.ErrSwitchFailed, "no network", false},
		"bad volume":      {func(p *api.DeployPayload) { p.Config.Volumes = []string{"a/b:/c"} }, api.ErrSwitchFailed, "volume", true},
		"port taken":      {func(p *api.DeployPayload) { p.Config.Ports = []string{taken + ":8080"} }, api.ErrSwitchFailed, "config.ports", true},
		"no such program": {func(p *api.DeployPayload) { p.Config.Command = []string{"nonsense"} }, api.ErrHealthCheckFailed, "unknown command", true},
		"no HEALTHCHECK":  {func(p *api.DeployPayload) { p.Config.HealthCheck = &api.HealthCheck{Type: "docker"} }, api.ErrInvalidPayload, "HEALTHCHECK", false},
	} {
		res, log := executortest.Single(t, f, api.TaskDeploy, with(f.Deploy("v2"), c.change))
		if res.Success || res.ErrorType != c.want || !strings.Contains(res.Error, c.says) || res.RolledBack != c.rolledBack {
			t.Errorf("%s: success=%v errorType=%q rolledBack=%v error %q; want %s saying %q\n%s",
				name, res.Success, res.ErrorType, res.RolledBack, res.Error, c.want, c.says, log)
		}
		executortest.Await(t, f, "v1")
	}
}

func with(p api.DeployPayload, change func(*api.DeployPayload)) api.DeployPayload {
	change(&p)
	return p
}

// TestTampered: a registry that serves something else under a digest is found
// out.
func TestTampered(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	upstream, err := url.Parse("http://" + peers.Registry(t))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(upstream)
	proxy.ModifyResponse = func(r *http.Response) error {
		if !strings.Contains(r.Request.URL.Path, "/manifests/") || r.Request.Method != http.MethodGet {
			return nil
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		body = append(body, '\n')
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
		r.Header.Set("Content-Length", fmt.Sprint(len(body)))
		return nil
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	f := l.fixture(t)
	// The engine takes a manifest that it has seen before from its own store.
	p := f.Deploy("never-seen-" + unique())
	p.Image = strings.Replace(p.Image, upstream.Host, strings.TrimPrefix(server.URL, "http://"), 1)
	res, log := executortest.Single(t, f, api.TaskDeploy, p)
	if res.ErrorType != api.ErrDigestMismatch {
		t.Errorf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
	executortest.Await(t, f, "")
}

func TestPrivateRegistry(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	private := peers.PrivateRegistry(t)
	repository := private.Address + "/stella-test/" + unique()
	digest := sampleimage.Push(t, repository, sampleimage.Options{Version: "v1", Username: private.Username, Password: private.Password})
	t.Cleanup(func() {
		_, _ = l.engine.ImageRemove(context.WithoutCancel(t.Context()), repository+"@"+digest, client.ImageRemoveOptions{Force: true})
	})
	f := l.fixture(t)
	p := f.Deploy("v1")
	p.Image, p.Digest = repository, digest
	login := func(password string) func(*api.AgentTask) {
		return func(task *api.AgentTask) {
			task.Credentials = &api.Credentials{Registry: &api.RegistryAuth{Username: private.Username, Password: password}}
		}
	}
	for _, change := range []func(*api.AgentTask){func(*api.AgentTask) {}, login("wrong-password")} {
		res, log := executortest.Single(t, f, api.TaskDeploy, p, change)
		if res.ErrorType != api.ErrPullFailed || !strings.Contains(res.Error, "credentials") || strings.Contains(res.Error, "wrong-password") {
			t.Errorf("%s: %s\n%s", res.ErrorType, res.Error, log)
		}
	}
	res, log := executortest.Single(t, f, api.TaskDeploy, p, login(private.Password))
	if !res.Success || !strings.Contains(log, "pulled "+repository) || res.Metrics.PullDurationMs == 0 {
		t.Fatalf("%s: %s %+v\n%s", res.ErrorType, res.Error, res.Metrics, log)
	}
	// The very digest is here now, so that no login is needed.
	res, log = executortest.Single(t, f, api.TaskDeploy, p)
	if !res.Success || !strings.Contains(log, "is here already") {
		t.Errorf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
}

// TestLastWords: a version that crashes leaves its last lines in the result.
func TestLastWords(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	for _, hc := range []*api.HealthCheck{nil, f.Deploy("v1").Config.HealthCheck} {
		p := f.Deploy("v1")
		p.Digest = l.push(t, sampleimage.Options{Version: "bad", Mode: "exit"})
		p.Config.HealthCheck, p.Config.RestartPolicy = hc, "no"
		res, log := executortest.Single(t, f, api.TaskDeploy, p)
		lines, _ := res.Outputs["containerLogs"].([]string)
		if res.ErrorType != api.ErrHealthCheckFailed || !slices.Contains(lines, "sampleapp: giving up") ||
			!strings.Contains(res.Error, "exit code 1") || !strings.Contains(res.Error, "othing runs") || res.RolledBack {
			t.Errorf("%s: %s\nlines %q\n%s", res.ErrorType, res.Error, lines, log)
		}
	}
	p := f.Deploy("v1")
	p.Digest = l.push(t, sampleimage.Options{Version: "bad", Mode: "exit"})
	p.Config.HealthCheck = nil // and restarted for ever
	if res, log := executortest.Single(t, f, api.TaskDeploy, p); res.ErrorType != api.ErrHealthCheckFailed {
		t.Errorf("a crash loop: %s: %s\n%s", res.ErrorType, res.Error, log)
	}
}

// TestImageHealthCheck: the image's own HEALTHCHECK is used when none is
// given.
func TestImageHealthCheck(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	p := f.Deploy("v1")
	p.Config.HealthCheck = nil
	p.Digest = l.push(t, sampleimage.Options{Version: "v1", HealthCheck: true})
	res, log := executortest.Single(t, f, api.TaskDeploy, p)
	if !res.Success {
		t.Fatalf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
	res, _ = executortest.Single(t, f, api.TaskInspect, api.InspectPayload{})
	if res.Outputs["health"] != "healthy" || res.Outputs["digest"] != p.Digest {
		t.Errorf("inspect: %v", res.Outputs)
	}
	p.Digest = l.push(t, sampleimage.Options{Version: "v2", Mode: "unhealthy", HealthCheck: true})
	res, log = executortest.Single(t, f, api.TaskDeploy, p)
	if res.ErrorType != api.ErrHealthCheckFailed || !res.RolledBack || !strings.Contains(res.Error, "503") {
		t.Errorf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
	executortest.Await(t, f, "v1")
	hc := &api.HealthCheck{Type: "command", Command: []string{"/app", "health"}, IntervalMs: 50, Timeout: 20}
	if res, _ := executortest.Single(t, f, api.TaskHealthCheck, api.HealthCheckPayload{HealthCheck: hc}); !res.Success {
		t.Errorf("command check: %s", res.Error)
	}
}

// TestPrevious: the previous container goes when all is well, stays when it is
// to be kept, one of them, and a rollback by digest needs none.
func TestPrevious(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	keep := false
	count := func() int { return len(l.containers(t, f.TargetID)) }
	for i, c := range []struct {
		version string
		keep    *bool
		want    int
	}{{"v1", nil, 1}, {"v2", nil, 1}, {"v3", &keep, 2}, {"v4", &keep, 2}, {"v5", nil, 1}} {
		p := f.Deploy(c.version)
		p.Config.CleanupPrevious = c.keep
		p.Config.Environment = map[string]string{"GREETING": "hello"}
		if res, log := executortest.Single(t, f, api.TaskDeploy, p); !res.Success {
			t.Fatalf("%s: %s\n%s", c.version, res.Error, log)
		}
		if got := count(); got != c.want {
			t.Errorf("after deployment %d there are %d containers, want %d: %v", i, got, c.want, l.containers(t, f.TargetID))
		}
	}
	digest := l.push(t, sampleimage.Options{Version: "v2"})
	res, log := executortest.Single(t, f, api.TaskRollback, api.RollbackPayload{TargetDigest: digest})
	if !res.Success || res.Outputs["digest"] != digest {
		t.Fatalf("rollback by digest: %s: %s\n%s", res.ErrorType, res.Error, log)
	}
	executortest.Await(t, f, "v2")
	c, err := l.engine.ContainerInspect(t.Context(), f.Target.Name, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(c.Container.Config.Env, "GREETING=hello") || c.Container.HostConfig.RestartPolicy.Name != "unless-stopped" {
		t.Errorf("the settings were lost: %v %v", c.Container.Config.Env, c.Container.HostConfig.RestartPolicy)
	}
}

// TestAdopted: a container that somebody else made is deployed over, and comes
// back when that fails.
func TestAdopted(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	p := f.Deploy("v1")
	if err := pull(t, l, p.Image+"@"+p.Digest); err != nil {
		t.Fatal(err)
	}
	made, err := l.engine.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Name:   f.Target.Name,
		Config: &container.Config{Image: p.Image + "@" + p.Digest, Env: []string{"APP_VERSION=foreign"}, Labels: map[string]string{"stella.test": "1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = l.engine.ContainerRemove(context.WithoutCancel(t.Context()), made.ID, client.ContainerRemoveOptions{Force: true})
	})
	if _, err := l.engine.ContainerStart(t.Context(), made.ID, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	bad := f.Deploy("v1")
	bad.Config.HealthCheck.ExpectedStatus, bad.Config.HealthCheck.Timeout = 418, 1
	res, log := executortest.Single(t, f, api.TaskDeploy, bad)
	if res.ErrorType != api.ErrHealthCheckFailed || !res.RolledBack {
		t.Errorf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
	c, err := l.engine.ContainerInspect(t.Context(), f.Target.Name, client.ContainerInspectOptions{})
	if err != nil || c.Container.ID != made.ID || !c.Container.State.Running {
		t.Fatalf("the foreign container is not back: %v %+v", err, c.Container.State)
	}
	if res, log := executortest.Single(t, f, api.TaskDeploy, p); !res.Success || !strings.Contains(log, "not made by Stella") {
		t.Errorf("%s\n%s", res.Error, log)
	}
	executortest.Await(t, f, "v1")
}

func pull(t *testing.T, l *lab, ref string) error {
	t.Helper()
	stream, err := l.engine.ImagePull(t.Context(), ref, client.ImagePullOptions{})
	if err != nil {
		return err
	}
	defer stream.Close()
	return stream.Wait(t.Context())
}

// TestVolumeSticker: a sticker in a volume, with no tool in any image.
func TestVolumeSticker(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	volume := "stella-test-" + unique()
	t.Cleanup(func() {
		for _, c := range l.containers(t, f.TargetID) {
			_, _ = l.engine.ContainerRemove(context.WithoutCancel(t.Context()), c, client.ContainerRemoveOptions{Force: true})
		}
		if _, err := l.engine.VolumeRemove(context.WithoutCancel(t.Context()), volume, client.VolumeRemoveOptions{}); err != nil {
			t.Error(err)
		}
	})
	f.Target.Config.StickerLocation, f.Target.Config.StickerVolume = "volume", volume
	for _, version := range []string{"v1", "v2"} {
		p := f.Deploy(version)
		if res, log := executortest.Single(t, f, api.TaskDeploy, p); !res.Success {
			t.Fatalf("%s: %s\n%s", res.ErrorType, res.Error, log)
		}
		bad := with(f.Deploy("v9"), func(p *api.DeployPayload) {
			p.Hooks.PostDeploy = &api.Hook{Command: []string{"false"}}
		})
		if res, _ := executortest.Single(t, f, api.TaskDeploy, bad); res.ErrorType != api.ErrPostHookFailed {
			t.Errorf("%s: %s", res.ErrorType, res.Error)
		}
		res, _ := executortest.Single(t, f, api.TaskReadSticker, struct{}{})
		if s, ok := res.Outputs["sticker"].(*api.VersionSticker); !ok || s.ReleaseID != version || s.Digest != p.Digest {
			t.Errorf("the sticker of %s: %+v", version, res)
		}
	}
}

// TestStubborn: a version that does not stop is stopped by force in its time.
func TestStubborn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	p := f.Deploy("v1")
	p.Digest = l.push(t, sampleimage.Options{Version: "v1", Mode: "stubborn"})
	if res, log := executortest.Single(t, f, api.TaskDeploy, p); !res.Success {
		t.Fatalf("%s\n%s", res.Error, log)
	}
	p = f.Deploy("v2")
	p.Config.StopTimeout = 1
	began := time.Now()
	if res, log := executortest.Single(t, f, api.TaskDeploy, p); !res.Success {
		t.Fatalf("%s\n%s", res.Error, log)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	e := docker.New(docker.Options{Host: peers.Docker(t)})
	defer e.Close()
	names, err := e.Capabilities(t.Context())
	if err != nil || !slices.Contains(names, "docker.deploy") {
		t.Errorf("%v, %v", names, err)
	}
	nowhere := docker.New(docker.Options{Host: "unix:///nonexistent/docker.sock"})
	defer nowhere.Close()
	if names, err := nowhere.Capabilities(t.Context()); err == nil || len(names) > 0 {
		t.Errorf("an engine that is not there: %v, %v", names, err)
	}
	res := nowhere.Run(t.Context(), &api.AgentTask{ID: "t", Type: api.TaskInspect, Target: api.AgentTarget{Name: "web"}}, executor.Env{DataDir: t.TempDir()})
	if res.ErrorType != api.ErrTargetUnreachable || !res.Retriable {
		t.Errorf("%s retriable=%v: %s", res.ErrorType, res.Retriable, res.Error)
	}
}
