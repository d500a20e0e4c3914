package testkit_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/peers"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

// crashKinds make a fresh target of each kind.
var crashKinds = map[string]func(t *testing.T) crashKind{
	"compose": newCrashCompose,
	"docker":  newCrashDocker,
	"host":    newCrashHost,
}

// healthy is the health check of an application at an address, which gives up
// soon.
func healthy(addr string) *api.HealthCheck {
	return &api.HealthCheck{Type: "http", URL: "http://" + addr + "/healthz", IntervalMs: 50, Timeout: 2}
}

// answering is the version that an application says it is; "" when it does not
// answer.
func answering(addr string) string {
	c := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get("http://" + addr + "/") //nolint:noctx // it has a timeout
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(body))
}

// crashDocker is a container.
type crashDocker struct {
	t       *testing.T
	host    string
	engine  *client.Client
	repo    string
	digests map[string]string
	name    string
	addr    string
}

func newCrashDocker(t *testing.T) crashKind {
	t.Helper()
	k := &crashDocker{t: t, host: peers.Docker(t), digests: map[string]string{}, addr: testkit.FreePort(t)}
	k.name = "crash-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	k.repo = peers.Registry(t) + "/" + k.name
	var err error
	if k.engine, err = client.New(client.WithHost(k.host)); err != nil {
		t.Fatal(err)
	}
	for version, mode := range map[string]string{versionA: "", versionB: "", sick: "unhealthy"} {
		k.digests[version] = sampleimage.Push(t, k.repo, sampleimage.Options{Version: version, Mode: mode})
	}
	return k
}

func (k *crashDocker) target() (api.TargetRequest, func(*agent.Config)) {
	return api.TargetRequest{Name: k.name, Kind: "docker"}, func(c *agent.Config) { c.DockerHost, c.Capabilities = k.host, []string{"docker"} }
}

func (k *crashDocker) env() []string { return nil }

func (k *crashDocker) secrets() map[string]string { return nil }

func (k *crashDocker) deploy(version string) api.DeployPayload {
	return api.DeployPayload{Image: k.repo, Digest: k.digests[version], Config: api.DeployConfig{
		ReleaseID: version, Ports: []string{k.addr + ":8080"}, StopTimeout: 2, HealthCheck: healthy(k.addr),
	}}
}

// stands: one container, which runs and answers.
func (k *crashDocker) stands() (string, []string) {
	all, err := k.engine.ContainerList(k.t.Context(), client.ContainerListOptions{All: true})
	if err != nil {
		return "", []string{err.Error()}
	}
	var left []string
	for _, c := range all.Items {
		for _, n := range c.Names {
			n = strings.TrimPrefix(n, "/")
			if n != k.name && strings.HasPrefix(n, k.name) || n == k.name && string(c.State) != "running" {
				left = append(left, n+" "+string(c.State))
			}
		}
	}
	return answering(k.addr), left
}

func (k *crashDocker) sweep() {
	ctx := context.Background()
	all, err := k.engine.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return
	}
	for _, c := range all.Items {
		if slices.ContainsFunc(c.Names, func(n string) bool { return strings.HasPrefix(n, "/"+k.name) }) {
			_, _ = k.engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true})
		}
	}
	for _, d := range k.digests {
		_, _ = k.engine.ImageRemove(ctx, k.repo+"@"+d, client.ImageRemoveOptions{Force: true})
	}
	_ = k.engine.Close()
}

// served is the sample application, to be fetched.
func served(t *testing.T) api.ArtifactReference {
	t.Helper()
	app := sampleimage.Binary(t)
	sum := sha256.Sum256(app)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(app) }))
	t.Cleanup(s.Close)
	return api.ArtifactReference{Name: "bin/app", Mode: "0755", URL: s.URL + "/app", Digest: "sha256:" + hex.EncodeToString(sum[:])}
}

// crashHost is a release on the agent's own host.
type crashHost struct {
	t    *testing.T
	dir  string
	addr string
	app  api.ArtifactReference
}

func newCrashHost(t *testing.T) crashKind {
	t.Helper()
	return &crashHost{t: t, dir: filepath.Join(t.TempDir(), "app"), addr: testkit.FreePort(t), app: served(t)}
}

func (k *crashHost) target() (api.TargetRequest, func(*agent.Config)) {
	return api.TargetRequest{Name: "app", Kind: "host", Config: api.TargetConfig{Directory: k.dir}}, func(c *agent.Config) { c.Capabilities = []string{"host"} }
}

func (k *crashHost) env() []string { return nil }

func (k *crashHost) secrets() map[string]string { return nil }

func (k *crashHost) deploy(version string) api.DeployPayload {
	env := map[string]string{"APP_ADDR": k.addr, "APP_VERSION": version}
	if version == sick {
		env["APP_MODE"] = "unhealthy"
	}
	return api.DeployPayload{
		Artifacts: []api.ArtifactReference{k.app, {Name: "etc/version", Content: []byte(version)}},
		Config: api.DeployConfig{
			ReleaseID: version, Environment: env, Start: "bin/app serve & echo $! > app.pid", Stop: "kill $(cat app.pid)", StopTimeout: 5, Keep: 3,
			HealthCheck: healthy(k.addr),
		},
	}
}

func (k *crashHost) stands() (string, []string) {
	var left []string
	for _, pattern := range []string{".stella-*", "releases/.*", "releases/*/.stella-units", "releases/" + sick + "*"} {
		found, _ := filepath.Glob(filepath.Join(k.dir, pattern))
		left = append(left, found...)
	}
	version := answering(k.addr)
	if data, err := os.ReadFile(filepath.Join(k.dir, "current", "etc", "version")); err != nil || string(data) != version {
		return fmt.Sprintf("%s answers, and %s is current", version, data), left
	}
	return version, left
}

func (k *crashHost) sweep() {
	files, _ := filepath.Glob(filepath.Join(k.dir, "releases", "*", "app.pid"))
	for _, file := range files {
		data, _ := os.ReadFile(file)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && pid > 1 {
			_ = kill(pid)
		}
	}
}
