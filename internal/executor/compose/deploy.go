package compose

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/composefile"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/artifact"
	"stella-ops.org/stella/internal/executor/files"
	"stella-ops.org/stella/internal/executor/healthcheck"
	"stella-ops.org/stella/internal/executor/hook"
	"stella-ops.org/stella/internal/executor/sticker"
)

const defaultStopTimeout = 10 // seconds

// healthTypes are the health checks that a project can have.
var healthTypes = []string{"http", "tcp", "command", "docker"}

// state is what a deployment, a rollback or the writing of a sticker keeps in
// the journal: names and no secrets.
type state struct {
	// Files are what the task puts into the target's folder.
	Files files.Swap `json:"files,omitzero"`
	// Restoring says that they come from the version that was kept.
	Restoring bool `json:"restoring,omitempty"`
	// New is known once the files are verified.
	New *model `json:"new,omitempty"`
	// Old is what the folder had before; nil when it had no release.
	Old     *model `json:"old,omitempty"`
	OldSays string `json:"oldSays,omitempty"` // what it is, for people
	// OldThere and OldRunning say whether it had containers, and whether any
	// of them ran.
	OldThere    bool     `json:"oldThere,omitempty"`
	OldRunning  bool     `json:"oldRunning,omitempty"`
	OldNetworks []string `json:"oldNetworks,omitempty"`
	// Touching says that compose may have begun to change containers.
	Touching    bool               `json:"touching,omitempty"`
	Keep        bool               `json:"keep,omitempty"`
	Stop        int64              `json:"stop,omitempty"`
	StickerPath string             `json:"stickerPath"`
	Former      *sticker.Former    `json:"former,omitempty"`
	Sticker     api.VersionSticker `json:"sticker"`
}

// deployment is one task that changes what runs. payload and release are nil
// while it is recovered.
type deployment struct {
	*target
	payload *api.DeployPayload
	state   *state
	// release is what the new version will say of itself.
	release *release
	// before are the containers that were there when the old version was backed
	// up, and images the ids of those of the new one.
	before []container
	images map[string]string
	// steps is the plan that is being done; what the env files hold is added
	// to its secrets.
	steps *deploy.Plan
}

func (t *target) deploy(ctx context.Context, p *api.DeployPayload) (*api.TaskResult, error) {
	if err := validate(p); err != nil {
		return nil, err
	}
	d, err := t.prepare(p)
	if err != nil {
		return nil, err
	}
	id := p.Config.ReleaseID
	if id == "" {
		id = t.task.ID
	}
	s, r := d.state, d.release
	r.ReleaseID, r.ReleaseName, r.HealthCheck = id, p.Config.ReleaseName, p.Config.HealthCheck
	r.Profiles = p.Config.Profiles
	for i := range p.Artifacts {
		a := &p.Artifacts[i]
		name := a.Name
		if a.Type == artifact.TypeComposeLock {
			name = composefile.LockName
		}
		if filepath.Join(t.dir, filepath.FromSlash(name)) == t.stickerPath {
			return nil, invalid("artifact %q would be where the version sticker is; call it otherwise", a.Name)
		}
		if slices.Contains(r.Files, name) {
			return nil, invalid("the file %q is there twice", name)
		}
		r.Files = append(r.Files, name)
		switch {
		case name == dotEnv: // as compose has it, the first to be read
			r.EnvFiles = slices.Insert(r.EnvFiles, 0, name)
		case a.Type == artifact.TypeEnvFile:
			r.EnvFiles = append(r.EnvFiles, name)
		}
	}
	// Named even when it is empty: without any, compose would read a .env that
	// is in the folder by chance.
	r.EnvFiles = append(r.EnvFiles, envName)
	r.Files = append(r.Files, envName, metaName)
	s.Files.Names = r.Files
	s.Keep = p.Config.CleanupPrevious != nil && !*p.Config.CleanupPrevious
	if p.Config.StopTimeout > 0 {
		s.Stop = p.Config.StopTimeout
	}
	s.Sticker.ReleaseID, s.Sticker.ReleaseName = id, p.Config.ReleaseName
	return d.begin(ctx)
}

const dotEnv = ".env"

// prepare looks at the target's folder, and changes nothing.
func (t *target) prepare(p *api.DeployPayload) (*deployment, error) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	s := &state{
		Files: files.Swap{Directory: t.dir, Staging: stagingName + t.task.ID, Backup: backupName},
		Stop:  defaultStopTimeout, StickerPath: t.stickerPath,
		Sticker: api.VersionSticker{
			TargetID: t.task.TargetID, TargetName: t.task.Target.Name, Environment: t.task.Target.Environment,
			TaskID: t.task.ID, AgentID: t.env.AgentID, DeployedAt: now,
		},
	}
	old, err := readRelease(t.dir)
	if err != nil {
		return nil, err
	}
	if old != nil {
		if old.Project != t.project {
			return nil, deploy.Fail(api.ErrSwitchFailed,
				"%s runs as the project %s and would run as %s now, beside itself; set config.project of target %s to %s, or stop that project and move %s away",
				old.says(), old.Project, t.project, t.task.Target.Name, old.Project, filepath.Join(t.dir, metaName))
		}
		s.Old, s.OldSays = &old.model, old.says()
		s.Files.Gone = old.Files // less those of the new release, see stage
	}
	return &deployment{target: t, payload: p, state: s, release: &release{TaskID: t.task.ID, DeployedAt: now, Project: t.project}}, nil
}

// validate checks what can be checked before anything came.
func validate(p *api.DeployPayload) error {
	locks := 0
	for i := range p.Artifacts {
		a := &p.Artifacts[i]
		if err := artifact.Validate(a); err != nil {
			return err
		}
		switch a.Type {
		case artifact.TypeComposeLock:
			locks++
		case "", artifact.TypeFile, artifact.TypeEnvFile:
			if a.Name == composefile.LockName {
				return invalid("artifact %q has the name of the lock file and is of type %q", a.Name, a.Type)
			}
		default:
			return invalid("artifact %q is of type %s; a compose target takes compose_lock, file and env_file", a.Name, a.Type)
		}
	}
	if locks != 1 {
		return invalid("a compose deployment has one artifact of type compose_lock, and here are %d; `stella compose lock` makes one of a compose file", locks)
	}
	if len(p.Config.ExpectedDigests) == 0 {
		return invalid("config.expectedDigests is empty; say which digest the image of each service must have")
	}
	for name, value := range p.Config.Environment {
		if !composefile.Variable(name) || strings.Contains(value, "\x00") {
			return invalid("config.environment has a name or value that no env file can hold: %q", name)
		}
		if taken(name) {
			return invalid("config.environment names %s, which docker has for itself; call it otherwise in the compose file", name)
		}
	}
	for _, profile := range p.Config.Profiles {
		if profile == "" || strings.HasPrefix(profile, "-") {
			return invalid("config.profiles has %q, which is no profile's name", profile)
		}
	}
	if err := hook.Validate("preDeploy", p.Hooks.PreDeploy); err != nil {
		return err
	}
	if err := hook.Validate("postDeploy", p.Hooks.PostDeploy); err != nil {
		return err
	}
	return healthcheck.Validate(p.Config.HealthCheck, healthTypes...)
}

func (d *deployment) begin(ctx context.Context) (*api.TaskResult, error) {
	return deploy.Run(ctx, d.task, d.plan(), d.env.Journal, d.env.Log), nil
}

// plan is the deployment's steps; after a crash it is made from the state
// alone, and then only Undo and Finish are used.
func (d *deployment) plan() *deploy.Plan {
	plan := &deploy.Plan{State: d.state, Outputs: d.outputs, Restored: d.restored, Standing: d.standing}
	d.steps = plan
	put := deploy.Step{Name: deploy.PhaseSticker, Do: d.writeSticker, Undo: d.restoreSticker}
	if d.state.Files.Staging == "" {
		plan.Steps = []deploy.Step{put}
		return plan
	}
	if d.payload != nil {
		plan.Secrets = deploy.SecretsOf(d.task.Credentials, d.payload)
	}
	plan.Steps = []deploy.Step{
		{Name: deploy.PhaseVerify, Do: d.stage, Undo: d.unstage},
		{Name: deploy.PhasePreHook, Do: func(ctx context.Context) error {
			return d.hook(ctx, deploy.PhasePreHook, d.payload.Hooks.PreDeploy, api.ErrPreHookFailed)
		}},
		{Name: deploy.PhasePull, Do: d.pull},
		{Name: deploy.PhaseBackup, Do: d.backUp},
		{Name: deploy.PhaseSwitch, Do: d.switchOver, Undo: d.switchBack, Changes: true},
		{Name: deploy.PhaseHealthCheck, Do: d.awaitHealth},
		{Name: deploy.PhasePostHook, Do: func(ctx context.Context) error {
			return d.hook(ctx, deploy.PhasePostHook, d.payload.Hooks.PostDeploy, api.ErrPostHookFailed)
		}},
		put,
	}
	plan.Finish = []deploy.Step{{Name: deploy.PhaseCleanup, Do: d.cleanUp}}
	return plan
}

func (d *deployment) hook(ctx context.Context, phase string, h *api.Hook, errType string) error {
	return hook.Do(ctx, h, d.dir, map[string]string{
		"STELLA_PHASE": phase, hook.OfTask: d.task.ID, "STELLA_TARGET_ID": d.task.TargetID,
		"STELLA_TARGET_NAME": d.task.Target.Name, "STELLA_RELEASE_ID": d.state.Sticker.ReleaseID,
		"STELLA_DIRECTORY": d.dir, "STELLA_PROJECT": d.project,
	}, errType, d.env.Log)
}

// backUp notes what runs, and keeps the files that will be replaced.
func (d *deployment) backUp(ctx context.Context) error {
	s := d.state
	if err := d.loadSticker(); err != nil {
		return deploy.Fail(api.ErrSwitchFailed, "%w", err)
	}
	var looking sync.WaitGroup
	var networks error
	looking.Go(func() { s.OldNetworks, networks = d.networks(ctx) })
	all, err := d.containers(ctx)
	looking.Wait()
	if err := errors.Join(err, networks); err != nil {
		return err
	}
	d.before, s.OldThere = all, len(all) > 0
	for i := range all {
		s.OldRunning = s.OldRunning || all[i].State.Running
	}
	return s.Files.KeepOld(ctx)
}

func (d *deployment) loadSticker() error {
	former, err := sticker.Load(d.state.StickerPath)
	if err != nil {
		return err
	}
	d.state.Former = &former
	return nil
}

// writeSticker writes the sticker and compares what it reads back.
func (d *deployment) writeSticker(context.Context) error {
	data, err := sticker.Encode(&d.state.Sticker)
	if err != nil {
		return err
	}
	return sticker.Write(d.state.StickerPath, data)
}

// restoreSticker puts the former sticker back.
func (d *deployment) restoreSticker(context.Context) error {
	if d.state.Former == nil {
		return nil
	}
	return sticker.Undo(d.state.StickerPath, &d.state.Sticker, *d.state.Former)
}

// cleanUp removes what the new version does not need, and keeps the old one's
// files where they are to be kept.
func (d *deployment) cleanUp(ctx context.Context) error {
	s := d.state
	previous, backup := filepath.Join(d.dir, previousName), filepath.Join(d.dir, backupName)
	keep := s.Keep && s.Old != nil && !s.Restoring
	switch _, err := os.Lstat(backup); {
	case keep && err == nil:
		if err := os.RemoveAll(previous); err != nil {
			return err
		}
		if err := os.Rename(backup, previous); err != nil {
			return err
		}
	case keep && errors.Is(err, os.ErrNotExist): // it was kept before a crash
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	case !s.Keep || s.Restoring:
		if err := os.RemoveAll(previous); err != nil {
			return err
		}
	}
	return errors.Join(s.Files.Drop(), d.forgetLogin(), d.dropOldNetworks(ctx))
}

func (d *deployment) outputs() map[string]any {
	s := d.state
	out := map[string]any{"sticker": s.Sticker}
	if s.New == nil {
		return out
	}
	out["releaseId"], out["directory"], out["project"] = s.Sticker.ReleaseID, d.dir, d.project
	services := make([]map[string]any, len(s.New.Services))
	for i, one := range s.New.Services {
		_, digest, _ := composefile.Pinned(one.Image)
		services[i] = map[string]any{"service": one.Name, "image": one.Image, "digest": digest}
	}
	out["services"] = services
	return out
}

func (d *deployment) restored() (bool, string) {
	s := d.state
	switch {
	case s.Old == nil || !s.OldThere:
		return false, fmt.Sprintf("Nothing runs as the project %s now, as before", d.project)
	case !s.OldRunning:
		return false, fmt.Sprintf("The project %s is as it was, stopped: %s", d.project, s.OldSays)
	}
	return true, fmt.Sprintf("The project %s runs %s again", d.project, s.OldSays)
}

func (d *deployment) standing(ctx context.Context) string {
	all, err := d.containers(ctx)
	if err != nil {
		return "What runs cannot be said: " + err.Error()
	}
	there := make([]string, len(all))
	for i := range all {
		there[i] = fmt.Sprintf("%s (%s, %s)", all[i].name(), all[i].State.Status, all[i].Config.Image)
	}
	old := "nothing"
	if s := d.state; s.Old != nil {
		old = s.OldSays
	}
	return fmt.Sprintf("The project %s has now: %s; before the task it was %s. Mend the cause and run a rollback task, or deploy again; what was replaced in %s is in %s",
		d.project, orNothing(strings.Join(there, ", ")), old, d.dir, filepath.Join(d.dir, backupName))
}

func (d *deployment) stopTimeout() string { return strconv.FormatInt(d.state.Stop, 10) }
