package testkit_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/peers"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

// crashCompose is a project of two services.
type crashCompose struct {
	t            *testing.T
	host, config string
	repo         string
	digests      map[string]string
	name, dir    string
	addrs        []string
}

func newCrashCompose(t *testing.T) crashKind {
	t.Helper()
	k := &crashCompose{
		t: t, host: peers.Docker(t), config: peers.Compose(t), digests: map[string]string{}, name: "crash-" + strconv.FormatInt(time.Now().UnixNano(), 36),
		dir: filepath.Join(t.TempDir(), "project"), addrs: []string{testkit.FreePort(t), testkit.FreePort(t)},
	}
	k.repo = peers.Registry(t) + "/" + k.name
	for version, mode := range map[string]string{versionA: "", versionB: "", sick: "unhealthy"} {
		k.digests[version] = sampleimage.Push(t, k.repo, sampleimage.Options{Version: version, Mode: mode, Label: k.name})
	}
	return k
}

func (k *crashCompose) target() (api.TargetRequest, func(*agent.Config)) {
	return api.TargetRequest{Name: k.name, Kind: "compose", Config: api.TargetConfig{Directory: k.dir, DockerHost: k.host}},
		func(c *agent.Config) { c.Capabilities = []string{"compose"} }
}

func (k *crashCompose) env() []string {
	return []string{"DOCKER_CONFIG=" + k.config, "DOCKER_HOST=" + k.host}
}

func (k *crashCompose) secrets() map[string]string { return nil }

func (k *crashCompose) deploy(version string) api.DeployPayload {
	lock, expected := "services:\n", map[string]string{}
	for i, addr := range k.addrs {
		name := fmt.Sprintf("web%d", i)
		expected[name] = k.digests[version]
		lock += fmt.Sprintf("  %s:\n    image: %s@%s\n    ports: ['%s:8080']\n", name, k.repo, k.digests[version], addr)
	}
	return api.DeployPayload{
		Artifacts: []api.ArtifactReference{
			{Name: "lock.yml", Type: "compose_lock", Content: []byte(lock)}, {Name: "conf/version", Content: []byte(version)},
		},
		Config: api.DeployConfig{ReleaseID: version, ExpectedDigests: expected, StopTimeout: 2, HealthCheck: healthy(k.addrs[1])},
	}
}

// stands: both services and the files are of one version.
func (k *crashCompose) stands() (string, []string) {
	var left []string
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return "", []string{err.Error()}
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, ".stella") && name != ".stella-release.json" && name != ".stella.env" {
			left = append(left, name)
		}
	}
	containers := k.list("ps", "--all", "--filter", "label=com.docker.compose.project="+k.name, "--format", "{{.Names}}:{{.State}}")
	slices.Sort(containers)
	if want := []string{k.name + "-web0-1:running", k.name + "-web1-1:running"}; !slices.Equal(containers, want) {
		left = append(left, containers...)
	}
	version := answering(k.addrs[0])
	if other := answering(k.addrs[1]); other != version {
		return fmt.Sprintf("%s beside %s", version, other), left
	}
	if data, err := os.ReadFile(filepath.Join(k.dir, "conf", "version")); err != nil || string(data) != version {
		return fmt.Sprintf("%s answers, and the file says %s", version, data), left
	}
	return version, left
}

func (k *crashCompose) docker(args ...string) ([]byte, error) {
	return exec.CommandContext(context.Background(), "docker", append([]string{"--config", k.config, "--host", k.host}, args...)...).Output()
}

func (k *crashCompose) list(args ...string) []string {
	out, err := k.docker(args...)
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Fields(string(out))
}

func (k *crashCompose) sweep() {
	of := "label=com.docker.compose.project=" + k.name
	if ids := k.list("ps", "--all", "--quiet", "--filter", of); len(ids) > 0 {
		_, _ = k.docker(append([]string{"rm", "--force", "--volumes"}, ids...)...)
	}
	if ids := k.list("network", "ls", "--quiet", "--filter", of); len(ids) > 0 {
		_, _ = k.docker(append([]string{"network", "rm"}, ids...)...)
	}
	for _, d := range k.digests {
		_, _ = k.docker("image", "rm", "--force", k.repo+"@"+d)
	}
}
