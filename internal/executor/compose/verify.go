package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/composefile"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/artifact"
	"stella-ops.org/stella/internal/executor/files"
)

// stage brings the release's files into a folder beside their places, and
// verifies them there: from here on it is clear what will run.
func (d *deployment) stage(ctx context.Context) error {
	if err := d.refuseForeign(ctx); err != nil {
		return err
	}
	s := d.state
	root, err := s.Files.Root()
	if err != nil {
		return deploy.Fail(api.ErrSwitchFailed, "%w", err)
	}
	defer root.Close()
	if err := s.Files.Open(root); err != nil {
		return deploy.Fail(api.ErrSwitchFailed, "make the folder for the new release's files: %w", err)
	}
	if s.Restoring {
		err = d.fromPrevious(root)
	} else {
		err = d.fetch(ctx, root)
	}
	if err != nil {
		return err
	}
	s.Files.Gone = slices.DeleteFunc(slices.Clone(s.Files.Gone), func(name string) bool { return slices.Contains(s.Files.Names, name) })
	return s.Files.Prepare()
}

// unstage removes what the task needed beside the places of the files, unless
// the former files are nowhere else: then the undo of the switch has failed.
func (d *deployment) unstage(context.Context) error {
	if err := d.forgetLogin(); err != nil {
		return err
	}
	if !d.state.Files.Restored() {
		return fmt.Errorf("the former files are not all in their places again, so they are kept in %s", filepath.Join(d.dir, backupName))
	}
	return d.state.Files.Drop()
}

// refuseForeign keeps the executor's hands off a project that it did not
// deploy: without its files it could not be brought back.
func (d *deployment) refuseForeign(ctx context.Context) error {
	if d.state.Old != nil {
		return nil
	}
	all, err := d.containers(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	return deploy.Fail(api.ErrSwitchFailed,
		"there are containers of a project %s already (%s), and %s holds no release that they could be brought back from; "+
			"stop them (docker compose -p %s down keeps their volumes), or choose another config.project",
		d.project, all[0].name(), d.dir, d.project)
}

// fetch gets the release's artifacts, checks them, and writes what else makes
// the release.
func (d *deployment) fetch(ctx context.Context, root *os.Root) error {
	s, r := d.state, d.release
	for i := range d.payload.Artifacts {
		a := d.payload.Artifacts[i]
		name := a.Name
		if a.Type == artifact.TypeComposeLock {
			name = composefile.LockName
		}
		if slices.Contains(r.EnvFiles, name) {
			a.Mode = "0600" // whatever else was asked for: it is where secrets are
		}
		size, err := files.Put(ctx, root, s.Files.New(name), &a, d.env.Artifacts)
		if err != nil {
			return err
		}
		d.env.Log.Line("system", files.Said(&a, size))
	}
	if err := root.WriteFile(s.Files.New(envName), composefile.EnvFile(d.payload.Config.Environment), 0o600); err != nil {
		return err
	}
	if err := d.readEnvFiles(root); err != nil {
		return err
	}
	if err := d.checkText(root, composefile.LockName, map[string]bool{}); err != nil {
		return err
	}
	if err := d.checkModel(ctx, filepath.Join(d.dir, s.Files.Staging)); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return root.WriteFile(s.Files.New(metaName), append(data, '\n'), 0o600)
}

// readEnvFiles makes sure that the env files can be read, and that nothing of
// them gets into the journal: docker compose would quote what it cannot read.
func (d *deployment) readEnvFiles(root *os.Root) error {
	set := map[string]string{}
	for _, name := range d.release.EnvFiles {
		data, err := root.ReadFile(d.state.Files.New(name))
		if err != nil {
			return err
		}
		env, err := composefile.ReadEnv(data, func(name string) (string, bool) { v, ok := set[name]; return v, ok })
		if err != nil {
			return invalid("the env file %s cannot be read: %w", name, err)
		}
		maps.Copy(set, env)
	}
	d.steps.Secrets = slices.AppendSeq(d.steps.Secrets, maps.Values(set))
	return nil
}

// checkText refuses, by what stands in a file, images that are not pinned, and
// other files that did not come with the release. What is refused here might
// be fine in the end; what is not refused is looked at once more by checkModel.
func (d *deployment) checkText(root *os.Root, name string, seen map[string]bool) error {
	if seen[name] {
		return nil
	}
	seen[name] = true
	data, err := root.ReadFile(d.state.Files.New(name))
	if err != nil {
		return err
	}
	f, err := composefile.Parse(data)
	if err != nil {
		return invalid("%s: %w", name, err)
	}
	others, err := f.Others()
	if err != nil {
		return invalid("%s: %w", name, err)
	}
	for _, other := range others {
		below := path.Join(path.Dir(name), other)
		if path.IsAbs(other) || !slices.Contains(d.release.Files, below) {
			return invalid("%s takes in %q by include or extends, which is not among the release's files; add it as an artifact of that name, or make one file of both (docker compose config)", name, other)
		}
		if err := d.checkText(root, below, seen); err != nil {
			return err
		}
	}
	services, err := f.Services()
	if errors.Is(err, composefile.ErrNoServices) && len(others) > 0 {
		return nil
	}
	if err != nil {
		return invalid("%s: %w", name, err)
	}
	for i := range services {
		s := &services[i]
		switch {
		case s.Image == "" && s.Builds:
			return invalid("%s: the service %s is built, and a lock file runs only what is in a registry; build and push it, then name it by image:", name, s.Name)
		case s.Image == "" && s.Extends == "":
			return invalid("%s: the service %s has no image", name, s.Name)
		case strings.Contains(s.Image, "$"):
			return invalid("%s: the image %q of the service %s has a variable in it; a lock file says what runs (`stella compose lock` resolves variables)", name, s.Image, s.Name)
		}
		if _, _, ok := composefile.Pinned(s.Image); s.Image != "" && !ok {
			return invalid("%s: the image %q of the service %s is not pinned to a digest, as in repository@sha256:…; `stella compose lock` does that", name, s.Image, s.Name)
		}
	}
	return nil
}

// meant is a project as docker compose understands it.
type meant struct {
	Services map[string]meantService `json:"services"`
	Networks map[string]struct {
		Name string `json:"name"`
	} `json:"networks"`
}

type meantService struct {
	Image    string   `json:"image"`
	Profiles []string `json:"profiles"`
	Scale    *int     `json:"scale"`
	Provider any      `json:"provider"`
	Deploy   struct {
		Replicas *int `json:"replicas"`
	} `json:"deploy"`
	Volumes []struct {
		Type   string `json:"type"`
		Source string `json:"source"`
	} `json:"volumes"`
}

// count is how many containers the service has.
func (s *meantService) count() int {
	switch {
	case s.Scale != nil:
		return *s.Scale
	case s.Deploy.Replicas != nil:
		return *s.Deploy.Replicas
	}
	return 1
}

// checkModel has docker compose itself say what the files mean, and compares
// that with the digests that are expected: for all services, those of other
// profiles too.
func (d *deployment) checkModel(ctx context.Context, dir string) error {
	everything := model{Profiles: []string{"*"}, EnvFiles: d.release.EnvFiles}
	all, err := d.understand(ctx, &everything, dir)
	if err != nil {
		return err
	}
	expected := d.payload.Config.ExpectedDigests
	for _, name := range slices.Sorted(maps.Keys(all.Services)) {
		s := all.Services[name]
		_, digest, ok := composefile.Pinned(s.Image)
		want := expected[name]
		switch {
		case s.Provider != nil:
			return invalid("the service %s has a provider, which would run a program on the agent's host that no digest names", name)
		case !ok:
			return invalid("the image %q of the service %s is not pinned to a digest, as in repository@sha256:…", s.Image, name)
		case want == "":
			return deploy.Fail(api.ErrDigestMismatch,
				"the lock file has a service %s, and no digest is expected of it: the file is not the one that was released; nothing was touched", name)
		case digest != want:
			return deploy.Fail(api.ErrDigestMismatch,
				"the service %s has the image %s, and %s is expected: the file is not the one that was released; nothing was touched", name, s.Image, want)
		}
		for _, v := range s.Volumes {
			if _, _, ok := composefile.Pinned(v.Source); v.Type == "image" && !ok {
				return invalid("the service %s mounts the image %q, which is not pinned to a digest", name, v.Source)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(expected)) {
		if _, ok := all.Services[name]; !ok {
			return deploy.Fail(api.ErrDigestMismatch,
				"a digest is expected of the service %s, and the lock file has no such service: the file is not the one that was released; nothing was touched", name)
		}
	}
	m, enabled := &d.release.model, all
	// Without profiles all are enabled, and asking again would cost as much as
	// all else here.
	if len(m.Profiles) > 0 || slices.ContainsFunc(slices.Collect(maps.Values(all.Services)), func(s meantService) bool { return len(s.Profiles) > 0 }) {
		if enabled, err = d.understand(ctx, m, dir); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(enabled.Services)) {
		s := enabled.Services[name]
		m.Services = append(m.Services, service{Name: name, Image: s.Image, Count: s.count()})
	}
	if len(m.Services) == 0 {
		return invalid("none of the lock file's services is enabled; name a profile in config.profiles")
	}
	for _, n := range enabled.Networks {
		m.Networks = append(m.Networks, n.Name)
	}
	slices.Sort(m.Networks)
	d.state.New = m
	return nil
}

// understand has docker compose read the files in a folder. What it prints has
// all variables' values in it, and its complaints may quote them.
func (d *deployment) understand(ctx context.Context, m *model, dir string) (*meant, error) {
	var out bytes.Buffer
	res, err := d.run(ctx, call{args: d.composeArgs(m, dir, "config", "--format", "json"), stdout: &out, quiet: true})
	if err != nil {
		return nil, err
	}
	says := d.discreet(strings.ReplaceAll(res.Tail, dir+string(filepath.Separator), ""))
	if res.ExitCode != 0 {
		return nil, invalid("docker compose does not take the lock file: %s", orNothing(lastLine(says)))
	}
	if m != &d.release.model { // and not once more for those that are enabled
		for line := range strings.Lines(says) { // as that a variable has no value
			d.env.Log.Line("stderr", strings.TrimRight(line, "\r\n"))
		}
	}
	all := &meant{}
	if err := json.Unmarshal(out.Bytes(), all); err != nil {
		return nil, fmt.Errorf("read what docker compose config prints: %w", err)
	}
	return all, nil
}

var quotation = regexp.MustCompile(`"[^"]{3,}"`)

// discreet takes out of a text what it quotes of a variable's value, even when
// it is only a part of it.
func (d *deployment) discreet(text string) string {
	return quotation.ReplaceAllStringFunc(text, func(quoted string) string {
		part := strings.Trim(quoted, `"`)
		if slices.ContainsFunc(d.steps.Secrets, func(secret string) bool { return strings.Contains(secret, part) }) {
			return `"***"`
		}
		return quoted
	})
}
