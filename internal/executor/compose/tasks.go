package compose

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/composefile"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/healthcheck"
	"stella-ops.org/stella/internal/executor/sticker"
)

// current is the release that the target's folder has; an error of the given
// type when it has none.
func (t *target) current(errType string) (*release, error) {
	r, err := readRelease(t.dir)
	if err == nil && r == nil {
		err = deploy.Fail(errType, "no release is in %s; deploy one first", t.dir)
	}
	return r, err
}

// healthCheck tries the given health check, or the release's own, and looks at
// the services in any case.
func (t *target) healthCheck(ctx context.Context) (*api.TaskResult, error) {
	started := time.Now()
	p, err := payload[api.HealthCheckPayload](t.task)
	if err != nil {
		return nil, err
	}
	if err := healthcheck.Validate(p.HealthCheck, healthTypes...); err != nil {
		return nil, err
	}
	r, err := t.current(api.ErrHealthCheckFailed)
	if err != nil {
		return nil, err
	}
	hc := r.HealthCheck
	if p.HealthCheck != nil {
		hc = p.HealthCheck
	}
	_, err = t.wait(ctx, &r.model, hc)
	if err != nil && ctx.Err() == nil {
		err = (&deployment{target: t, state: &state{New: &r.model}}).explain(ctx, err)
	}
	outputs := map[string]any{"healthy": err == nil, "releaseId": r.ReleaseID, "project": t.project}
	res := deploy.Ended(ctx, t.task, started, outputs, err)
	res.Metrics.HealthCheckDurationMs = time.Since(started).Milliseconds()
	return res, nil
}

// inspect says what really runs.
func (t *target) inspect(ctx context.Context) (*api.TaskResult, error) {
	started := time.Now()
	all, err := t.containers(ctx)
	if err != nil {
		return nil, err
	}
	outputs := map[string]any{"project": t.project, "directory": t.dir, "running": false}
	r, err := readRelease(t.dir)
	if err != nil {
		return nil, err
	}
	m := &model{}
	if r != nil {
		m = &r.model
		outputs["releaseId"], outputs["releaseName"], outputs["deployedAt"] = r.ReleaseID, r.ReleaseName, r.DeployedAt
	}
	outputs["running"] = slices.ContainsFunc(all, func(c container) bool { return c.State.Running })
	outputs["services"], outputs["differences"] = describe(m, all)
	former, err := sticker.Load(t.stickerPath)
	if err != nil {
		return nil, err
	}
	if s, err := sticker.Decode(former.Data); err == nil && former.Existed {
		outputs["sticker"] = s
	}
	return deploy.Ended(ctx, t.task, started, outputs, nil), nil
}

// describe says of each service what there is, and whether that is what the
// lock file says; and in words what is not as it was deployed.
func describe(m *model, all []container) (services []map[string]any, differences []string) {
	if len(m.Services) > 0 {
		for _, f := range judge(m, all) {
			differences = append(differences, f.Error())
		}
	}
	names := map[string]bool{}
	for _, s := range m.Services {
		names[s.Name] = true
	}
	for i := range all {
		names[all[i].service()] = true
	}
	services = make([]map[string]any, 0, len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		entry := map[string]any{"service": name, "state": "missing", "containers": []string{}}
		locked := m.find(name)
		if locked != nil {
			entry["image"] = locked.Image
			_, entry["digest"], _ = composefile.Pinned(locked.Image)
		}
		var containers []string
		differs := locked == nil
		for i := range all {
			c := &all[i]
			if c.service() != name {
				continue
			}
			containers = append(containers, c.name())
			differs = differs || c.Config.Image != locked.Image
			entry["containers"], entry["image"], entry["state"] = containers, c.Config.Image, c.State.Status
			_, entry["digest"], _ = composefile.Pinned(c.Config.Image)
			if c.State.Health != nil {
				entry["health"] = c.State.Health.Status
			}
			if !c.State.Running {
				entry["exitCode"] = c.State.ExitCode
			}
		}
		entry["differs"] = differs
		if differs && len(m.Services) > 0 {
			differences = append(differences, fmt.Sprintf("the service %s runs %v, which is not in the lock file", name, entry["image"]))
		}
		services = append(services, entry)
	}
	return services, differences
}

// execute runs a command in a container of a service.
func (t *target) execute(ctx context.Context) (*api.TaskResult, error) {
	p, err := payload[api.CommandPayload](t.task)
	if err != nil {
		return nil, err
	}
	if len(p.Command) == 0 || p.Command[0] == "" {
		return nil, invalid("command is empty; name the program and its arguments")
	}
	r, err := t.current(api.ErrCommandFailed)
	if err != nil {
		return nil, err
	}
	name, err := r.serviceFor(p.ContainerName)
	if err != nil {
		return nil, err
	}
	all, err := t.containers(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(all, func(c container) bool { return c.service() == name && c.State.Running }) {
		return nil, deploy.Fail(api.ErrCommandFailed, "the service %s does not run; deploy or start it first", name)
	}
	args := t.composeArgs(&r.model, t.dir, "exec", "-T")
	if p.User != "" {
		args = append(args, "--user", p.User)
	}
	if p.WorkingDir != "" {
		args = append(args, "--workdir", p.WorkingDir)
	}
	var env []string
	for _, variable := range slices.Sorted(maps.Keys(p.Environment)) {
		if variable == "" || strings.ContainsAny(variable, "=\x00") || taken(variable) {
			return nil, invalid("the variable %q cannot be given to a command by docker; call it otherwise", variable)
		}
		// By its name alone: a value in the arguments could be seen by all.
		args = append(args, "--env", variable)
		env = append(env, variable+"="+p.Environment[variable])
	}
	args = append(append(args, name), p.Command...)
	return deploy.Once(ctx, t.task, "execute", t.env.Journal, func() (map[string]any, error) {
		res, err := t.run(ctx, call{args: args, env: env})
		if ctx.Err() != nil {
			t.env.Log.Line("system", "the engine cannot end a command: it goes on in the container until it ends by itself")
		}
		if err != nil {
			return nil, deploy.Fail(api.ErrCommandFailed, "%w", err)
		}
		outputs := map[string]any{"exitCode": res.ExitCode}
		if res.ExitCode != 0 {
			return outputs, deploy.Fail(api.ErrCommandFailed, "%s ended with exit code %d in the service %s; its output is in the log", p.Command[0], res.ExitCode, name)
		}
		return outputs, nil
	}), nil
}

// serviceFor is the service that a command is for: the one that is named, or
// the only one.
func (r *release) serviceFor(name string) (string, error) {
	names := make([]string, len(r.Services))
	for i, s := range r.Services {
		names[i] = s.Name
	}
	switch {
	case name == "" && len(names) == 1:
		return names[0], nil
	case name == "":
		return "", invalid("the project has %d services; say by containerName in which one: %s", len(names), strings.Join(names, ", "))
	case !slices.Contains(names, name):
		return "", invalid("the project has no service %q; it has %s", name, strings.Join(names, ", "))
	}
	return name, nil
}

// writeStickerTask writes a given sticker.
func (t *target) writeStickerTask(ctx context.Context) (*api.TaskResult, error) {
	p, err := payload[api.StickerPayload](t.task)
	if err != nil {
		return nil, err
	}
	if p.Sticker.TaskID == "" {
		p.Sticker.TaskID = t.task.ID
	}
	d := &deployment{target: t, state: &state{StickerPath: t.stickerPath, Sticker: p.Sticker}}
	if err := d.loadSticker(); err != nil {
		return nil, err
	}
	return d.begin(ctx)
}

// readStickerTask returns the sticker that is there.
func (t *target) readStickerTask(ctx context.Context) (*api.TaskResult, error) {
	started := time.Now()
	former, err := sticker.Load(t.stickerPath)
	if err != nil {
		return nil, err
	}
	outputs := map[string]any{"found": former.Existed, "path": t.stickerPath}
	if former.Existed {
		s, err := sticker.Decode(former.Data)
		if err != nil {
			return nil, deploy.Fail(api.ErrInternal, "%s: %w", t.stickerPath, err)
		}
		outputs["sticker"] = s
	}
	return deploy.Ended(ctx, t.task, started, outputs, nil), nil
}
