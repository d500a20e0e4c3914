package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"strings"
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
	defaultKeep        = 5
	defaultStopTimeout = 10 * time.Second
)

// state is what a deployment, a rollback or the writing of a sticker keeps in
// the journal: names and no secrets.
type state struct {
	Directory string `json:"directory"`
	// New and Old are folders below releases; Old is empty on the first
	// deployment, New where only a sticker is written.
	New string `json:"new,omitempty"`
	Old string `json:"old,omitempty"`
	// Makes says that New is made by this task, and goes with it.
	Makes bool `json:"makes,omitempty"`
	// Stopping says that the old release may have been stopped.
	Stopping bool `json:"stopping,omitempty"`
	// Units are the units that are installed, and whether they existed.
	Units       []unitFile         `json:"units,omitempty"`
	StopTimeout time.Duration      `json:"stopTimeout,omitempty"`
	Keep        int                `json:"keep,omitempty"`
	StickerPath string             `json:"stickerPath"`
	Former      *sticker.Former    `json:"former,omitempty"`
	Sticker     api.VersionSticker `json:"sticker"`
}

// deployment is one task that changes which release runs. payload is nil
// while it is recovered, and for a rollback.
type deployment struct {
	*Executor
	task    *api.AgentTask
	env     executor.Env
	payload *api.DeployPayload
	state   *state
}

func (d *deployment) tree() tree { return tree(d.state.Directory) }

func (e *Executor) deploy(ctx context.Context, task *api.AgentTask, env executor.Env) (*api.TaskResult, error) {
	p, err := payload[api.DeployPayload](task)
	if err != nil {
		return nil, err
	}
	return e.deployPayload(ctx, task, env, p)
}

func (e *Executor) deployPayload(ctx context.Context, task *api.AgentTask, env executor.Env, p *api.DeployPayload) (*api.TaskResult, error) {
	if err := deployable(); err != nil {
		return nil, deploy.Fail(api.ErrUnsupported, "%w", err)
	}
	if err := validate(p); err != nil {
		return nil, err
	}
	d, err := e.prepare(task, env)
	if err != nil {
		return nil, err
	}
	d.payload = p
	s, id := d.state, p.Config.ReleaseID
	if id == "" {
		id = task.ID
	}
	if !releaseIDPattern.MatchString(id) {
		return nil, deploy.Fail(api.ErrInvalidPayload, "config.releaseId %q cannot name a folder; use letters, digits, dots and dashes", id)
	}
	// The same release again gets a folder of its own: the one that runs is
	// not written to.
	s.New, s.Makes = id, true
	for n := 2; exists(d.tree().release(s.New)); n++ {
		s.New = fmt.Sprintf("%s.%d", id, n)
	}
	s.Keep = p.Config.Keep
	if s.Keep == 0 {
		s.Keep = defaultKeep
	}
	if p.Config.StopTimeout > 0 {
		s.StopTimeout = time.Duration(p.Config.StopTimeout) * time.Second
	}
	s.Sticker.ReleaseID, s.Sticker.ReleaseName = id, p.Config.ReleaseName
	return deploy.Run(ctx, task, d.plan(), env.Journal, env.Log), nil
}

// prepare looks at the target, and changes nothing.
func (e *Executor) prepare(task *api.AgentTask, env executor.Env) (*deployment, error) {
	dir, err := directory(task)
	if err != nil {
		return nil, err
	}
	path, err := stickerPath(task, dir)
	if err != nil {
		return nil, err
	}
	old, err := tree(dir).current()
	if err != nil {
		return nil, deploy.Fail(api.ErrSwitchFailed, "%w", err)
	}
	if old != "" && !exists(tree(dir).release(old)) {
		old = "" // the link leads nowhere: there is nothing to go back to
	}
	return &deployment{Executor: e, task: task, env: env, state: &state{
		Directory: dir, Old: old, StickerPath: path, StopTimeout: defaultStopTimeout,
		Sticker: api.VersionSticker{
			TargetID: task.TargetID, TargetName: task.Target.Name, Environment: task.Target.Environment,
			TaskID: task.ID, AgentID: env.AgentID, DeployedAt: time.Now().UTC().Truncate(time.Millisecond),
		},
	}}, nil
}

func validate(p *api.DeployPayload) error {
	for i := range p.Artifacts {
		a := &p.Artifacts[i]
		if err := artifact.Validate(a); err != nil {
			return err
		}
		if a.Type == artifact.TypeSystemdUnit && !unitPattern.MatchString(path.Base(a.Name)) {
			return deploy.Fail(api.ErrInvalidPayload, "artifact %q is no unit's name, as in app.service", a.Name)
		}
	}
	if p.Config.Unit != "" && !unitPattern.MatchString(p.Config.Unit) {
		return deploy.Fail(api.ErrInvalidPayload, "config.unit %q is no unit's name, as in app.service", p.Config.Unit)
	}
	if p.Config.Unit != "" && (p.Config.Start != "" || p.Config.Stop != "") {
		return deploy.Fail(api.ErrInvalidPayload, "config.unit stands instead of config.start and config.stop; give one or the other")
	}
	for name, value := range p.Config.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return deploy.Fail(api.ErrInvalidPayload, "config.environment has a name or value that no environment can hold: %q", name)
		}
	}
	if err := hook.Validate("preDeploy", p.Hooks.PreDeploy); err != nil {
		return err
	}
	if err := hook.Validate("postDeploy", p.Hooks.PostDeploy); err != nil {
		return err
	}
	return healthcheck.Validate(p.Config.HealthCheck, "http", "tcp", "command")
}

// plan is the deployment's steps; after a crash it is made from the state
// alone, and then only Undo and Finish are used.
func (d *deployment) plan() *deploy.Plan {
	plan := &deploy.Plan{
		State:    d.state,
		Secrets:  d.secrets(),
		Outputs:  d.outputs,
		Restored: d.restored,
		Standing: d.standing,
	}
	put := deploy.Step{Name: deploy.PhaseSticker, Do: d.writeSticker, Undo: d.restoreSticker}
	if d.state.New == "" {
		plan.Steps = []deploy.Step{put}
		return plan
	}
	plan.Steps = []deploy.Step{
		{Name: deploy.PhaseVerify, Do: d.stage, Undo: d.unstage},
		{Name: deploy.PhasePreHook, Do: func(ctx context.Context) error {
			return d.hook(ctx, deploy.PhasePreHook, d.payload.Hooks.PreDeploy, api.ErrPreHookFailed)
		}},
		{Name: deploy.PhaseBackup, Do: d.backUp, Undo: d.dropBackup},
		{Name: deploy.PhaseSwitch, Do: d.switchOver, Undo: d.switchBack, Changes: true},
		{Name: deploy.PhaseHealthCheck, Do: d.awaitHealth},
		{Name: deploy.PhasePostHook, Do: func(ctx context.Context) error {
			return d.hook(ctx, deploy.PhasePostHook, d.payload.Hooks.PostDeploy, api.ErrPostHookFailed)
		}},
		put,
	}
	plan.Finish = []deploy.Step{{Name: deploy.PhaseCleanup, Do: func(ctx context.Context) error {
		return errors.Join(d.dropBackup(ctx), d.tree().prune(d.state.Keep))
	}}}
	return plan
}

// secrets are the values that must not get into the journal by way of a
// failure's message.
func (d *deployment) secrets() []string {
	if d.payload == nil {
		return nil
	}
	return deploy.SecretsOf(d.task.Credentials, d.payload)
}

func (d *deployment) hook(ctx context.Context, phase string, h *api.Hook, errType string) error {
	return hook.Do(ctx, h, d.state.Directory, d.variables(d.state.Sticker.ReleaseID, map[string]string{
		"STELLA_PHASE": phase, hook.OfTask: d.task.ID,
	}), errType, d.env.Log)
}

// variables tell a hook, a script or a release what it belongs to.
func (d *deployment) variables(releaseID string, more map[string]string) map[string]string {
	v := map[string]string{
		"STELLA_TARGET_ID":   d.task.TargetID,
		"STELLA_TARGET_NAME": d.task.Target.Name,
		"STELLA_DIRECTORY":   d.state.Directory,
		"STELLA_RELEASE_ID":  releaseID,
	}
	maps.Copy(v, more)
	return v
}

func (d *deployment) outputs() map[string]any {
	s := d.state
	out := map[string]any{"sticker": s.Sticker}
	if s.New != "" {
		out["releaseId"], out["directory"] = s.Sticker.ReleaseID, d.tree().release(s.New)
		out["previousRelease"] = s.Old
	}
	return out
}

func (d *deployment) restored() (bool, string) {
	if d.state.Old == "" {
		return false, fmt.Sprintf("Nothing runs in %s now, as before: there was no release to go back to", d.state.Directory)
	}
	return true, fmt.Sprintf("The release %s is current again in %s", d.state.Old, d.state.Directory)
}

func (d *deployment) standing(context.Context) string {
	current, err := d.tree().current()
	switch {
	case err != nil:
		return fmt.Sprintf("What is current in %s cannot be said: %v", d.state.Directory, err)
	case current == "":
		current = "nothing"
	}
	return fmt.Sprintf("In %s, current is %s and was %s before the task, and whether it is started is not certain: "+
		"mend the cause, point current to the right release and start it by hand, or run a rollback task", d.state.Directory, current, orNothing(d.state.Old))
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
