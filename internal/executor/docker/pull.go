package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/docker/engine"
)

// progressEvery is how often a pull says how far it is.
const progressEvery = 5 * time.Second

// pull gets the image, unless this very one is there already.
func (d *deployment) pull(ctx context.Context) error {
	img, err := parseImage(d.state.Image, d.state.Digest)
	if err != nil {
		return err
	}
	if found, err := d.engine.ImageInspect(ctx, img.String()); err == nil && img.among(found.RepoDigests) {
		d.env.Log.Line("system", img.String()+" is here already")
		return nil
	}
	auth, err := registryAuth(img, d.task.Credentials)
	if err != nil {
		return err
	}
	d.env.Log.Line("system", "pulling "+img.String())
	stream, err := d.engine.ImagePull(ctx, img.String(), client.ImagePullOptions{RegistryAuth: auth})
	if err != nil {
		return pullError(img, err)
	}
	defer stream.Close()
	began, said := time.Now(), time.Now()
	type layer struct{ current, total int64 }
	layers := map[string]layer{}
	for msg, err := range stream.JSONMessages(ctx) {
		if err != nil {
			return pullError(img, err)
		}
		if msg.Error != nil {
			return pullError(img, msg.Error)
		}
		if msg.Progress != nil && msg.Status == "Downloading" {
			layers[msg.ID] = layer{msg.Progress.Current, msg.Progress.Total}
		}
		if l, ok := layers[msg.ID]; ok && (msg.Status == "Download complete" || msg.Status == "Pull complete") {
			layers[msg.ID] = layer{l.total, l.total}
		}
		if time.Since(said) >= progressEvery {
			said = time.Now()
			var sum layer
			for _, l := range layers {
				sum.current += l.current
				sum.total += l.total
			}
			d.env.Log.Line("system", fmt.Sprintf("pulled %d of %d MB in %d layers", sum.current>>20, sum.total>>20, len(layers)))
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d.env.Log.Line("system", fmt.Sprintf("pulled %s in %v", img, time.Since(began).Round(time.Millisecond)))
	return nil
}

// registryAuth is the login for the image's own registry.
func registryAuth(img image, c *api.Credentials) (string, error) {
	if c == nil || c.Registry == nil {
		return "", nil
	}
	server := reference.Domain(img.named)
	if server == "docker.io" {
		server = "https://index.docker.io/v1/"
	}
	return authconfig.Encode(registry.AuthConfig{
		Username: c.Registry.Username, Password: c.Registry.Password,
		RegistryToken: c.Registry.Token, ServerAddress: server,
	})
}

// pullError tells a digest that the registry does not have, or that does not
// fit what it serves, from all other trouble.
func pullError(img image, err error) error {
	text := strings.ToLower(err.Error())
	denied := strings.Contains(text, "denied") || strings.Contains(text, "unauthorized") ||
		strings.Contains(text, "authentication required") || strings.Contains(text, "no basic auth")
	unknown := strings.Contains(text, "manifest unknown") || strings.Contains(text, "verification failed") ||
		strings.Contains(text, "not found") || cerrdefs.IsNotFound(err)
	switch {
	case denied:
		return deploy.Fail(api.ErrPullFailed, "pull %s: the registry refuses it (%w); check the task's registry credentials", img, err)
	case client.IsErrConnectionFailed(err):
		return engine.Error(api.ErrPullFailed, err)
	case unknown && !strings.Contains(text, "no such host"):
		return deploy.Fail(api.ErrDigestMismatch,
			"the registry does not serve %s (%w): the digest is wrong, or the image was replaced or removed; nothing was touched", img, err)
	}
	e := deploy.Fail(api.ErrPullFailed, "pull %s: %w", img, err)
	if !errors.Is(err, context.Canceled) {
		e.Retriable = true
	}
	return e
}

// verify makes sure that what is here is what was asked for, that the
// networks are there, and that the health check can be done.
func (d *deployment) verify(ctx context.Context) error {
	if d.state.Restoring != "" {
		_, err := d.engine.ContainerInspect(ctx, d.state.Restoring, client.ContainerInspectOptions{})
		return engine.Error(api.ErrSwitchFailed, err)
	}
	img, err := parseImage(d.state.Image, d.state.Digest)
	if err != nil {
		return err
	}
	found, err := d.engine.ImageInspect(ctx, img.String())
	if err != nil {
		return engine.Error(api.ErrPullFailed, err)
	}
	if !img.among(found.RepoDigests) {
		return deploy.Fail(api.ErrDigestMismatch,
			"the engine has %v and not %s; what was pulled is not what was released: find out who changed it", found.RepoDigests, img)
	}
	hc := d.payload.Config.HealthCheck
	if hc != nil && hc.Type == "docker" && (found.Config == nil || !hasCheck(found.Config.Healthcheck)) {
		return invalid("the health check is of type docker, but the image %s has no HEALTHCHECK; give it one or use http, tcp or command", img)
	}
	for _, name := range d.payload.Config.Networks {
		if _, err := d.engine.NetworkInspect(ctx, name, client.NetworkInspectOptions{}); err != nil {
			if cerrdefs.IsNotFound(err) {
				return deploy.Fail(api.ErrSwitchFailed, "there is no network %q on the engine; make it, or correct config.networks", name)
			}
			return engine.Error(api.ErrSwitchFailed, err)
		}
	}
	return nil
}
