package host

import (
	"context"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/files"
	"stella-ops.org/stella/internal/executor/healthcheck"
	"stella-ops.org/stella/internal/executor/hook"
	"stella-ops.org/stella/internal/executor/sticker"
)

// healthCheck tries the given health check, or the current release's own.
func (e *Executor) healthCheck(ctx context.Context, task *api.AgentTask, env executor.Env) (*api.TaskResult, error) {
	started := time.Now()
	p, err := payload[api.HealthCheckPayload](task)
	if err != nil {
		return nil, err
	}
	if err := healthcheck.Validate(p.HealthCheck, "http", "tcp", "command"); err != nil {
		return nil, err
	}
	d, err := e.prepare(task, env)
	if err != nil {
		return nil, err
	}
	r := &release{}
	if d.state.Old != "" {
		if r, err = d.tree().read(d.state.Old); err != nil {
			return nil, err
		}
	} else if p.HealthCheck == nil {
		return nil, deploy.Fail(api.ErrHealthCheckFailed, "no release is current in %s; deploy one first", d.state.Directory)
	}
	if p.HealthCheck != nil {
		r.HealthCheck = p.HealthCheck
	}
	hc, probe := d.probe(r)
	if probe == nil {
		return nil, deploy.Fail(api.ErrInvalidPayload, "release %s was deployed without a health check; name one in the task", r.ReleaseID)
	}
	err = healthcheck.Wait(ctx, hc, probe)
	outputs := map[string]any{"healthy": err == nil, "releaseId": r.ReleaseID}
	res := deploy.Ended(ctx, task, started, outputs, err)
	res.Metrics.HealthCheckDurationMs = time.Since(started).Milliseconds()
	return res, nil
}

// inspect says what is there.
func (e *Executor) inspect(ctx context.Context, task *api.AgentTask) (*api.TaskResult, error) {
	started := time.Now()
	d, err := e.prepare(task, executor.Env{})
	if err != nil {
		return nil, err
	}
	all, err := d.tree().releases()
	if err != nil {
		return nil, err
	}
	outputs := map[string]any{"directory": d.state.Directory, "running": false}
	list := make([]map[string]any, 0, len(all))
	for _, r := range all {
		entry := map[string]any{
			"releaseId": r.ReleaseID, "releaseName": r.ReleaseName, "directory": d.tree().release(r.Folder),
			"deployedAt": r.DeployedAt, "taskId": r.TaskID, "current": r.Folder == d.state.Old,
		}
		list = append(list, entry)
		if r.Folder != d.state.Old {
			continue
		}
		outputs["running"] = true
		outputs["releaseId"], outputs["releaseName"] = r.ReleaseID, r.ReleaseName
		outputs["deployedAt"] = r.DeployedAt
		if r.Unit != "" {
			outputs["unit"] = r.Unit
		}
	}
	outputs["releases"] = list
	former, err := sticker.Load(d.state.StickerPath)
	if err != nil {
		return nil, err
	}
	if former.Existed {
		if s, err := sticker.Decode(former.Data); err == nil {
			outputs["sticker"] = s
		}
	}
	return deploy.Ended(ctx, task, started, outputs, nil), nil
}

// execute runs a program on the host.
func (e *Executor) execute(ctx context.Context, task *api.AgentTask, env executor.Env) (*api.TaskResult, error) {
	p, err := payload[api.CommandPayload](task)
	if err != nil {
		return nil, err
	}
	if len(p.Command) == 0 || p.Command[0] == "" {
		return nil, deploy.Fail(api.ErrInvalidPayload, "command is empty; name the program and its arguments")
	}
	if p.User != "" {
		return nil, deploy.Fail(api.ErrUnsupported, "a command on a host runs as the agent's own user; leave user out")
	}
	dir := p.WorkingDir
	if dir == "" && task.Target.Config.Directory != "" {
		base, err := directory(task)
		if err != nil {
			return nil, err
		}
		for _, candidate := range []string{tree(base).path(currentLink), base} {
			if dir == "" && exists(candidate) {
				dir = candidate
			}
		}
	}
	return deploy.Once(ctx, task, "execute", env.Journal, func() (map[string]any, error) {
		mark := map[string]string{hook.OfTask: task.ID}
		res, err := hook.Run(ctx, hook.Command{Argv: p.Command, Dir: dir, Env: hook.Environ(p.Environment, mark)}, env.Log)
		if err != nil {
			return nil, deploy.Fail(api.ErrCommandFailed, "%w", err)
		}
		outputs := map[string]any{"exitCode": res.ExitCode}
		if res.ExitCode != 0 {
			return outputs, deploy.Fail(api.ErrCommandFailed, "%s ended with exit code %d; its output is in the log", p.Command[0], res.ExitCode)
		}
		return outputs, nil
	}), nil
}

// writeSticker writes a given sticker.
func (e *Executor) writeSticker(ctx context.Context, task *api.AgentTask, env executor.Env) (*api.TaskResult, error) {
	p, err := payload[api.StickerPayload](task)
	if err != nil {
		return nil, err
	}
	d, err := e.prepare(task, env)
	if err != nil {
		return nil, err
	}
	if p.Sticker.TaskID == "" {
		p.Sticker.TaskID = task.ID
	}
	d.state.Sticker = p.Sticker
	former, err := sticker.Load(d.state.StickerPath)
	if err != nil {
		return nil, err
	}
	d.state.Former = &former
	return deploy.Run(ctx, task, d.plan(), env.Journal, env.Log), nil
}

// readSticker returns the sticker that is there.
func (e *Executor) readSticker(ctx context.Context, task *api.AgentTask) (*api.TaskResult, error) {
	started := time.Now()
	d, err := e.prepare(task, executor.Env{})
	if err != nil {
		return nil, err
	}
	former, err := sticker.Load(d.state.StickerPath)
	if err != nil {
		return nil, err
	}
	outputs := map[string]any{"found": former.Existed, "path": d.state.StickerPath}
	if former.Existed {
		s, err := sticker.Decode(former.Data)
		if err != nil {
			return nil, deploy.Fail(api.ErrInternal, "%s: %w", d.state.StickerPath, err)
		}
		outputs["sticker"] = s
	}
	return deploy.Ended(ctx, task, started, outputs, nil), nil
}

// upload puts files into the target's folder.
func (e *Executor) upload(ctx context.Context, task *api.AgentTask, env executor.Env) (*api.TaskResult, error) {
	p, err := payload[api.UploadPayload](task)
	if err != nil {
		return nil, err
	}
	dir, err := directory(task)
	if err != nil {
		return nil, err
	}
	return files.Upload(ctx, task, dir, p, env)
}
