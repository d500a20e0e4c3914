package ssh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/artifact"
	"stella-ops.org/stella/internal/executor/healthcheck"
	"stella-ops.org/stella/internal/executor/hook"
	"stella-ops.org/stella/internal/executor/sticker"
)

const (
	defaultStopTimeout = 10 * time.Second
	// scriptTimeout is how long the deploy scripts may take when it is not said.
	scriptTimeout = 30 * time.Minute
	// startTimeout is how long a start command may take to return.
	startTimeout = 2 * time.Minute
)

// state is what a deployment, a rollback or the writing of a sticker keeps in
// the journal: names and no secrets. All else is on the host.
type state struct {
	Directory string `json:"directory"`
	// Deploys and Restores say which of the tasks it is; both are false where
	// only a sticker is written.
	Deploys  bool `json:"deploys,omitempty"`
	Restores bool `json:"restores,omitempty"`
	// Old is the id of the release that was there; empty for none.
	Old string `json:"old,omitempty"`
	// Made says that the folder was not there.
	Made        bool               `json:"made,omitempty"`
	Keeps       bool               `json:"keeps,omitempty"` // the old version, for a rollback
	StopTimeout time.Duration      `json:"stopTimeout,omitempty"`
	StickerPath string             `json:"stickerPath"`
	Former      *sticker.Former    `json:"former,omitempty"`
	Sticker     api.VersionSticker `json:"sticker"`
}

// deployment is one task that changes which release is in the folder. payload
// and next are nil while it is recovered.
type deployment struct {
	*remote
	payload *api.DeployPayload
	old     *release // as backUp found it
	next    *release
	state   *state
}

func (e *Executor) deploy(ctx context.Context, task *api.AgentTask, env executor.Env, r *remote) (*api.TaskResult, error) {
	p, err := payload[api.DeployPayload](task)
	if err != nil {
		return nil, err
	}
	if err := validate(p); err != nil {
		return nil, err
	}
	d, _, err := r.prepare(ctx)
	if err != nil {
		return nil, err
	}
	return d.deployPayload(ctx, task, env, p)
}

func (d *deployment) deployPayload(ctx context.Context, task *api.AgentTask, env executor.Env, p *api.DeployPayload) (*api.TaskResult, error) {
	s, c := d.state, &p.Config
	id := c.ReleaseID
	if id == "" {
		id = task.ID
	}
	s.Deploys = true
	s.Keeps = c.CleanupPrevious != nil && !*c.CleanupPrevious
	if c.StopTimeout > 0 {
		s.StopTimeout = time.Duration(c.StopTimeout) * time.Second
	}
	s.Sticker.ReleaseID, s.Sticker.ReleaseName = id, c.ReleaseName
	d.payload = p
	d.next = &release{
		ReleaseID: id, ReleaseName: c.ReleaseName, TaskID: task.ID, DeployedAt: s.Sticker.DeployedAt,
		Start: c.Start, Stop: c.Stop, Environment: c.Environment, HealthCheck: c.HealthCheck, ScriptTimeout: c.DeploymentTimeout,
	}
	return deploy.Run(ctx, task, d.plan(), env.Journal, env.Log), nil
}

// prepare connects and looks at the target, and changes nothing.
func (r *remote) prepare(ctx context.Context) (*deployment, *sight, error) {
	path, err := stickerPath(r.task, r.dir)
	if err != nil {
		return nil, nil, err
	}
	seen, err := r.see(ctx, path, "")
	if err != nil {
		return nil, nil, err
	}
	d := &deployment{remote: r, state: &state{
		Directory: r.dir, Made: !seen.exists, StickerPath: path, StopTimeout: defaultStopTimeout,
		Sticker: api.VersionSticker{
			TargetID: r.task.TargetID, TargetName: r.task.Target.Name, Environment: r.task.Target.Environment,
			TaskID: r.task.ID, AgentID: r.env.AgentID, DeployedAt: time.Now().UTC().Truncate(time.Millisecond),
		},
	}}
	if seen.current != nil {
		d.state.Old = seen.current.ReleaseID
	}
	return d, seen, nil
}

func validate(p *api.DeployPayload) error {
	seen := map[string]bool{}
	for i := range p.Artifacts {
		a := &p.Artifacts[i]
		if err := artifact.Validate(a); err != nil {
			return err
		}
		if a.Type != "" && a.Type != artifact.TypeFile && a.Type != artifact.TypeDeployScript {
			return deploy.Fail(api.ErrInvalidPayload, "artifact %q is of type %s, and an ssh target takes file and deploy_script", a.Name, a.Type)
		}
		if seen[a.Name] {
			return deploy.Fail(api.ErrInvalidPayload, "the artifact %q is there twice", a.Name)
		}
		seen[a.Name] = true
	}
	if err := checkEnvironment("config.environment", p.Config.Environment); err != nil {
		return err
	}
	if err := checkWords("config.start or config.stop", []string{p.Config.Start, p.Config.Stop}); err != nil {
		return err
	}
	for name, h := range map[string]*api.Hook{"preDeploy": p.Hooks.PreDeploy, "postDeploy": p.Hooks.PostDeploy} {
		if err := hook.Validate(name, h); err != nil {
			return err
		}
		if h == nil {
			continue
		}
		if err := checkEnvironment("hooks."+name, h.Environment); err != nil {
			return err
		}
	}
	return healthcheck.Validate(p.Config.HealthCheck, "http", "tcp", "command")
}

// plan is the task's steps; after a crash it is made from the state alone, and
// then only Undo and Finish are used.
func (d *deployment) plan() *deploy.Plan {
	plan := &deploy.Plan{
		State:    d.state,
		Secrets:  deploy.SecretsOf(d.secrets, d.payload),
		Outputs:  d.outputs,
		Restored: d.restored,
		Standing: d.standing,
	}
	put := deploy.Step{Name: deploy.PhaseSticker, Do: d.putSticker, Undo: d.undo(d.restoreSticker)}
	if !d.state.Deploys && !d.state.Restores {
		plan.Steps = []deploy.Step{put}
		return plan
	}
	plan.Steps = []deploy.Step{
		{Name: deploy.PhaseVerify, Do: d.stage, Undo: d.unstage},
		{Name: deploy.PhasePreHook, Do: func(ctx context.Context) error {
			return d.hookOf(ctx, d.payload.Hooks.PreDeploy, d.variables(d.state.Sticker.ReleaseID, deploy.PhasePreHook), api.ErrPreHookFailed)
		}},
		{Name: deploy.PhaseBackup, Do: d.backUp, Undo: d.dropBackup},
		{Name: deploy.PhaseSwitch, Do: d.switchOver, Undo: d.undo(d.switchBack), Changes: true},
		{Name: deploy.PhaseHealthCheck, Do: d.awaitHealth},
		{Name: deploy.PhasePostHook, Do: func(ctx context.Context) error {
			return d.hookOf(ctx, d.payload.Hooks.PostDeploy, d.variables(d.state.Sticker.ReleaseID, deploy.PhasePostHook), api.ErrPostHookFailed)
		}},
		put,
	}
	plan.Finish = []deploy.Step{{Name: deploy.PhaseCleanup, Do: d.undo(d.cleanUp)}}
	return plan
}

// undo is a step that waits for a host that is away, and connects anew.
func (d *deployment) undo(do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error { return d.insist(ctx, d.patience, do) }
}

// leftForLater does something that the next deployment does too, if the host is
// away for long: it is not worth a failure of its own.
func (d *deployment) leftForLater(ctx context.Context, what, body string) error {
	err := d.insist(ctx, 30*time.Second, func(ctx context.Context) error {
		_, err := d.anywhere(ctx, body)
		return errors.Join(err, d.dropSent(ctx))
	})
	if err != nil && isAway(err) {
		d.env.Log.Line("system", fmt.Sprintf("%s is left in %s until the next deployment: %v", what, d.dir, err))
		return nil
	}
	return err
}

func (d *deployment) outputs() map[string]any {
	s := d.state
	out := map[string]any{"sticker": s.Sticker}
	if s.Deploys || s.Restores {
		out["releaseId"], out["directory"], out["previousRelease"] = s.Sticker.ReleaseID, s.Directory, s.Old
	}
	return out
}

func (d *deployment) restored() (bool, string) {
	if d.state.Old == "" {
		return false, fmt.Sprintf("Nothing runs in %s on %s now, as before: there was no release to go back to", d.dir, d.config.Host)
	}
	return true, fmt.Sprintf("The release %s is in %s on %s again", d.state.Old, d.dir, d.config.Host)
}

// standing looks at the host after an undo has failed.
func (d *deployment) standing(ctx context.Context) string {
	const next = "mend the cause, then run a deploy or a rollback task: it restores the folder first"
	seen, err := d.see(ctx, d.state.StickerPath, `
for e in .stella-backup .stella-restoring .stella-switching; do [ ! -e "$e" ] || value "$e" yes; done
`)
	switch {
	case err != nil:
		return fmt.Sprintf("What is in %s on %s cannot be said: %v. The version before, %s, is complete in %s there unless it was restored already; %s",
			d.dir, d.config.Host, err, orNothing(d.state.Old), backupDir, next)
	case seen.values[switchingFile] == "":
		return fmt.Sprintf("The files of %s in %s on %s are as they were before the task; whether it runs is not certain: look at it, or deploy it again",
			orNothing(d.state.Old), d.dir, d.config.Host)
	case seen.values[backupDir] == "" && seen.values[".stella-restoring"] == "":
		return fmt.Sprintf("The files of %s are restored in %s on %s, but it could not be started: start it by hand, or deploy again", orNothing(d.state.Old), d.dir, d.config.Host)
	}
	return fmt.Sprintf("The files in %s on %s may be of both versions; the version before, %s, is complete in %s there: %s",
		d.dir, d.config.Host, orNothing(d.state.Old), backupDir, next)
}
