package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"stella-ops.org/stella/api"
)

const composeRounds = 15

// composeDeploy measures a deployment of a project of two services over one
// that runs, against plain `docker compose up --force-recreate`, in turn; both
// until the project answers.
func composeDeploy(ctx context.Context, e *env) ([]row, error) {
	if out, err := exec.CommandContext(ctx, "docker", "compose", "version", "--short").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "  not measured: docker compose does not work: %v %s\n", err, bytes.TrimSpace(out))
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
	c, err := e.server(ctx, "compose")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	if err := e.agent(ctx, c, "compose-agent"); err != nil {
		return nil, err
	}
	stella, hand := filepath.Join(e.dir, "bench-stella"), filepath.Join(e.dir, "bench-hand")
	if err := os.Mkdir(hand, 0o750); err != nil {
		return nil, err
	}
	if _, err := c.api.CreateTarget(ctx, api.TargetRequest{Name: "bench-stella", Kind: "compose", Agent: "compose-agent", Config: api.TargetConfig{Directory: stella}}); err != nil {
		return nil, err
	}
	defer func() {
		clean := context.WithoutCancel(ctx)
		for project, dir := range map[string]string{"bench-stella": stella, "bench-hand": hand} {
			_ = composeCommand(clean, project, filepath.Join(dir, "compose.stella.lock.yml"), "down").Run() // gone already otherwise
		}
		for _, d := range digests {
			_ = exec.CommandContext(clean, "docker", "image", "rm", "--force", repo+"@"+d).Run()
		}
	}()
	var byStella, byHand []time.Duration
	for i := range composeRounds + 2 {
		d := digests[i%2]
		took, err := composeByStella(ctx, c, repo, d)
		if err != nil {
			return nil, err
		}
		plain, err := composeByHand(ctx, hand, repo, d)
		if err != nil {
			return nil, fmt.Errorf("by hand: %w", err)
		}
		if i >= 2 { // both images are pulled from then on
			byStella, byHand = append(byStella, took), append(byHand, plain)
		}
	}
	slices.Sort(byStella)
	slices.Sort(byHand)
	a, b := byStella[len(byStella)/2], byHand[len(byHand)/2]
	ratio := float64(a) / float64(b)
	return []row{{
		"compose deploy against plain docker compose up", fmt.Sprintf("%.2f times", ratio), "<= 1.15 times", ratio <= 1.15,
		fmt.Sprintf("medians of %d each, in turn, 2 services: %s and %s, from request to answering, verified and cleaned up", composeRounds, ms(a), ms(b)),
	}}, nil
}

// composeText is a project of two services; the first is published at a port.
func composeText(repo, digest, port string) string {
	image := repo + "@" + digest
	return fmt.Sprintf("services:\n  web:\n    image: %s\n    ports: ['127.0.0.1:%s:8080']\n  worker:\n    image: %s\n", image, port, image)
}

func composeByStella(ctx context.Context, c *control, repo, digest string) (time.Duration, error) {
	payload, err := json.Marshal(api.DeployPayload{
		Artifacts: []api.ArtifactReference{{Name: "compose.yml", Type: "compose_lock", Content: []byte(composeText(repo, digest, "18731"))}},
		Config: api.DeployConfig{
			ExpectedDigests: map[string]string{"web": digest, "worker": digest},
			HealthCheck:     &api.HealthCheck{Type: "http", URL: "http://127.0.0.1:18731/healthz", IntervalMs: 10, Timeout: 20},
		},
	})
	if err != nil {
		return 0, err
	}
	return deployTo(ctx, c, payload)
}

func composeCommand(ctx context.Context, project, file string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "docker", append([]string{"compose", "--project-name", project, "--file", file}, args...)...)
}

func composeByHand(ctx context.Context, dir, repo, digest string) (time.Duration, error) {
	file := filepath.Join(dir, "compose.stella.lock.yml")
	began := time.Now()
	if err := os.WriteFile(file, []byte(composeText(repo, digest, "18732")), 0o600); err != nil {
		return 0, err
	}
	if out, err := composeCommand(ctx, "bench-hand", file, "up", "--detach", "--remove-orphans", "--force-recreate").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	for deadline := time.Now().Add(20 * time.Second); !healthy(ctx); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return 0, errors.New("not healthy within 20 s")
		}
	}
	return time.Since(began), nil
}
