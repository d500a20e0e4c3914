// Package compose deploys projects of Docker Compose: a version is a compose
// file with every image pinned to its digest, and the files beside it, and a
// deployment puts them in a folder and has `docker compose up` make the
// containers be as they say.
//
//	<directory>/compose.stella.lock.yml   the compose file
//	<directory>/.stella.env               the release's variables, 0600
//	<directory>/.stella-release.json      what else it takes to start the release again, 0600
//	<directory>/version.json              the version sticker
//	<directory>/.stella-previous/         the previous version's files, where they are kept
//
// While a task runs there are also .stella-new-<task> with what came, and
// .stella-backup with what it replaces. The journal holds only names.
//
// The work is done by the docker program and its compose plugin, from version
// 2 on. What is there is asked of the engine itself, which is many times faster
// than a program that asks. The package knows no server and no carrier.
package compose

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/docker/engine"
	"stella-ops.org/stella/internal/executor/files"
	"stella-ops.org/stella/internal/executor/hook"
)

// Options are how the executor reaches docker; the zero value is right for a
// host where `docker compose` works.
type Options struct {
	// Host is the engine's address, as in unix:///var/run/docker.sock;
	// $DOCKER_HOST or the engine's usual socket when left out.
	Host string
	// Docker is the docker program; docker by default.
	Docker string
	// ConfigDir is docker's own configuration folder, in which a user's
	// plugins and registry logins are; $DOCKER_CONFIG or ~/.docker by default.
	ConfigDir string
}

// Executor serves targets of kind compose.
type Executor struct {
	host, docker, config string
	engines              *engine.Engines
}

var _ executor.Executor = (*Executor)(nil)

// New makes the executor; it starts nothing yet.
func New(o Options) *Executor {
	e := &Executor{host: o.Host, docker: o.Docker, config: o.ConfigDir}
	if e.host == "" {
		e.host = os.Getenv("DOCKER_HOST")
	}
	if e.docker == "" {
		e.docker = "docker"
	}
	if e.config == "" {
		e.config = os.Getenv("DOCKER_CONFIG")
	}
	if e.config == "" {
		if home, err := os.UserHomeDir(); err == nil {
			e.config = filepath.Join(home, ".docker")
		}
	}
	e.engines = engine.New(e.host)
	return e
}

// Close drops the connections to all engines.
func (e *Executor) Close() error { return e.engines.Close() }

// Kind is compose.
func (e *Executor) Kind() string { return "compose" }

// Run does a task; see executor.Executor.
func (e *Executor) Run(ctx context.Context, task *api.AgentTask, env executor.Env) *api.TaskResult {
	return deploy.Guard(ctx, task, func() *api.TaskResult {
		started := time.Now()
		res, err := e.run(ctx, task, env)
		if err != nil {
			return deploy.Ended(ctx, task, started, nil, err)
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
		p, err := payload[api.UploadPayload](task)
		if err != nil {
			return nil, err
		}
		return files.Upload(ctx, task, t.dir, p, env)
	case api.TaskWriteSticker:
		return t.writeStickerTask(ctx)
	case api.TaskReadSticker:
		return t.readStickerTask(ctx)
	}
	return nil, deploy.Fail(api.ErrUnsupported, "the compose executor does not know the task type %q", task.Type)
}

// Recover ends a task after a crash; see executor.Executor.
func (e *Executor) Recover(ctx context.Context, rec *deploy.Record, env executor.Env) *api.TaskResult {
	return deploy.Guard(ctx, &rec.Task, func() *api.TaskResult {
		// A docker compose that a killed agent had started must not work on
		// beside the undoing.
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
			plan, err = files.UploadPlan(rec.State)
		default:
			s := &state{}
			err = json.Unmarshal(rec.State, s)
			plan = (&deployment{target: t, state: s}).plan()
		}
		if err != nil {
			return deploy.Ended(context.WithoutCancel(ctx), &rec.Task, rec.StartedAt, nil, deploy.Fail(api.ErrRollbackFailed,
				"the agent was restarted during %s and cannot go on (%w): nothing was undone; look at the target's folder and its containers, then deploy again",
				rec.Step, err))
		}
		return deploy.Resume(ctx, rec, plan, env.Journal, env.Log)
	})
}

// target is one task on one project.
type target struct {
	*Executor
	task *api.AgentTask
	env  executor.Env
	// engine is the engine's address, empty for the usual socket.
	engine string
	// dir is the target's folder, and project the name of its project.
	dir, project string
	stickerPath  string
}

var projectPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

func (e *Executor) target(task *api.AgentTask, env executor.Env) (*target, error) {
	c := &task.Target.Config
	t := &target{Executor: e, task: task, env: env, engine: e.host, project: c.Project}
	if c.DockerHost != "" {
		t.engine = c.DockerHost
	}
	if c.Directory == "" || !filepath.IsAbs(c.Directory) ||
		filepath.Clean(c.Directory) == filepath.VolumeName(c.Directory)+string(filepath.Separator) {
		return nil, invalid("config.directory of target %s is %q; it must be an absolute folder that is the target's own", task.Target.Name, c.Directory)
	}
	t.dir = filepath.Clean(c.Directory)
	if t.project == "" {
		t.project = projectName(task.Target.Name)
	}
	if !projectPattern.MatchString(t.project) {
		return nil, invalid("%q cannot name a compose project; set config.project of target %s to lower-case letters, digits, _ and -", t.project, task.Target.Name)
	}
	t.stickerPath = filepath.Join(t.dir, stickerName)
	if c.StickerPath != "" {
		if !filepath.IsAbs(c.StickerPath) {
			return nil, invalid("config.stickerPath of target %s is %q; it must be absolute", task.Target.Name, c.StickerPath)
		}
		t.stickerPath = filepath.Clean(c.StickerPath)
	}
	return t, nil
}

// projectName makes a project's name of a target's: lower-cased, with - for
// all that a project's name cannot have.
func projectName(target string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(target))
	return strings.TrimLeft(name, "-_")
}

func invalid(format string, args ...any) error {
	return deploy.Fail(api.ErrInvalidPayload, format, args...)
}

// payload reads a task's payload; one that is not there is an empty one.
func payload[P any](task *api.AgentTask) (*P, error) {
	p := new(P)
	if len(task.Payload) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(task.Payload, p); err != nil {
		return nil, invalid("the payload of this %s task cannot be read: %w", task.Type, err)
	}
	return p, nil
}
