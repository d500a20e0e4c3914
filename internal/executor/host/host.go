// Package host deploys to the agent's own host, without containers: a release
// is a folder of files, current is a link to the release that runs, and a
// deployment moves that link.
//
//	<directory>/releases/<release id>/   the release's files
//	<directory>/current -> releases/<release id>
//	<directory>/version.json             the version sticker
//
// A release keeps what it takes to stop and start it again (its commands and
// its environment, which may hold secrets) in .stella-release.json, 0600, in
// its own folder; the journal holds only names of folders.
//
// The package knows no server, no carrier and no container.
package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/files"
	"stella-ops.org/stella/internal/executor/hook"
)

// Options are where the executor finds systemd; the zero value is right for
// any host.
type Options struct {
	// UnitDir is where units are installed; /etc/systemd/system by default.
	UnitDir string
	// Systemctl is the program to call; systemctl by default.
	Systemctl string
}

// Executor serves targets of kind host.
type Executor struct {
	unitDir   string
	systemctl string
}

var _ executor.Executor = (*Executor)(nil)

// New makes the executor.
func New(o Options) *Executor {
	e := &Executor{unitDir: o.UnitDir, systemctl: o.Systemctl}
	if e.unitDir == "" {
		e.unitDir = "/etc/systemd/system"
	}
	if e.systemctl == "" {
		e.systemctl = "systemctl"
	}
	return e
}

// Kind is host.
func (e *Executor) Kind() string { return "host" }

// Capabilities are those that need no more than files and programs, and the
// deployment's where there are links and a shell.
func (e *Executor) Capabilities(context.Context) ([]string, error) {
	names := []string{"host.inspect", "host.execute", "host.upload", "host.health-check", "host.sticker"}
	if err := deployable(); err != nil {
		return names, err
	}
	return append([]string{"host.deploy", "host.rollback"}, names...), nil
}

func deployable() error {
	if runtime.GOOS == "windows" {
		return errors.New("host.deploy needs symbolic links and a POSIX shell, which Windows does not have")
	}
	if _, err := exec.LookPath("sh"); err != nil {
		return fmt.Errorf("host.deploy needs sh on the PATH: %w", err)
	}
	return nil
}

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
	switch task.Type {
	case api.TaskDeploy:
		return e.deploy(ctx, task, env)
	case api.TaskRollback:
		return e.rollback(ctx, task, env)
	case api.TaskHealthCheck:
		return e.healthCheck(ctx, task, env)
	case api.TaskInspect:
		return e.inspect(ctx, task)
	case api.TaskExecuteCommand:
		return e.execute(ctx, task, env)
	case api.TaskUploadFiles:
		return e.upload(ctx, task, env)
	case api.TaskWriteSticker:
		return e.writeSticker(ctx, task, env)
	case api.TaskReadSticker:
		return e.readSticker(ctx, task)
	}
	return nil, deploy.Fail(api.ErrUnsupported, "the host executor does not know the task type %q", task.Type)
}

// Recover ends a task after a crash; see executor.Executor.
func (e *Executor) Recover(ctx context.Context, rec *deploy.Record, env executor.Env) *api.TaskResult {
	return deploy.Guard(ctx, &rec.Task, func() *api.TaskResult {
		// What a killed agent had started lives on; a hook or a command must
		// not work on beside the undoing, or beside the next try.
		if !rec.Committed {
			hook.EndMarked(context.WithoutCancel(ctx), hook.OfTask, rec.Task.ID, 0)
		}
		plan := &deploy.Plan{}
		switch {
		case len(rec.State) == 0:
		case rec.Task.Type == api.TaskUploadFiles:
			var err error
			if plan, err = files.UploadPlan(rec.State); err != nil {
				return unreadable(ctx, rec, err)
			}
		default:
			var s state
			if err := json.Unmarshal(rec.State, &s); err != nil {
				return unreadable(ctx, rec, err)
			}
			d := &deployment{Executor: e, task: &rec.Task, env: env, state: &s}
			plan = d.plan()
		}
		return deploy.Resume(ctx, rec, plan, env.Journal, env.Log)
	})
}

func unreadable(ctx context.Context, rec *deploy.Record, err error) *api.TaskResult {
	return deploy.Ended(context.WithoutCancel(ctx), &rec.Task, rec.StartedAt, nil, deploy.Fail(api.ErrRollbackFailed,
		"the agent was restarted during %s, and its journal cannot be read (%w): nothing was undone; look at the target, then deploy again", rec.Step, err))
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

// directory is the target's folder.
func directory(task *api.AgentTask) (string, error) {
	dir := task.Target.Config.Directory
	if dir == "" || !filepath.IsAbs(dir) || filepath.Clean(dir) == filepath.VolumeName(dir)+string(filepath.Separator) {
		return "", deploy.Fail(api.ErrInvalidPayload,
			"config.directory of target %s is %q; it must be an absolute folder that is the target's own", task.Target.Name, dir)
	}
	return filepath.Clean(dir), nil
}

func stickerPath(task *api.AgentTask, dir string) (string, error) {
	path := task.Target.Config.StickerPath
	if path == "" {
		return filepath.Join(dir, "version.json"), nil
	}
	if !filepath.IsAbs(path) {
		return "", deploy.Fail(api.ErrInvalidPayload, "config.stickerPath of target %s is %q; it must be absolute", task.Target.Name, path)
	}
	return filepath.Clean(path), nil
}
