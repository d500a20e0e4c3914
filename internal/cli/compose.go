package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/atomicfile"
	"stella-ops.org/stella/internal/cli/out"
	"stella-ops.org/stella/internal/composefile"
)

func (a *app) composeCommand() *cobra.Command {
	return noun("compose", "Compose files: pin their images, to deploy them", a.composeLockCommand())
}

func (a *app) composeLockCommand() *cobra.Command {
	var registry imageFlags
	var envFiles []string
	var to string
	cmd := &cobra.Command{
		Use:   "lock FILE",
		Short: "Pin the images of a compose file to the digests that their tags have now",
		Long: `Pin the images of a compose file to the digests that their tags have now, for
all of its services, and write the result as compose.stella.lock.yml beside it.
Nothing else of the file is changed. Variables in images get their values as
docker compose gives them: from the environment, and from .env beside the file
or from --env-file.`,
		Example: `  stella compose lock compose.yml
  stella compose lock compose.yml --out - --registry-user ci --registry-password-stdin <password.txt`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			login, err := a.registryLogin(&registry)
			if err != nil {
				return err
			}
			env, err := a.composeEnv(names[0], envFiles, nil)
			if err != nil {
				return err
			}
			locked, err := a.lock(cmd.Context(), names[0], env, login)
			if err != nil {
				return err
			}
			if to == "-" {
				a.io.NoteTable(locked.table())
				a.io.Printf("%s", locked.text)
				return nil
			}
			if to == "" {
				to = filepath.Join(filepath.Dir(names[0]), composefile.LockName)
			}
			if err := atomicfile.Write(to, []byte(locked.text), 0o644); err != nil {
				return wrongUse("choose another place by --out", "the lock file cannot be written: %v", err)
			}
			return a.io.Write(a.format, locked.services, func() {
				a.io.Table(locked.table(), "")
				a.io.Notef("%s %s is written", a.io.ErrStyle.Good("✓"), to)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&to, "out", "", "the `file` to write; - for stdout; compose.stella.lock.yml beside FILE when left out")
	flags.StringArrayVar(&envFiles, "env-file", nil, "a `file` of variables for the images, instead of .env beside FILE; may be given several times")
	registry.addLogin(flags)
	return cmd
}

// locked is a compose file whose images are all pinned.
type locked struct {
	text     string
	services []lockedService
}

// lockedService is one of its services.
type lockedService struct {
	Service string `json:"service"`
	Image   string `json:"image"`
	Digest  string `json:"digest"`
	// From is what stood there before; empty when it was pinned already.
	From string `json:"from,omitempty"`
}

func (l *locked) table() *out.Table {
	t := out.NewTable("SERVICE", "IMAGE", "DIGEST")
	for _, s := range l.services {
		t.Row(s.Service, first(s.From, s.Image), s.Digest)
	}
	return t
}

// digests are those that an agent must find in the file.
func (l *locked) digests() map[string]string {
	all := map[string]string{}
	for _, s := range l.services {
		all[s.Service] = s.Digest
	}
	return all
}

// lock pins the images of a compose file that are not pinned.
func (a *app) lock(ctx context.Context, path string, env func(string) (string, bool), login *api.RegistryAuth) (*locked, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, wrongUse("", "the compose file: %v", err)
	}
	wrong := func(next, format string, args ...any) error {
		return wrongUse(next, path+": "+format, args...)
	}
	f, err := composefile.Parse(data)
	if err != nil {
		return nil, wrong("", "%v", err)
	}
	others, err := f.Others()
	if err == nil && len(others) > 0 {
		err = errors.New("it takes in " + others[0] + ", whose images would not be pinned")
	}
	if err != nil {
		return nil, wrong("make one file of all: docker compose config > one.yml", "%v", err)
	}
	services, err := f.Services()
	if err != nil {
		return nil, wrong("", "%v", err)
	}
	l := &locked{}
	lookUp := a.digestLookUp(services, login)
	for _, s := range services {
		image := imageOf(services, s.Name)
		switch {
		case image == "" && s.Builds:
			return nil, wrong("build and push it, then name it by image: beside build:", "the service %s is built and has no image that could be pinned", s.Name)
		case image == "":
			return nil, wrong("give it one", "the service %s has no image", s.Name)
		}
		resolved, err := composefile.Resolve(image, env)
		if err != nil {
			return nil, wrong("", "%v", err)
		}
		repository, digest, tag, err := splitImage(resolved)
		if before, _, _ := strings.Cut(resolved, "@"); err == nil && strings.HasSuffix(before, ":") {
			err = fmt.Errorf("%q has no tag behind the colon", resolved)
		}
		if err != nil {
			return nil, wrong("are its variables set?", "the image %s of the service %s: %v", image, s.Name, err)
		}
		row := lockedService{Service: s.Name, Image: resolved, Digest: digest}
		if digest == "" {
			if row.Digest, err = lookUp(ctx, repository+":"+tag); err != nil {
				return nil, err
			}
			row.Image, row.From = repository+"@"+row.Digest, resolved
		}
		l.services = append(l.services, row)
		// A service without an image of its own has that of the one it extends.
		if s.Image == "" || s.Image == row.Image {
			continue
		}
		// Two services may have the very same text, by a merge.
		if now, err := f.Services(); err == nil && imageOf(now, s.Name) == row.Image {
			continue
		}
		if err := f.Pin(s.Name, row.Image); err != nil {
			return nil, wrong("", "%v", err)
		}
	}
	l.text = f.Text()
	return l, l.check(f)
}

// check makes sure that the text says what was found: the same text may stand
// for the images of several services.
func (l *locked) check(f *composefile.File) error {
	services, err := f.Services()
	if err != nil {
		return err
	}
	for _, s := range l.services {
		if have := imageOf(services, s.Service); have != s.Image {
			return wrongUse("give each service an image of its own", "the service %s would have the image %s, and not %s", s.Service, have, s.Image)
		}
	}
	return nil
}

// imageOf is a service's image, which may be that of one that it extends.
func imageOf(services []composefile.Service, name string) string {
	for range services {
		i := slices.IndexFunc(services, func(s composefile.Service) bool { return s.Name == name })
		if i < 0 {
			return ""
		}
		if services[i].Image != "" || services[i].Extends == "" {
			return services[i].Image
		}
		name = services[i].Extends
	}
	return ""
}

// digestLookUp looks tags up, each once. A login goes to a registry only when
// it is the file's only one, or when it lets nobody in without: what is meant
// for one registry is none of another's business.
func (a *app) digestLookUp(services []composefile.Service, login *api.RegistryAuth) func(context.Context, string) (string, error) {
	hosts, known := map[string]bool{}, map[string]string{}
	for _, s := range services {
		hosts[registryOf(s.Image)] = true
	}
	return func(ctx context.Context, image string) (digest string, err error) {
		if digest = known[image]; digest != "" {
			return digest, nil
		}
		if login == nil || len(hosts) == 1 {
			digest, err = a.lookUpDigest(ctx, image, login)
		} else if digest, err = a.lookUpDigest(ctx, image, nil); err != nil {
			if e, ok := errors.AsType[*Error](err); ok && e.Code == exitNotAllowed {
				digest, err = a.lookUpDigest(ctx, image, login)
			}
		}
		known[image] = digest
		return digest, err
	}
}

// composeEnv are the variables of a compose file on this machine, as docker
// compose finds them: those given, then the environment, then those of the
// files or of .env beside the compose file.
func (a *app) composeEnv(path string, envFiles []string, given map[string]string) (func(string) (string, bool), error) {
	files := envFiles
	if len(files) == 0 {
		files = []string{filepath.Join(filepath.Dir(path), dotEnv)}
	}
	values := map[string]string{}
	look := func(name string) (string, bool) {
		if v, ok := given[name]; ok {
			return v, true
		}
		if v := a.getenv(name); v != "" {
			return v, true
		}
		v, ok := values[name]
		return v, ok
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) && len(envFiles) == 0 {
			continue
		}
		if err != nil {
			return nil, wrongUse("", "the environment file: %v", err)
		}
		env, err := composefile.ReadEnv(data, look)
		if err != nil {
			return nil, wrongUse("", "%s: %v", file, err)
		}
		maps.Copy(values, env)
	}
	return look, nil
}

const dotEnv = ".env"

// lockFor adds to a deployment what its compose file says, pinned; variables
// in .env beside that file go along.
func (a *app) lockFor(ctx context.Context, server *client.Client, f *deployFlags, p *api.DeployPayload) (*api.Credentials, error) {
	login, err := a.registryLogin(&f.image)
	if err != nil {
		return nil, err
	}
	env, err := a.composeEnv(f.composeFile, nil, p.Config.Environment)
	if err != nil {
		return nil, err
	}
	locked, err := a.lock(ctx, f.composeFile, env, login)
	if err != nil {
		return nil, err
	}
	for _, s := range locked.services {
		if s.From != "" {
			a.io.Notef("resolved %s → %s", s.From, s.Digest)
		}
	}
	p.Config.ExpectedDigests, p.Config.Profiles = locked.digests(), f.profiles
	c, err := find(f.files, nil, nil)
	if err != nil {
		return nil, err
	}
	beside := filepath.Join(filepath.Dir(f.composeFile), dotEnv)
	if _, err := os.Stat(beside); err == nil && !slices.ContainsFunc(c.list, func(r api.ArtifactReference) bool { return r.Name == dotEnv }) {
		if err := c.read(beside, dotEnv, "", "env_file"); err != nil {
			return nil, err
		}
		a.io.Notef("%s goes along, for the file's variables", beside)
	}
	if p.Artifacts, err = a.fill(ctx, server, f.where.many(), c); err != nil {
		return nil, err
	}
	p.Artifacts = append(p.Artifacts, api.ArtifactReference{Name: composefile.LockName, Type: "compose_lock", Content: []byte(locked.text)})
	if login == nil {
		return nil, nil //nolint:nilnil // no login is none
	}
	return &api.Credentials{Registry: login}, nil
}
