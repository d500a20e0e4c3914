package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/docker/engine"
	"stella-ops.org/stella/internal/testkit/peers"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

// lab is an engine with an image, containers and networks of a test.
type lab struct {
	address, label string
	image          string
	containers     []string
	network        string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	address, registry := peers.Docker(t), peers.Registry(t)
	c, err := client.New(client.WithHost(address))
	if err != nil {
		t.Fatal(err)
	}
	unique := fmt.Sprintf("stella-engine-%d", time.Now().UnixNano())
	l := &lab{address: address, label: unique + "=yes", network: unique}
	repository := registry + "/stella-test/" + unique
	l.image = repository + "@" + sampleimage.Push(t, repository, sampleimage.Options{Version: "1.0.0"})
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, id := range l.containers {
			_, _ = c.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true})
		}
		_, _ = c.NetworkRemove(ctx, l.network, client.NetworkRemoveOptions{})
		_, _ = c.ImageRemove(ctx, l.image, client.ImageRemoveOptions{Force: true})
		_ = c.Close()
	})
	pulled, err := c.ImagePull(t.Context(), l.image, client.ImagePullOptions{})
	if err == nil {
		err = pulled.Wait(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // made and not started: those count too
		made, err := c.ContainerCreate(t.Context(), client.ContainerCreateOptions{
			Name:   fmt.Sprintf("%s-%d", unique, i),
			Config: &container.Config{Image: l.image, Labels: map[string]string{unique: "yes"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		l.containers = append(l.containers, made.ID)
	}
	if _, err := c.NetworkCreate(t.Context(), l.network, client.NetworkCreateOptions{Labels: map[string]string{unique: "yes"}}); err != nil {
		t.Fatal(err)
	}
	return l
}

// look asks all that can be asked.
func (l *lab) look(t *testing.T, e *engine.Engines, addr string) {
	t.Helper()
	type one struct {
		ID     string `json:"Id"`
		Config struct{ Image string }
	}
	containers, err := engine.Containers[one](t.Context(), e, addr, l.label)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range containers {
		ids = append(ids, c.ID)
		if c.Config.Image != l.image {
			t.Errorf("the container %s is of %q, want %q", c.ID, c.Config.Image, l.image)
		}
	}
	if slices.Sort(ids); !slices.Equal(ids, slices.Sorted(slices.Values(l.containers))) {
		t.Errorf("containers %q, want %q", ids, l.containers)
	}
	if none, err := engine.Containers[one](t.Context(), e, addr, l.label+"-other"); err != nil || len(none) > 0 {
		t.Errorf("containers with another label: %v, %v", none, err)
	}
	missing := strings.Replace(l.image, "stella-test", "nobody-has", 1)
	images, err := engine.Images(t.Context(), e, addr, []string{l.image, missing, l.image})
	if err != nil || len(images) != 1 || images[l.image].ID == "" || !slices.Contains(images[l.image].RepoDigests, l.image) {
		t.Errorf("images %v, %v", images, err)
	}
	if networks, err := engine.Networks(t.Context(), e, addr, l.label); err != nil || !slices.Equal(networks, []string{l.network}) {
		t.Errorf("networks %q, %v", networks, err)
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	e := engine.New(l.address)
	l.look(t, e, "")
	l.look(t, e, l.address)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	l.look(t, e, "") // connects again
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// What is removed while it is looked at is left out, and is no failure.
func TestContainersThatGo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	e := engine.New(l.address)
	defer func() { _ = e.Close() }()
	c, err := e.At("")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for i := range 20 {
			made, err := c.ContainerCreate(t.Context(), client.ContainerCreateOptions{
				Config: &container.Config{Image: l.image, Labels: map[string]string{l.network: "yes"}},
			})
			if err == nil {
				_, err = c.ContainerRemove(t.Context(), made.ID, client.ContainerRemoveOptions{Force: true})
			}
			if err != nil {
				done <- fmt.Errorf("container %d: %w", i, err)
				return
			}
		}
		done <- nil
	}()
	for looks := 0; ; looks++ {
		there, err := engine.Containers[struct{}](t.Context(), e, "", l.label)
		if err != nil || len(there) < len(l.containers) {
			t.Fatalf("look %d: %d containers, %v", looks, len(there), err)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	e := engine.New("unix://" + filepath.Join(t.TempDir(), "no.sock"))
	defer func() { _ = e.Close() }()
	for name, ask := range map[string]func(addr string) error{
		"containers": func(addr string) error {
			_, err := engine.Containers[struct{}](t.Context(), e, addr, "a=b")
			return err
		},
		"images": func(addr string) error {
			_, err := engine.Images(t.Context(), e, addr, []string{"app"})
			return err
		},
		"networks": func(addr string) error {
			_, err := engine.Networks(t.Context(), e, addr, "a=b")
			return err
		},
	} {
		for addr, want := range map[string]string{
			"":                      api.ErrTargetUnreachable,
			"tcp://127.0.0.1:1":     api.ErrTargetUnreachable,
			"gopher://host":         api.ErrInvalidPayload,
			"ssh://":                api.ErrInvalidPayload,
			"ssh://u:secret@host":   api.ErrInvalidPayload,
			"ssh://u:secret@h:o:st": api.ErrInvalidPayload,
			"tcp://u:secret@h:o:st": api.ErrInvalidPayload,
			"tcp://u:secret@host":   api.ErrInvalidPayload,
			"unix://":               api.ErrInvalidPayload,
			"tcp://":                api.ErrInvalidPayload,
			"/var/run/docker.sock":  api.ErrInvalidPayload,
		} {
			err := ask(addr)
			var typed *deploy.Error
			if !errors.As(err, &typed) || typed.Type != want {
				t.Errorf("%s at %q: %v, want %s", name, addr, err, want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%s at %q: the error tells the password: %v", name, addr, err)
			}
		}
	}
	own := deploy.Fail(api.ErrPullFailed, "gone")
	for _, tc := range []struct{ in, want error }{{nil, nil}, {own, own}} {
		if have := engine.Error(api.ErrSwitchFailed, tc.in); !errors.Is(have, tc.want) || (tc.want == nil) != (have == nil) {
			t.Errorf("%v: %v", tc.in, have)
		}
	}
	var typed *deploy.Error
	if err := engine.Error(api.ErrSwitchFailed, cerrdefs.ErrConflict); !errors.As(err, &typed) || typed.Type != api.ErrSwitchFailed {
		t.Errorf("a refusal: %v", err)
	}
	if err := engine.Error(api.ErrSwitchFailed, cerrdefs.ErrUnavailable); !errors.As(err, &typed) || typed.Type != api.ErrTargetUnreachable {
		t.Errorf("unavailable: %v", err)
	}
}

func TestWithoutAddressItIsTheEnvironments(t *testing.T) {
	l := newLab(t)
	t.Setenv("DOCKER_HOST", l.address)
	e := engine.New("")
	defer func() { _ = e.Close() }()
	l.look(t, e, "")
}

// sshProgram puts a program ssh before the others that knows the keys of a
// server.
func sshProgram(t *testing.T, key, known string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"key": key, "known_hosts": known,
		"config": fmt.Sprintf("IdentityFile %s/key\nIdentitiesOnly yes\nUserKnownHostsFile %s/known_hosts\nStrictHostKeyChecking yes\n", dir, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf("#!/bin/sh\nPATH=${PATH#*:} exec ssh -F %s/config \"$@\"\n", dir)
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}
