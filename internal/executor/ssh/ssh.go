// Package ssh deploys to remote hosts over SSH, without an agent on them: a
// target is a folder on a host that has a POSIX shell and coreutils or busybox.
//
//	<directory>/…                       the release's files
//	<directory>/version.json            the version sticker
//	<directory>/.stella-release.json    what the release is, 0600: it may hold secrets
//	<directory>/.stella-new-<task>/     what is being deployed, until it is in place
//	<directory>/.stella-backup/         what was there, while a deployment runs
//	<directory>/.stella-switching       the task that is changing the files above
//	<directory>/.stella-previous/       the version before, when it is kept
//
// A task has one connection, through all jump hosts. Files go up by SFTP; all
// else is done by short scripts that a shell reads from its stdin, so that
// nothing is ever quoted into a command line and nothing secret is in one.
//
// The package knows no server, no carrier and no journal file.
package ssh

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/hook"
)

// Options change what is right for any agent.
type Options struct {
	// Patience is how long an undo waits for a host that is away; five minutes
	// by default, which is all the time that an undo has.
	Patience time.Duration
	// AuthSock is the socket of the ssh-agent; $SSH_AUTH_SOCK by default.
	AuthSock string
}

// Executor serves targets of kind ssh.
type Executor struct {
	patience time.Duration
	authSock string
}

var _ executor.Executor = (*Executor)(nil)

// New makes the executor.
func New(o Options) *Executor {
	e := &Executor{patience: o.Patience, authSock: o.AuthSock}
	if e.patience == 0 {
		e.patience = 5 * time.Minute
	}
	if e.authSock == "" {
		e.authSock = os.Getenv("SSH_AUTH_SOCK")
	}
	return e
}

// Kind is ssh.
func (e *Executor) Kind() string { return "ssh" }

// Capabilities are always the same: nothing is needed on the agent's own host.
func (e *Executor) Capabilities(context.Context) ([]string, error) {
	return []string{
		"ssh.deploy", "ssh.rollback", "ssh.inspect", "ssh.execute", "ssh.upload", "ssh.health-check", "ssh.sticker",
	}, nil
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
	do := map[api.TaskType]func(context.Context, *api.AgentTask, executor.Env, *remote) (*api.TaskResult, error){
		api.TaskDeploy: e.deploy, api.TaskRollback: e.rollback, api.TaskHealthCheck: e.healthCheck,
		api.TaskInspect: e.inspect, api.TaskExecuteCommand: e.execute, api.TaskUploadFiles: e.upload,
		api.TaskWriteSticker: e.writeSticker, api.TaskReadSticker: e.readSticker,
	}[task.Type]
	if do == nil {
		return nil, deploy.Fail(api.ErrUnsupported, "the ssh executor does not know the task type %q", task.Type)
	}
	r, err := e.remote(task, env)
	if err != nil {
		return nil, err
	}
	defer r.close()
	return do(ctx, task, env, r)
}

// Recover ends a task after a crash; see executor.Executor.
func (e *Executor) Recover(ctx context.Context, rec *deploy.Record, env executor.Env) *api.TaskResult {
	return deploy.Guard(ctx, &rec.Task, func() *api.TaskResult {
		r, err := e.remote(&rec.Task, env)
		if err != nil {
			return deploy.Ended(ctx, &rec.Task, rec.StartedAt, nil, err)
		}
		defer r.close()
		r.credentials = env.Credentials
		plan := &deploy.Plan{}
		switch {
		case len(rec.State) == 0:
			r.endInterrupted(ctx)
		case rec.Task.Type == api.TaskUploadFiles:
			var s uploadState
			if err := json.Unmarshal(rec.State, &s); err != nil {
				return unreadable(ctx, rec, err)
			}
			plan = (&uploading{remote: r, state: &s}).plan()
		default:
			var s state
			if err := json.Unmarshal(rec.State, &s); err != nil {
				return unreadable(ctx, rec, err)
			}
			plan = (&deployment{remote: r, state: &s}).plan()
		}
		return deploy.Resume(ctx, rec, plan, env.Journal, env.Log)
	})
}

// endInterrupted ends what a command of an agent that crashed left running. It
// does not wait for a host that is away: then nothing can be ended, and the
// result says that the command was interrupted either way.
func (r *remote) endInterrupted(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := r.insist(ctx, 0, func(ctx context.Context) error {
		_, err := r.script(ctx, "end_marked "+quote(mark(hook.OfTask, r.task.ID))+" 0\n")
		return err
	})
	if err != nil {
		r.env.Log.Line("system", fmt.Sprintf("whether something that the task started still runs on %s is not known: %v", r.config.Host, err))
	}
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

// directory is the target's folder on the remote host.
func directory(task *api.AgentTask) (string, error) {
	dir := task.Target.Config.Directory
	if !usablePath(dir) {
		return "", deploy.Fail(api.ErrInvalidPayload,
			"config.directory of target %s is %q; it must be an absolute folder of the remote host that is the target's own", task.Target.Name, dir)
	}
	return path.Clean(dir), nil
}

func stickerPath(task *api.AgentTask, dir string) (string, error) {
	p := task.Target.Config.StickerPath
	if p == "" {
		return path.Join(dir, "version.json"), nil
	}
	if !usablePath(p) {
		return "", deploy.Fail(api.ErrInvalidPayload, "config.stickerPath of target %s is %q; it must be absolute", task.Target.Name, p)
	}
	return path.Clean(p), nil
}

func usablePath(p string) bool {
	return path.IsAbs(p) && path.Clean(p) != "/" && !strings.ContainsAny(p, "\x00\n")
}
