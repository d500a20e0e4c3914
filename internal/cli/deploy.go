package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

// deployFlags are those of `stella deploy`.
type deployFlags struct {
	run    runFlags
	roll   rollFlags
	where  scope
	health healthFlags
	image  imageFlags

	release            string
	env, envFiles      []string
	preHook, postHook  string
	hookTimeout        seconders
	stopTimeout        seconders
	ports, volumes     []string
	networks           []string
	restart, container string
	memory             byteSize
	cpus               cpus
	keepPrevious       bool

	files, scripts, unitFiles []string
	start, stop, unit         string

	composeFile string
	profiles    []string
}

// The flags that some kinds of targets take and others do not.
var kindFlags = map[string][]string{
	"docker": {
		"image", "registry-user", "registry-password-stdin", "registry-password", "port", "volume", "network", "restart", "memory", "cpus",
		"name", "keep-previous", "health-docker",
	},
	"compose": {
		"compose-file", "profile", "file", "registry-user", "registry-password-stdin", "registry-password", "keep-previous", "health-docker",
	},
	"host": {"file", "script", "unit-file", "start", "stop", "unit"},
	"ssh":  {"file", "script", "start", "stop", "keep-previous"},
}

func (a *app) deployCommand() *cobra.Command {
	var f deployFlags
	cmd := &cobra.Command{
		Use:   "deploy TARGET [flags] [-- COMMAND ARG…]",
		Short: "Deploy a version to a target, and watch it",
		Long: `Deploy a version to a target, and watch it.

A docker target takes an image, always by its digest: a tag is resolved to its
digest first, which is shown. What comes after -- runs instead of the image's
own command. A compose target takes a compose file, and files that go beside it;
images that are not pinned to a digest are, as ` + "`stella compose lock`" + ` does it.
A host or ssh target takes files, scripts, and what starts and stops them; the
hooks of an ssh target run on its host.

When the new version fails its health check, the previous one runs again. An
interrupt while waiting leaves the task to itself. Commands of hooks and health
checks are split into words as a shell does, but no shell runs them: write
sh -c '…' for one.

Instead of TARGET, --select picks all targets that match: by env, kind and
label.KEY, joined by commas or by the word and. They must be of one kind. What
would become of each is shown first; more than one needs a yes, on a terminal or
by --yes. Then they have their turn, --max-parallel at a time, until
--max-failures have failed: one rollout, which goes on whether it is watched or
not. ` + "`stella rollout`" + ` shows, pauses, resumes and rolls back.`,
		Example: `  stella deploy web --image nginx:1.27 --port 80:80 --health-http http://127.0.0.1/
  stella deploy web --image registry.example.com/web@sha256:… --env-file web.env
  stella deploy shop --compose-file compose.yml --file ./conf --env-file shop.env
  stella deploy api --file ./dist/ --start './api &' --health-tcp 127.0.0.1:8080
  stella deploy edge --file ./edge::0755 --start './edge &' --keep-previous
  stella deploy api --file ./api::0755 --unit-file ./api.service --release 1.4.2
  stella deploy --select 'env=production and label.tier=web' --image nginx:1.27 \
      --max-parallel 5 --pause-after 1 --on-failure rollback-all`,
		Args:              f.where.args,
		ValidArgsFunction: a.completeTargets(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if err := f.roll.check(cmd, f.where.many()); err != nil {
				return err
			}
			req, err := a.deployRequest(cmd, c, &f, args)
			if err != nil {
				return err
			}
			if f.where.many() {
				return a.rollOut(cmd.Context(), c, &f.roll, &f.run, &f.where, req)
			}
			return a.run(cmd.Context(), c, &f.run, &f.where, req)
		},
	}
	f.add(cmd)
	return cmd
}

// deployRequest is what the flags ask for, once it is clear for which targets:
// their kind decides which flags fit.
func (a *app) deployRequest(cmd *cobra.Command, c *client.Client, f *deployFlags, args []string) (req api.TaskRequest, err error) {
	ctx := cmd.Context()
	name, command := f.where.split(args)
	f.where.quiet = true // the preview lists them
	if err := a.find(ctx, c, &f.where); err != nil {
		return req, err
	}
	targets := f.where.found
	if !f.where.many() {
		target, err := c.Target(ctx, name)
		if err != nil {
			return req, err
		}
		targets, name = []api.Target{*target}, target.ID
	}
	if err := fits(targets, cmd); err != nil {
		return req, err
	}
	kind := targets[0].Kind
	payload, err := a.deployPayload(ctx, c, f, kind, command)
	if err != nil {
		return req, err
	}
	var login *api.Credentials
	switch kind {
	case "docker":
		login, err = a.resolveImage(ctx, &f.image, payload)
	case "compose":
		login, err = a.lockFor(ctx, c, f, payload)
	}
	if err != nil {
		return req, err
	}
	req, err = f.run.request(api.TaskDeploy, name, payload)
	req.Credentials = login
	return req, err
}

func (f *deployFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	f.where.add(cmd)
	f.roll.add(cmd, flags)
	f.image.add(flags)
	flags.StringVar(&f.release, "release", "", "the release's `name`, as in 1.4.2; rollback takes it back")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "a variable, as in `NAME=value`; NAME alone takes your own value; may be given several times")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "a `file` of variables, one NAME=value in each line")
	flags.StringVar(&f.preHook, "pre-hook", "", "a `command` on the agent's host (ssh: on the target's) before anything is touched")
	flags.StringVar(&f.postHook, "post-hook", "", "a `command` on the agent's host (ssh: on the target's) when the new version is healthy")
	flags.Var(&f.hookTimeout, "hook-timeout", "how long a hook may take; 5m when left out")
	flags.Var(&f.stopTimeout, "stop-timeout", "how long the old version may take to stop; 10s when left out")
	f.health.add(flags, true)

	flags.StringArrayVarP(&f.ports, "port", "p", nil, "docker: a port, as in `[ip:]host:container`[/udp]; may be given several times")
	flags.StringArrayVarP(&f.volumes, "volume", "v", nil, "docker: a volume, as in `source:target`[:ro]; may be given several times")
	flags.StringArrayVar(&f.networks, "network", nil, "docker: a `network` to join, which must exist; may be given several times")
	flags.StringVar(&f.restart, "restart", "", "docker: the `policy`: no, always, unless-stopped (when left out) or on-failure[:n]")
	flags.Var(&f.memory, "memory", "docker: the memory that it may use, as in 512m")
	flags.Var(&f.cpus, "cpus", "docker: the processors that it may use, as in 0.5")
	flags.StringVar(&f.container, "name", "", "docker: the `container`'s name; the target's when left out")
	flags.BoolVar(&f.keepPrevious, "keep-previous", false, "docker, compose, ssh: keep the previous version, to roll back to: a stopped container, or its files")

	flags.StringVar(&f.composeFile, "compose-file", "", "compose: the compose `file`, plain or locked")
	flags.StringArrayVar(&f.profiles, "profile", nil, "compose: a `profile` to enable; may be given several times")

	flags.StringArrayVar(&f.files, "file", nil, "compose, ssh, host: a file or folder, as in `path[:name[:mode]]`; a folder that ends in / is only its content; or url@sha256:…[:name[:mode]]; or what was pushed, as in artifact://sha256:…[:name[:mode]]; may be given several times")
	flags.StringArrayVar(&f.scripts, "script", nil, "host, ssh: a `file` that is run once in the new release: on a host before the switch, by ssh before the start")
	flags.StringVar(&f.start, "start", "", "host, ssh: a shell `command` that starts the release and returns")
	flags.StringVar(&f.stop, "stop", "", "host, ssh: a shell `command` that stops the release")
	flags.StringVar(&f.unit, "unit", "", "host: the systemd `unit` that runs the release")
	flags.StringArrayVar(&f.unitFiles, "unit-file", nil, "host: a `file` to install as a systemd unit")
	f.run.add(cmd)
}

// fits refuses flags of other kinds of targets, and targets of several kinds.
func fits(targets []api.Target, cmd *cobra.Command) error {
	target := &targets[0]
	for i := range targets {
		if other := &targets[i]; other.Kind != target.Kind {
			return wrongUse("add kind="+target.Kind+" or kind="+other.Kind+" to --select",
				"%s is of kind %s, and %s of kind %s: one deployment is for one kind", target.Name, target.Kind, other.Name, other.Kind)
		}
	}
	takers := map[string][]string{}
	for _, kind := range slices.Sorted(maps.Keys(kindFlags)) {
		for _, name := range kindFlags[kind] {
			takers[name] = append(takers[name], kind)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(takers)) {
		if kinds := takers[name]; cmd.Flags().Changed(name) && !slices.Contains(kinds, target.Kind) {
			return wrongUse("`stella target show "+target.Name+"` tells what it is",
				"--%s is for a %s target, and %s is of kind %s", name, strings.Join(kinds, " or "), target.Name, target.Kind)
		}
	}
	if target.Kind == "docker" && !cmd.Flags().Changed("image") {
		return wrongUse("give --image, as in --image nginx:1.27", "a docker target takes an image")
	}
	if target.Kind == "compose" && !cmd.Flags().Changed("compose-file") {
		return wrongUse("give --compose-file, as in --compose-file compose.yml", "a compose target takes a compose file")
	}
	return nil
}

// deployPayload is what the flags ask for, without the image.
func (a *app) deployPayload(ctx context.Context, c *client.Client, f *deployFlags, kind string, command []string) (*api.DeployPayload, error) {
	p := &api.DeployPayload{Config: api.DeployConfig{
		ReleaseName: f.release, ReleaseID: releaseID(f.release),
		ContainerName: f.container, Ports: f.ports, Volumes: f.volumes, Networks: f.networks,
		RestartPolicy: f.restart, MemoryLimit: f.memory.value, CPULimit: float64(f.cpus), Command: command,
		StopTimeout: f.stopTimeout.value, Start: f.start, Stop: f.stop, Unit: f.unit,
	}}
	if f.keepPrevious {
		p.Config.CleanupPrevious = new(bool)
	}
	var err error
	if p.Config.Environment, err = a.environment(f.env, f.envFiles); err != nil {
		return nil, err
	}
	if p.Config.HealthCheck, err = f.health.check(); err != nil {
		return nil, err
	}
	if p.Hooks.PreDeploy, err = hook(f.preHook, f.hookTimeout.value); err != nil {
		return nil, err
	}
	if p.Hooks.PostDeploy, err = hook(f.postHook, f.hookTimeout.value); err != nil {
		return nil, err
	}
	switch {
	case (kind == "host" || kind == "ssh") && len(command) > 0:
		return nil, wrongUse("give the command by --start", "only a docker target takes a command after --")
	case kind == "compose" && len(command) > 0:
		return nil, wrongUse("give the command in the compose file", "only a docker target takes a command after --")
	case kind != "host" && kind != "ssh":
		return p, nil
	}
	if p.Artifacts, err = a.collect(ctx, c, f.where.many(), f.files, f.scripts, f.unitFiles); err != nil {
		return nil, err
	}
	if len(p.Artifacts) == 0 {
		return nil, wrongUse("give --file PATH, or --script PATH", "a target of kind %s takes files, and there is none", kind)
	}
	if f.unit == "" && len(f.unitFiles) == 1 {
		p.Config.Unit = baseName(f.unitFiles[0])
	}
	return p, nil
}

// releaseID is a release's name where it can be an id too, so that a rollback
// can name it; the server makes an id otherwise.
func releaseID(name string) string {
	for i, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case strings.ContainsRune("_.-", r) && i > 0:
		default:
			return ""
		}
	}
	if len(name) > 128 {
		return ""
	}
	return name
}

func hook(command string, timeout int64) (*api.Hook, error) {
	if command == "" {
		return nil, nil //nolint:nilnil // no hook is none
	}
	words, err := splitWords(command)
	if err != nil {
		return nil, err
	}
	return &api.Hook{Command: words, Timeout: timeout}, nil
}

// resolveImage puts the image and its digest into the payload, and returns the
// login that the agent needs to pull it.
func (a *app) resolveImage(ctx context.Context, f *imageFlags, p *api.DeployPayload) (*api.Credentials, error) {
	login, err := a.registryLogin(f)
	if err != nil {
		return nil, err
	}
	image, digest, tag, err := splitImage(f.image)
	if err != nil {
		return nil, err
	}
	if digest == "" {
		if digest, err = a.lookUpDigest(ctx, image+":"+tag, login); err != nil {
			return nil, err
		}
		a.io.Notef("resolved %s:%s → %s", image, tag, digest)
	}
	p.Image, p.Digest = image, digest
	if login == nil {
		return nil, nil //nolint:nilnil // no login is none
	}
	return &api.Credentials{Registry: login}, nil
}

func baseName(path string) string {
	path = strings.TrimRight(strings.ReplaceAll(path, `\`, "/"), "/")
	return path[strings.LastIndexByte(path, '/')+1:]
}

func (a *app) rollbackCommand() *cobra.Command {
	var run runFlags
	var where scope
	var p api.RollbackPayload
	cmd := &cobra.Command{
		Use:   "rollback TARGET",
		Short: "Go back to what a target ran before",
		Long: `Go back to what a target ran before: to the version before the one that runs,
or to one that is named by its digest (docker) or its release (host, ssh).` + selectHelp,
		Example: `  stella rollback web
  stella rollback --select env=production,label.tier=web`,
		Args:              where.args,
		ValidArgsFunction: a.completeTargets(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if p.TargetDigest != "" && p.ReleaseID != "" {
				return wrongUse("give one of the two", "--digest and --release both name a version")
			}
			if _, digest, ok := strings.Cut(p.TargetDigest, "@"); ok {
				p.TargetDigest = digest
			}
			target, _ := where.split(args)
			req, err := run.request(api.TaskRollback, target, p)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			c, err := a.connect()
			if err != nil {
				return err
			}
			if err := a.find(ctx, c, &where); err != nil {
				return err
			}
			if err := a.agree(&where, "Roll these %d targets back?"); err != nil {
				return err
			}
			return a.run(ctx, c, &run, &where, req)
		},
	}
	flags := cmd.Flags()
	where.add(cmd)
	flags.StringVar(&p.TargetDigest, "digest", "", "docker: the `digest` to go back to, as in sha256:…")
	flags.StringVar(&p.ReleaseID, "release", "", "compose, ssh, host: the `release` to go back to")
	flags.StringVar(&p.ContainerName, "name", "", "docker: the `container`'s name; the target's when left out")
	run.add(cmd)
	return cmd
}
