package compose

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/docker/engine"
)

// pull gets the images that are not here. What is here by its digest is the
// very image, so that a registry that is away does not stop what is there from
// being deployed again.
func (d *deployment) pull(ctx context.Context) error {
	missing, err := d.missing(ctx)
	if err != nil {
		return err
	}
	for _, s := range d.state.New.Services {
		if !slices.Contains(missing, s) {
			d.env.Log.Line("system", fmt.Sprintf("%s: %s is here already", s.Name, s.Image))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	began := time.Now()
	err = d.pullMissing(ctx, missing)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	left, err := d.missing(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return d.notPulled(ctx, left[0])
	}
	d.env.Log.Line("system", fmt.Sprintf("pulled the images of %d services in %v", len(missing), time.Since(began).Round(time.Millisecond)))
	return nil
}

// pullMissing pulls with the task's login where that is to go: a registry gets
// it only when it is the file's only one, or when it lets nobody in without.
// What is meant for one registry is none of another's business.
func (d *deployment) pullMissing(ctx context.Context, missing []service) error {
	var login *api.RegistryAuth
	if c := d.task.Credentials; c != nil {
		login = c.Registry
	}
	alone := len(registries(d.state.New.Services)) == 1
	for _, registry := range registries(missing) {
		from := slices.DeleteFunc(slices.Clone(missing), func(s service) bool { return registryOf(s) != registry })
		if login == nil || !alone {
			err := d.pullWith(ctx, from, "")
			var failed *deploy.Error
			switch {
			case err == nil:
				continue
			case login == nil || !errors.As(err, &failed) || !strings.Contains(failed.Message, refusesAll):
				return err
			}
			d.env.Log.Line("system", "trying again with the task's registry credentials")
		}
		config, err := d.writeLogin(login, registry)
		if err != nil {
			return err
		}
		if err := errors.Join(d.pullWith(ctx, from, config), d.forgetLogin()); err != nil {
			return err
		}
	}
	return nil
}

const refusesAll = "the registry refuses it"

func (d *deployment) pullWith(ctx context.Context, missing []service, config string) error {
	args := d.composeArgs(d.state.New, filepath.Join(d.dir, d.state.Files.Staging), "pull")
	for _, s := range missing {
		d.env.Log.Line("system", fmt.Sprintf("%s: pulling %s", s.Name, s.Image))
		args = append(args, s.Name)
	}
	res, err := d.run(ctx, call{args: args, config: config})
	if err != nil || res.ExitCode == 0 {
		return err
	}
	return pullError(res.Tail)
}

// pullError tells a digest that a registry does not have, or that does not fit
// what it serves, from all other trouble.
func pullError(tail string) error {
	says, text := orNothing(lastLine(tail)), strings.ToLower(tail)
	has := func(signs ...string) bool {
		return slices.ContainsFunc(signs, func(s string) bool { return strings.Contains(text, s) })
	}
	switch {
	case away(tail):
		return refused(api.ErrPullFailed, "pull", tail)
	case has("denied", "unauthorized", "authentication required", "no basic auth"):
		return deploy.Fail(api.ErrPullFailed, "pull: "+refusesAll+" (%s); check the task's registry credentials", says)
	case has("manifest unknown", "verification failed", "not found") && !has("no such host"):
		return deploy.Fail(api.ErrDigestMismatch,
			"the registry does not serve an image of the release (%s): the digest is wrong, or the image was replaced or removed; nothing was touched", says)
	}
	return deploy.Fail(api.ErrPullFailed, "pull: %s", says).Retry()
}

// missing are the services whose very image the engine does not have.
func (d *deployment) missing(ctx context.Context) ([]service, error) {
	here, err := d.imageIDs(ctx, d.state.New.Services)
	if err != nil {
		return nil, err
	}
	d.images = here
	return slices.DeleteFunc(slices.Clone(d.state.New.Services), func(s service) bool { return here[s.Image] != "" }), nil
}

// notPulled says why a service's image cannot be found after the pull.
func (d *deployment) notPulled(ctx context.Context, s service) error {
	found, err := engine.Images(ctx, d.engines, d.target.engine, []string{s.Image})
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return deploy.Fail(api.ErrPullFailed, "%s was pulled for the service %s and is not here: somebody removes images, or the service has a pull_policy of never", s.Image, s.Name).Retry()
	}
	return deploy.Fail(api.ErrDigestMismatch,
		"the engine has %v and not %s for the service %s; what was pulled is not what was released: find out who changed it", found[s.Image].RepoDigests, s.Image, s.Name)
}

// imageIDs are the ids of those images of services that the engine has, by what
// the services call them. An engine lists a digest for each repository that it
// saw an image in; only the one of the service's own repository counts.
func (t *target) imageIDs(ctx context.Context, services []service) (map[string]string, error) {
	names := make([]string, len(services))
	for i, s := range services {
		names[i] = s.Image
	}
	here, err := engine.Images(ctx, t.engines, t.engine, names)
	if err != nil {
		return nil, err
	}
	ids := map[string]string{}
	for name, img := range here {
		if among(name, img.RepoDigests) {
			ids[name] = img.ID
		}
	}
	return ids, nil
}

// among says whether one of an image's RepoDigests is the image that is asked
// for.
func among(image string, repoDigests []string) bool {
	name, digest, ok := pinnedAt(image)
	if !ok {
		return false
	}
	return slices.ContainsFunc(repoDigests, func(s string) bool {
		n, dgst, ok := pinnedAt(s)
		return ok && n == name && dgst == digest
	})
}

// pinnedAt is an image's repository by its full name, and its digest.
func pinnedAt(image string) (repository, digest string, ok bool) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", "", false
	}
	d, ok := named.(reference.Digested)
	if !ok {
		return "", "", false
	}
	return named.Name(), d.Digest().String(), true
}

// registries are those that the services' images are in, each once.
func registries(services []service) []string {
	var all []string
	for _, s := range services {
		if registry := registryOf(s); !slices.Contains(all, registry) {
			all = append(all, registry)
		}
	}
	return all
}

// registryOf is the registry of a service's image as docker names it in its
// configuration.
func registryOf(s service) string {
	named, err := reference.ParseNormalizedNamed(s.Image)
	if err != nil {
		return ""
	}
	if domain := reference.Domain(named); domain != "docker.io" {
		return domain
	}
	return "https://index.docker.io/v1/"
}

// loginDir is a docker configuration folder with the task's login in it. It is
// in the agent's own folder: that of the target may be mounted anywhere.
func (t *target) loginDir() string {
	return filepath.Join(t.env.DataDir, "compose", "login-"+t.task.ID)
}

// writeLogin makes that folder; forgetLogin removes it.
func (t *target) writeLogin(login *api.RegistryAuth, registry string) (dir string, err error) {
	type auth struct {
		Auth          []byte `json:"auth,omitempty"`
		RegistryToken string `json:"registrytoken,omitempty"`
	}
	a := auth{RegistryToken: login.Token}
	if login.Username != "" {
		a.Auth = []byte(login.Username + ":" + login.Password)
	}
	config := struct {
		Auths map[string]auth `json:"auths"`
		// The user's plugins are not in this folder.
		Plugins []string `json:"cliPluginsExtraDirs"`
	}{map[string]auth{registry: a}, []string{filepath.Join(t.config, "cli-plugins")}}
	data, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	dir = t.loginDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("write the registry login: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		return "", fmt.Errorf("write the registry login: %w", err)
	}
	return dir, nil
}

func (t *target) forgetLogin() error { return os.RemoveAll(t.loginDir()) }
