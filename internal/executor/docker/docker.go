// Package docker deploys to a Docker engine: a version is a container made
// from an image by its digest, and a deployment puts a new container in the
// old one's place.
//
// What belongs to a task is found again by labels, so that after a crash the
// engine says what is there, whatever the journal says. The package knows no
// server and no carrier; it works with engines from 20.10 (API 1.41) on.
package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/docker/engine"
	"stella-ops.org/stella/internal/executor/hook"
)

// Labels that Stella puts on containers.
const (
	LabelReleaseID   = "stella.release.id"
	LabelReleaseName = "stella.release.name"
	LabelDigest      = "stella.digest"
	LabelDeployedAt  = "stella.deployed.at"
	LabelTaskID      = "stella.task.id"
	LabelTargetID    = "stella.target.id"
	// labelHelper marks a container that is never started: it lends its
	// mount of a volume to the archive API.
	labelHelper = "stella.helper"
)

// Options are how the executor reaches the engine; the zero value uses
// DOCKER_HOST or the engine's usual socket.
type Options struct {
	// Host is the engine's address, as in unix:///var/run/docker.sock.
	Host string
}

// Executor serves targets of kind docker.
type Executor struct {
	engines *engine.Engines
}

var _ executor.Executor = (*Executor)(nil)

// New makes the executor; it connects to nothing yet.
func New(o Options) *Executor { return &Executor{engines: engine.New(o.Host)} }

// Close drops the connections to all engines.
func (e *Executor) Close() error { return e.engines.Close() }

// Kind is docker.
func (e *Executor) Kind() string { return "docker" }

// Capabilities are all or none: they are there when the engine answers.
func (e *Executor) Capabilities(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := e.engines.At("")
	if err != nil {
		return nil, err
	}
	if _, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return nil, fmt.Errorf("the Docker engine at %s does not answer: %w", c.DaemonHost(), err)
	}
	return []string{
		"docker.deploy", "docker.rollback", "docker.inspect", "docker.execute",
		"docker.upload", "docker.health-check", "docker.sticker",
	}, nil
}

// Run does a task; see executor.Executor.
func (e *Executor) Run(ctx context.Context, task *api.AgentTask, env executor.Env) *api.TaskResult {
	return deploy.Guard(ctx, task, func() *api.TaskResult {
		started := time.Now()
		res, err := e.run(ctx, task, env)
		if err != nil {
			return deploy.Ended(ctx, task, started, nil, engine.Error(api.ErrInternal, err))
		}
		return res
	})
}

// run returns an error where nothing was begun.
func (e *Executor) run(ctx context.Context, task *api.AgentTask, env executor.Env) (*api.TaskResult, error) {
	t, err := e.target(task, env)
	if err != nil {
		return nil, err
	}
	switch task.Type {
	case api.TaskDeploy:
		p, err := payload[api.DeployPayload](task)
		if err != nil {
			return nil, err
		}
		return t.deploy(ctx, p)
	case api.TaskRollback:
		return t.rollback(ctx)
	case api.TaskHealthCheck:
		return t.healthCheck(ctx)
	case api.TaskInspect:
		return t.inspect(ctx)
	case api.TaskExecuteCommand:
		return t.execute(ctx)
	case api.TaskUploadFiles:
		return t.upload(ctx)
	case api.TaskWriteSticker:
		return t.writeStickerTask(ctx)
	case api.TaskReadSticker:
		return t.readStickerTask(ctx)
	}
	return nil, deploy.Fail(api.ErrUnsupported, "the docker executor does not know the task type %q", task.Type)
}

// Recover ends a task after a crash; see executor.Executor.
func (e *Executor) Recover(ctx context.Context, rec *deploy.Record, env executor.Env) *api.TaskResult {
	return deploy.Guard(ctx, &rec.Task, func() *api.TaskResult {
		if !rec.Committed {
			hook.EndMarked(context.WithoutCancel(ctx), hook.OfTask, rec.Task.ID, 0)
		}
		if len(rec.State) == 0 {
			return deploy.Resume(ctx, rec, &deploy.Plan{}, env.Journal, env.Log)
		}
		t, err := e.target(&rec.Task, env)
		var plan *deploy.Plan
		switch {
		case err != nil:
		case rec.Task.Type == api.TaskUploadFiles:
			s := &uploadState{}
			err = json.Unmarshal(rec.State, s)
			plan = t.uploadPlan(s, nil)
		default:
			s := &state{}
			err = json.Unmarshal(rec.State, s)
			plan = (&deployment{target: t, state: s}).plan()
		}
		if err != nil {
			return deploy.Ended(context.WithoutCancel(ctx), &rec.Task, rec.StartedAt, nil, deploy.Fail(api.ErrRollbackFailed,
				"the agent was restarted during %s and cannot go on (%w): nothing was undone; look at the containers with the label %s=%s, then deploy again",
				rec.Step, err, LabelTaskID, rec.Task.ID))
		}
		return deploy.Resume(ctx, rec, plan, env.Journal, env.Log)
	})
}

// target is one task on one engine.
type target struct {
	task   *api.AgentTask
	env    executor.Env
	engine *client.Client
}

func (e *Executor) target(task *api.AgentTask, env executor.Env) (*target, error) {
	c, err := e.engines.At(task.Target.Config.DockerHost)
	if err != nil {
		return nil, err
	}
	return &target{task: task, env: env, engine: c}, nil
}

// payload reads a task's payload; one that is not there is an empty one.
func payload[P any](task *api.AgentTask) (*P, error) {
	p := new(P)
	if len(task.Payload) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(task.Payload, p); err != nil {
		return nil, deploy.Fail(api.ErrInvalidPayload, "the payload of this %s task cannot be read: %w", task.Type, err)
	}
	return p, nil
}
