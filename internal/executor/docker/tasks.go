package docker

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/docker/engine"
	"stella-ops.org/stella/internal/executor/healthcheck"
	"stella-ops.org/stella/internal/executor/hook"
	"stella-ops.org/stella/internal/executor/sticker"
)

// healthCheck tries the given health check, or the container's own.
func (t *target) healthCheck(ctx context.Context) (*api.TaskResult, error) {
	started := time.Now()
	p, err := payload[api.HealthCheckPayload](t.task)
	if err != nil {
		return nil, err
	}
	if err := healthcheck.Validate(p.HealthCheck, "http", "tcp", "command", "docker"); err != nil {
		return nil, err
	}
	name, err := t.containerName(p.ContainerName)
	if err != nil {
		return nil, err
	}
	c, err := t.named(ctx, name)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, deploy.Fail(api.ErrHealthCheckFailed, "there is no container %s; deploy one first", name)
	}
	err = t.wait(ctx, c.ID, p.HealthCheck)
	outputs := map[string]any{"healthy": err == nil, "containerId": c.ID}
	if err != nil {
		outputs["containerLogs"] = t.lastLines(context.WithoutCancel(ctx), c.ID)
	}
	res := deploy.Ended(ctx, t.task, started, outputs, err)
	res.Metrics.HealthCheckDurationMs = time.Since(started).Milliseconds()
	return res, nil
}

// inspect says what really runs.
func (t *target) inspect(ctx context.Context) (*api.TaskResult, error) {
	started := time.Now()
	p, err := payload[api.InspectPayload](t.task)
	if err != nil {
		return nil, err
	}
	name, err := t.containerName(p.ContainerName)
	if err != nil {
		return nil, err
	}
	outputs := map[string]any{"containerName": name, "running": false}
	c, err := t.named(ctx, name)
	if err != nil {
		return nil, err
	}
	helper := ""
	if c != nil {
		helper = c.Image
		digest := digestOf(c.Config.Image)
		if digest == "" {
			digest = c.Config.Labels[LabelDigest]
		}
		outputs["running"], outputs["state"] = c.State.Running, string(c.State.Status)
		outputs["containerId"], outputs["image"], outputs["imageId"] = c.ID, c.Config.Image, c.Image
		outputs["digest"], outputs["startedAt"] = digest, c.State.StartedAt
		outputs["restartCount"], outputs["exitCode"] = c.RestartCount, c.State.ExitCode
		outputs["labels"], outputs["ports"] = c.Config.Labels, t.ports(c.NetworkSettings.Ports)
		outputs["releaseId"], outputs["releaseName"] = c.Config.Labels[LabelReleaseID], c.Config.Labels[LabelReleaseName]
		if c.State.Health != nil {
			outputs["health"] = string(c.State.Health.Status)
		}
	}
	kept, err := t.kept(ctx, name)
	if err != nil {
		return nil, err
	}
	previous := make([]string, len(kept))
	for i, k := range kept {
		previous[i] = k.name
	}
	outputs["previousContainers"] = previous
	place, err := t.stickerPlace()
	if err != nil {
		return nil, err
	}
	if place.Volume == "" || helper != "" {
		former, err := t.readPlace(ctx, place, helper)
		if err != nil {
			return nil, err
		}
		if s, err := sticker.Decode(former.Data); err == nil && former.Existed {
			outputs["sticker"] = s
		}
	}
	return deploy.Ended(ctx, t.task, started, outputs, nil), nil
}

func comparePorts(a, b network.Port) int {
	return cmp.Or(cmp.Compare(a.Num(), b.Num()), cmp.Compare(a.Proto(), b.Proto()))
}

func (t *target) ports(m network.PortMap) []string {
	var all []string
	for _, port := range slices.SortedFunc(maps.Keys(m), comparePorts) {
		for _, b := range m[port] {
			all = append(all, fmt.Sprintf("%s:%s:%s", b.HostIP, b.HostPort, port))
		}
		if len(m[port]) == 0 {
			all = append(all, port.String())
		}
	}
	return all
}

// execute runs a command in the container.
func (t *target) execute(ctx context.Context) (*api.TaskResult, error) {
	p, err := payload[api.CommandPayload](t.task)
	if err != nil {
		return nil, err
	}
	if len(p.Command) == 0 || p.Command[0] == "" {
		return nil, invalid("command is empty; name the program and its arguments")
	}
	name, err := t.containerName(p.ContainerName)
	if err != nil {
		return nil, err
	}
	c, err := t.named(ctx, name)
	if err != nil {
		return nil, err
	}
	if c == nil || !c.State.Running {
		return nil, deploy.Fail(api.ErrCommandFailed, "the container %s does not run; deploy or start it first", name)
	}
	env := make([]string, 0, len(p.Environment))
	for _, variable := range slices.Sorted(maps.Keys(p.Environment)) {
		env = append(env, variable+"="+p.Environment[variable])
	}
	return deploy.Once(ctx, t.task, "execute", t.env.Journal, func() (map[string]any, error) {
		stdout, stderr := hook.NewLines(t.env.Log, "stdout"), hook.NewLines(t.env.Log, "stderr")
		defer stdout.Close()
		defer stderr.Close()
		code, err := t.exec(ctx, c.ID, client.ExecCreateOptions{
			Cmd: p.Command, Env: env, WorkingDir: p.WorkingDir, User: p.User,
		}, stdout, stderr)
		if ctx.Err() != nil {
			t.env.Log.Line("system", "the engine cannot end a command: it goes on in the container until it ends by itself")
		}
		if err != nil {
			return nil, engine.Error(api.ErrCommandFailed, err)
		}
		outputs := map[string]any{"exitCode": code}
		if code != 0 {
			return outputs, deploy.Fail(api.ErrCommandFailed, "%s ended with exit code %d in the container %s; its output is in the log", p.Command[0], code, name)
		}
		return outputs, nil
	}), nil
}

// exec runs a command in a container and returns its exit code.
func (t *target) exec(ctx context.Context, id string, o client.ExecCreateOptions, stdout, stderr io.Writer) (int, error) {
	o.AttachStdout, o.AttachStderr = true, true
	made, err := t.engine.ExecCreate(ctx, id, o)
	if err != nil {
		return 0, fmt.Errorf("run %s in the container: %w", o.Cmd[0], err)
	}
	stream, err := t.engine.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return 0, fmt.Errorf("run %s in the container: %w", o.Cmd[0], err)
	}
	defer stream.Close()
	// The connection is not bound to the context once it is made.
	unbind := context.AfterFunc(ctx, func() { stream.Close() })
	defer unbind()
	if _, err := stdcopy.StdCopy(stdout, stderr, stream.Reader); err != nil && ctx.Err() == nil {
		return 0, fmt.Errorf("read the output of %s: %w", o.Cmd[0], err)
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	res, err := t.engine.ExecInspect(ctx, made.ID, client.ExecInspectOptions{})
	if err != nil {
		return 0, fmt.Errorf("ask for the exit code of %s: %w", o.Cmd[0], err)
	}
	return res.ExitCode, nil
}
