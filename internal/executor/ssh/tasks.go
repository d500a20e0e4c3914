package ssh

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/healthcheck"
	"stella-ops.org/stella/internal/executor/hook"
	"stella-ops.org/stella/internal/executor/sticker"
)

// healthCheck tries the given health check, or the release's own.
func (e *Executor) healthCheck(ctx context.Context, task *api.AgentTask, _ executor.Env, r *remote) (*api.TaskResult, error) {
	started := time.Now()
	p, err := payload[api.HealthCheckPayload](task)
	if err != nil {
		return nil, err
	}
	if err := healthcheck.Validate(p.HealthCheck, "http", "tcp", "command"); err != nil {
		return nil, err
	}
	_, seen, err := r.prepare(ctx)
	if err != nil {
		return nil, err
	}
	rel, hc := seen.current, p.HealthCheck
	if rel == nil && hc == nil {
		return nil, deploy.Fail(api.ErrHealthCheckFailed, "no release is in %s on %s; deploy one first", r.dir, r.config.Host)
	}
	if rel == nil {
		rel = &release{}
	}
	if hc == nil {
		hc = rel.HealthCheck
	}
	if hc == nil {
		return nil, deploy.Fail(api.ErrInvalidPayload, "release %s was deployed without a health check; name one in the task", rel.ReleaseID)
	}
	err = healthcheck.Wait(ctx, hc, r.probe(hc, rel))
	outputs := map[string]any{"healthy": err == nil, "releaseId": rel.ReleaseID}
	res := deploy.Ended(ctx, task, started, outputs, err)
	res.Metrics.HealthCheckDurationMs = time.Since(started).Milliseconds()
	return res, nil
}

// inspect says what is there, and which files are not as they were deployed.
func (e *Executor) inspect(ctx context.Context, task *api.AgentTask, _ executor.Env, r *remote) (*api.TaskResult, error) {
	started := time.Now()
	path, err := stickerPath(task, r.dir)
	if err != nil {
		return nil, err
	}
	seen, err := r.see(ctx, path, "")
	if err != nil {
		return nil, err
	}
	outputs := map[string]any{"reachable": true, "directory": r.dir, "running": false}
	if seen.sticker.Existed {
		if s, err := sticker.Decode(seen.sticker.Data); err == nil {
			outputs["sticker"] = s
		}
	}
	if seen.previous != nil {
		outputs["previousRelease"] = seen.previous.ReleaseID
	}
	if rel := seen.current; rel != nil {
		outputs["releaseId"], outputs["releaseName"] = rel.ReleaseID, rel.ReleaseName
		outputs["deployedAt"], outputs["taskId"] = rel.DeployedAt, rel.TaskID
		changed, processes, left, err := r.compare(ctx, rel)
		if err != nil {
			return nil, err
		}
		// A start command that handed the release to something else, as to
		// systemd, has left no processes that could be counted.
		outputs["running"] = processes > 0 || !left
		outputs["processes"], outputs["changed"] = processes, changed
		differences := make([]string, len(changed))
		for i, name := range changed {
			differences[i] = fmt.Sprintf("the file %q was changed or removed since it was deployed", name)
		}
		outputs["differences"] = differences
	}
	return deploy.Ended(ctx, task, started, outputs, nil), nil
}

// compare looks which of a release's files have changed or are gone, and how
// many of its processes run; left says that there were some when it was started.
func (r *remote) compare(ctx context.Context, rel *release) (changed []string, processes int, left bool, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "set -- $(marked %s)\nvalue processes $#\n[ ! -e %s ] || value left yes\n", quote(mark(hook.OfRelease, rel.TaskID)), startedFile)
	b.WriteString("command -v sha256sum >/dev/null || die \"sha256sum is missing there: drift cannot be seen\"\n")
	for i := range rel.Files {
		fmt.Fprintf(&b, "s=$(sha256sum <%s) && value %d \"${s%%%% *}\"\n", quote("./"+rel.Files[i].Name), i)
	}
	found, err := r.script(ctx, b.String()+":\n")
	if err != nil {
		return nil, 0, false, err
	}
	changed = []string{}
	for i := range rel.Files {
		if found.values[strconv.Itoa(i)] != rel.Files[i].SHA256 {
			changed = append(changed, rel.Files[i].Name)
		}
	}
	processes, _ = strconv.Atoi(found.values["processes"])
	return changed, processes, found.values["left"] != "", nil
}

// execute runs a program on the host, in the target's folder if that is there.
func (e *Executor) execute(ctx context.Context, task *api.AgentTask, env executor.Env, r *remote) (*api.TaskResult, error) {
	p, err := payload[api.CommandPayload](task)
	if err != nil {
		return nil, err
	}
	if len(p.Command) == 0 || p.Command[0] == "" {
		return nil, deploy.Fail(api.ErrInvalidPayload, "command is empty; name the program and its arguments")
	}
	if p.User != "" && !r.config.Sudo {
		return nil, deploy.Fail(api.ErrUnsupported, "a command runs as the user that logs in, %s; another user needs a target that uses sudo", r.config.Username)
	}
	if err := checkEnvironment("environment", p.Environment); err != nil {
		return nil, err
	}
	found, err := r.anywhere(ctx, "[ ! -d \"$dir\" ] || value there yes\n")
	if err != nil {
		return nil, err
	}
	dir := p.WorkingDir
	if dir == "" && found.values["there"] != "" {
		dir = r.dir
	}
	return deploy.Once(ctx, task, "execute", env.Journal, func() (map[string]any, error) {
		res, err := r.run(ctx, program{argv: p.Command, dir: dir, env: p.Environment, user: p.User})
		switch {
		case err != nil && isAway(err):
			// It may have run: whoever repeats it must look first.
			return nil, deploy.Fail(api.ErrTargetUnreachable, "%w; the command may have run, and may still do: look before you run it again", err)
		case err != nil:
			return nil, deploy.Fail(api.ErrCommandFailed, "%w", err)
		}
		outputs := map[string]any{"exitCode": res.code}
		if res.signal != "" {
			outputs["signal"] = res.signal
		}
		if res.code != 0 {
			return outputs, deploy.Fail(api.ErrCommandFailed, "%s %s; its output is in the log", p.Command[0], res.exit)
		}
		return outputs, nil
	}), nil
}

// writeSticker writes a given sticker.
func (e *Executor) writeSticker(ctx context.Context, task *api.AgentTask, env executor.Env, r *remote) (*api.TaskResult, error) {
	p, err := payload[api.StickerPayload](task)
	if err != nil {
		return nil, err
	}
	d, seen, err := r.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if p.Sticker.TaskID == "" {
		p.Sticker.TaskID = task.ID
	}
	d.state.Sticker, d.state.Former = p.Sticker, &seen.sticker
	return deploy.Run(ctx, task, d.plan(), env.Journal, env.Log), nil
}

// readSticker returns the sticker that is there.
func (e *Executor) readSticker(ctx context.Context, task *api.AgentTask, _ executor.Env, r *remote) (*api.TaskResult, error) {
	started := time.Now()
	d, seen, err := r.prepare(ctx)
	if err != nil {
		return nil, err
	}
	outputs := map[string]any{"found": seen.sticker.Existed, "path": d.state.StickerPath}
	if seen.sticker.Existed {
		s, err := sticker.Decode(seen.sticker.Data)
		if err != nil {
			return nil, deploy.Fail(api.ErrInternal, "%s on %s: %w", d.state.StickerPath, r.config.Host, err)
		}
		outputs["sticker"] = s
	}
	return deploy.Ended(ctx, task, started, outputs, nil), nil
}
