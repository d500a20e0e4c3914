package docker_test

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/docker"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/testkit/peers"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

func TestDocker(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	executortest.Run(t, func(t *testing.T) *executortest.Fixture { return l.fixture(t) })
}

// lab is an engine and a repository of sample images.
type lab struct {
	engine     *client.Client
	executor   *docker.Executor
	repository string

	mu      sync.Mutex
	digests map[sampleimage.Options]string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	address, registry := peers.Docker(t), peers.Registry(t)
	engine, err := client.New(client.WithHost(address))
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{
		engine: engine, executor: docker.New(docker.Options{Host: address}),
		repository: fmt.Sprintf("%s/stella-test/%s", registry, unique()),
		digests:    map[sampleimage.Options]string{},
	}
	t.Cleanup(func() {
		for _, digest := range l.digests {
			_, _ = engine.ImageRemove(context.WithoutCancel(t.Context()), l.repository+"@"+digest, client.ImageRemoveOptions{Force: true})
		}
		_ = l.executor.Close()
		_ = engine.Close()
	})
	return l
}

// push makes an image and returns its digest.
func (l *lab) push(t *testing.T, o sampleimage.Options) string {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.digests[o] == "" {
		l.digests[o] = sampleimage.Push(t, l.repository, o)
	}
	return l.digests[o]
}

func (l *lab) fixture(t *testing.T) *executortest.Fixture {
	t.Helper()
	addr, name := freeAddress(t), "stella-test-"+unique()
	f := &executortest.Fixture{
		Executor: l.executor, TargetID: "target-" + name,
		Target: api.AgentTarget{Name: name, Kind: "docker", Environment: "test"},
		Deploy: func(version string) api.DeployPayload {
			return api.DeployPayload{
				Image: l.repository, Digest: l.push(t, sampleimage.Options{Version: version}),
				Config: api.DeployConfig{
					ReleaseID: version, Ports: []string{addr + ":8080"}, StopTimeout: 5,
					Labels:      map[string]string{"stella.test": "1"},
					HealthCheck: &api.HealthCheck{Type: "http", URL: "http://" + addr + "/healthz", IntervalMs: 50, Timeout: 30},
				},
			}
		},
		Running:     func() string { return get("http://" + addr + "/") },
		Leftovers:   func() []string { return l.leftovers(t, name) },
		Say:         func(text string) []string { return []string{"/app", "say", text} },
		Exit:        func(code int) []string { return []string{"/app", "exit", fmt.Sprint(code)} },
		UploadDir:   "tmp/",
		UploadStays: true,
		Read:        func(file string) string { return l.read(name, "/tmp/"+file) },
	}
	t.Cleanup(func() {
		for _, c := range l.containers(t, f.TargetID) {
			_, _ = l.engine.ContainerRemove(context.WithoutCancel(t.Context()), c, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		}
	})
	return f
}

// containers are the names of all containers of a target.
func (l *lab) containers(t *testing.T, targetID string) []string {
	t.Helper()
	all, err := l.engine.ContainerList(context.WithoutCancel(t.Context()), client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", docker.LabelTargetID+"="+targetID),
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range all.Items {
		names = append(names, strings.TrimPrefix(c.Names[0], "/"))
	}
	return names
}

// leftovers are the containers that are neither the target's own nor one
// previous.
func (l *lab) leftovers(t *testing.T, name string) []string {
	var left []string
	previous := 0
	for _, n := range l.containers(t, "target-"+name) {
		switch {
		case n == name:
		case strings.HasPrefix(n, name+"-previous-") && previous == 0:
			previous++
		default:
			left = append(left, n)
		}
	}
	return left
}

func (l *lab) read(container, path string) string {
	res, err := l.engine.CopyFromContainer(context.Background(), container, client.CopyFromContainerOptions{SourcePath: path})
	if err != nil {
		return ""
	}
	defer res.Content.Close()
	r := tar.NewReader(res.Content)
	if _, err := r.Next(); err != nil {
		return ""
	}
	data, _ := io.ReadAll(r)
	return string(data)
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
