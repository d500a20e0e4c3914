package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
)

const dockerRounds = 20

// dockerDeploy measures a deployment over a running container, against the
// same calls to the Docker API made by hand, in turn: pull, inspect, create,
// stop, rename, rename, start, wait for health, remove.
func dockerDeploy(ctx context.Context, e *env) ([]row, error) {
	engine, err := client.New(client.FromEnv)
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	if _, err := engine.Ping(ctx, client.PingOptions{}); err != nil {
		fmt.Fprintln(os.Stderr, "  not measured: no Docker Engine answers:", err)
		return nil, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	reg := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: time.Minute}
	go func() { _ = reg.Serve(listener) }() // until it is closed
	defer reg.Close()
	repo := listener.Addr().String() + "/bench"
	digests, err := e.pushImages(ctx, repo)
	if err != nil {
		return nil, err
	}
	c, err := e.server(ctx, "docker")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	if err := e.agent(ctx, c, "docker-agent"); err != nil {
		return nil, err
	}
	if _, err := c.api.CreateTarget(ctx, api.TargetRequest{Name: "bench-stella", Kind: "docker", Agent: "docker-agent"}); err != nil {
		return nil, err
	}
	defer func() {
		clean := context.WithoutCancel(ctx)
		for _, n := range []string{"bench-stella", "bench-hand"} {
			_, _ = engine.ContainerRemove(clean, n, client.ContainerRemoveOptions{Force: true}) // gone already otherwise
		}
		for _, d := range digests {
			_, _ = engine.ImageRemove(clean, repo+"@"+d, client.ImageRemoveOptions{Force: true})
		}
	}()
	ports := [2]string{"127.0.0.1:18731:8080", "127.0.0.1:18732:8080"}
	var byStella, byHand []time.Duration
	for i := range dockerRounds + 2 {
		d := digests[i%2]
		took, err := deployByStella(ctx, c, repo, d, ports[0])
		if err != nil {
			return nil, err
		}
		hand, err := deployByHand(ctx, engine, repo, d)
		if err != nil {
			return nil, fmt.Errorf("by hand: %w", err)
		}
		if i >= 2 { // both images are pulled from then on
			byStella, byHand = append(byStella, took), append(byHand, hand)
		}
	}
	slices.Sort(byStella)
	slices.Sort(byHand)
	a, b := byStella[len(byStella)/2], byHand[len(byHand)/2]
	ratio := float64(a) / float64(b)
	return []row{{
		"docker deploy against the same calls by hand", fmt.Sprintf("%.2f times", ratio), "<= 1.10 times", ratio <= 1.10,
		fmt.Sprintf("medians of %d each, in turn: %s and %s, from request to healthy and cleaned up", dockerRounds, ms(a), ms(b)),
	}}, nil
}

func deployByStella(ctx context.Context, c *control, repo, digest, port string) (time.Duration, error) {
	payload, err := json.Marshal(api.DeployPayload{Image: repo, Digest: digest, Config: api.DeployConfig{
		Ports: []string{port}, HealthCheck: &api.HealthCheck{Type: "http", URL: "http://127.0.0.1:18731/healthz", IntervalMs: 10, Timeout: 20},
	}})
	if err != nil {
		return 0, err
	}
	return deployTo(ctx, c, payload)
}

// deployTo deploys to the target of the benchmark, and waits until it is over.
func deployTo(ctx context.Context, c *control, payload json.RawMessage) (time.Duration, error) {
	began := time.Now()
	t, err := c.api.SubmitTask(ctx, api.TaskRequest{Type: api.TaskDeploy, Target: "bench-stella", Payload: payload})
	if err != nil {
		return 0, err
	}
	for _, err := range c.api.FollowTaskLogs(ctx, t.ID) {
		if err != nil {
			return 0, err
		}
	}
	took := time.Since(began)
	if t, err = c.api.Task(ctx, t.ID); err != nil {
		return 0, err
	}
	if t.State != api.TaskSucceeded {
		return 0, fmt.Errorf("deploy by Stella: %s: %s", t.State, t.Reason)
	}
	return took, nil
}

func deployByHand(ctx context.Context, engine *client.Client, repo, digest string) (time.Duration, error) {
	const name = "bench-hand"
	port := network.MustParsePort("8080/tcp")
	began := time.Now()
	ref := repo + "@" + digest
	if _, err := engine.ImageInspect(ctx, ref); err != nil {
		pull, err := engine.ImagePull(ctx, ref, client.ImagePullOptions{})
		if err != nil {
			return 0, err
		}
		if err := pull.Wait(ctx); err != nil {
			return 0, err
		}
		if _, err := engine.ImageInspect(ctx, ref); err != nil {
			return 0, err
		}
	}
	old, oldErr := engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	res, err := engine.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name:   name + "-new",
		Config: &container.Config{Image: ref, ExposedPorts: network.PortSet{port: {}}},
		HostConfig: &container.HostConfig{
			RestartPolicy: container.RestartPolicy{Name: "unless-stopped"},
			PortBindings:  network.PortMap{port: {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: "18732"}}},
		},
	})
	if err != nil {
		return 0, err
	}
	timeout := 10
	if oldErr == nil {
		if _, err := engine.ContainerStop(ctx, old.Container.ID, client.ContainerStopOptions{Timeout: &timeout}); err != nil {
			return 0, err
		}
		if _, err := engine.ContainerRename(ctx, old.Container.ID, client.ContainerRenameOptions{NewName: name + "-old"}); err != nil {
			return 0, err
		}
	}
	if _, err := engine.ContainerRename(ctx, res.ID, client.ContainerRenameOptions{NewName: name}); err != nil {
		return 0, err
	}
	if _, err := engine.ContainerStart(ctx, res.ID, client.ContainerStartOptions{}); err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(20 * time.Second); !healthy(ctx); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return 0, errors.New("not healthy within 20 s")
		}
	}
	if oldErr == nil {
		if _, err := engine.ContainerRemove(ctx, old.Container.ID, client.ContainerRemoveOptions{Force: true}); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

func healthy(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:18732/healthz", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close() // only the status counts
	return res.StatusCode == http.StatusOK
}

// pushImages builds the sample application into two images of one layer and
// pushes them.
func (e *env) pushImages(ctx context.Context, repo string) (digests [2]string, err error) {
	bin := filepath.Join(e.dir, "sampleapp")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "./internal/testkit/sampleapp")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return digests, fmt.Errorf("build the sample: %w\n%s", err, out)
	}
	content, err := os.ReadFile(bin)
	if err != nil {
		return digests, err
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(content))}); err != nil {
		return digests, err
	}
	if _, err := tw.Write(content); err != nil {
		return digests, err
	}
	if err := tw.Close(); err != nil {
		return digests, err
	}
	for i := range digests {
		img, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer.Bytes(), types.DockerUncompressedLayer))
		if err != nil {
			return digests, err
		}
		img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/app"}, Cmd: []string{"serve"}, Env: []string{fmt.Sprintf("APP_VERSION=%d.0.0", i+1)}})
		if err != nil {
			return digests, err
		}
		ref, err := name.NewTag(repo + ":" + fmt.Sprint(i))
		if err != nil {
			return digests, err
		}
		if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
			return digests, err
		}
		d, err := img.Digest()
		if err != nil {
			return digests, err
		}
		digests[i] = d.String()
	}
	return digests, nil
}
