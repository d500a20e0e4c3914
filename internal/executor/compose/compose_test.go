package compose_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/compose"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/testkit/peers"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

func TestCompose(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	executortest.Run(t, func(t *testing.T) *executortest.Fixture { return l.fixture(t).Fixture })
}

// lab is an engine with the compose plugin, and a repository of sample images.
type lab struct {
	host, config string
	executor     *compose.Executor
	repository   string

	mu      sync.Mutex
	digests map[sampleimage.Options]string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{
		host: peers.Docker(t), config: peers.Compose(t),
		repository: fmt.Sprintf("%s/stella-test/%s", peers.Registry(t), unique()),
		digests:    map[sampleimage.Options]string{},
	}
	l.executor = compose.New(compose.Options{Host: l.host, ConfigDir: l.config})
	t.Cleanup(func() {
		for _, digest := range l.digests {
			_, _ = l.docker("image", "rm", "--force", l.repository+"@"+digest)
		}
	})
	return l
}

// docker runs the docker program, as a person would.
func (l *lab) docker(args ...string) (string, error) {
	cmd := exec.CommandContext(context.Background(), "docker", append([]string{"--config", l.config, "--host", l.host}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}

// list returns the words that docker prints.
func (l *lab) list(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := l.docker(args...)
	if err != nil {
		t.Errorf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.Fields(out)
}

// push makes an image and returns its digest.
func (l *lab) push(t *testing.T, o sampleimage.Options) string {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	o.Label = l.repository
	if l.digests[o] == "" {
		l.digests[o] = sampleimage.Push(t, l.repository, o)
	}
	return l.digests[o]
}

// image is a version of the sample application, pinned.
func (l *lab) image(t *testing.T, o sampleimage.Options) string {
	t.Helper()
	return l.repository + "@" + l.push(t, o)
}

// fixture is a project of its own.
type fixture struct {
	*executortest.Fixture
	lab               *lab
	dir, project, web string
}

func (l *lab) fixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{lab: l, dir: t.TempDir(), project: "stella-test-" + unique(), web: freeAddress(t)}
	f.Fixture = &executortest.Fixture{
		Executor: l.executor, TargetID: "target-" + f.project,
		Target: api.AgentTarget{
			Name: strings.ToUpper(f.project), Kind: "compose", Environment: "test",
			Config: api.TargetConfig{Directory: f.dir},
		},
		Deploy: func(version string) api.DeployPayload {
			return f.payload(version, f.file(f.service("web", l.image(t, sampleimage.Options{Version: version}), "ports: ['"+f.web+":8080']")))
		},
		Running:   func() string { return get("http://" + f.web + "/") },
		Leftovers: func() []string { return f.leftovers(t) },
		Say:       func(text string) []string { return []string{"/app", "say", text} },
		Exit:      func(code int) []string { return []string{"/app", "exit", fmt.Sprint(code)} },
		UploadDir: "data/",
		Read: func(name string) string {
			data, _ := os.ReadFile(filepath.Join(f.dir, "data", name))
			return string(data)
		},
	}
	t.Cleanup(func() {
		of := "label=com.docker.compose.project=" + f.project
		if ids := l.list(t, "ps", "--all", "--quiet", "--filter", of); len(ids) > 0 {
			_, _ = l.docker(append([]string{"rm", "--force", "--volumes"}, ids...)...)
		}
		if ids := l.list(t, "network", "ls", "--quiet", "--filter", of); len(ids) > 0 {
			_, _ = l.docker(append([]string{"network", "rm"}, ids...)...)
		}
		if ids := l.list(t, "volume", "ls", "--quiet", "--filter", of); len(ids) > 0 {
			_, _ = l.docker(append([]string{"volume", "rm"}, ids...)...)
		}
	})
	return f
}

// service is the text of one service.
func (f *fixture) service(name, image string, more ...string) string {
	text := fmt.Sprintf("  %s:\n    image: %s\n", name, image)
	for _, line := range more {
		text += "    " + line + "\n"
	}
	return text
}

func (f *fixture) file(services ...string) string {
	return "services:\n" + strings.Join(services, "")
}

// payload deploys a lock file, and expects what is in it.
func (f *fixture) payload(version, lock string) api.DeployPayload {
	expected, name := map[string]string{}, ""
	for line := range strings.Lines(lock) {
		if strings.HasPrefix(line, "  ") && !strings.HasPrefix(line, "   ") {
			name = strings.TrimSuffix(strings.TrimSpace(line), ":")
		}
		if _, digest, ok := strings.Cut(strings.TrimSpace(line), "@"); ok && strings.HasPrefix(line, "    image:") {
			expected[name] = digest
		}
	}
	return api.DeployPayload{
		Artifacts: []api.ArtifactReference{{Name: "lock.yml", Type: "compose_lock", Content: []byte(lock)}},
		Config: api.DeployConfig{
			ReleaseID: version, ExpectedDigests: expected, StopTimeout: 5,
			HealthCheck: &api.HealthCheck{Type: "http", URL: "http://" + f.web + "/healthz", IntervalMs: 50, Timeout: 30},
		},
	}
}

// leftovers are what should not be there between tasks: files of Stella's own,
// and, when nothing runs, anything of the project's but volumes.
func (f *fixture) leftovers(t *testing.T) []string {
	var left []string
	entries, err := os.ReadDir(f.dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	release := false
	for _, e := range entries {
		switch name := e.Name(); {
		case name == ".stella-release.json":
			release = true
		case name == ".stella.env" || name == ".stella-previous":
		case strings.HasPrefix(name, ".stella"):
			left = append(left, name)
		}
	}
	of := "label=com.docker.compose.project=" + f.project
	for _, c := range f.lab.list(t, "ps", "--all", "--filter", of, "--format", "{{.Names}}:{{.State}}") {
		name, state, _ := strings.Cut(c, ":")
		// A container that compose was about to put in another's place.
		if !release || strings.Contains(name, "_") || state == "created" {
			left = append(left, c)
		}
	}
	if !release {
		left = append(left, f.lab.list(t, "network", "ls", "--filter", of, "--format", "{{.Name}}")...)
	}
	return left
}

var counter struct {
	sync.Mutex
	n int
}

// unique is a name that no other test uses, in this run or an earlier one.
func unique() string {
	counter.Lock()
	defer counter.Unlock()
	counter.n++
	return fmt.Sprintf("%d-%d", time.Now().UnixNano(), counter.n)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func get(url string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Sprint(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body))
}
