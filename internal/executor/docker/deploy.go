package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/docker/engine"
	"stella-ops.org/stella/internal/executor/hook"
)

const defaultStopTimeout = 10 // seconds

// state is what a deployment, a rollback or the writing of a sticker keeps in
// the journal: names and no secrets.
type state struct {
	Name   string `json:"name,omitempty"`
	Image  string `json:"image,omitempty"`
	Digest string `json:"digest,omitempty"`
	// Temp is the new container's name until it takes the old one's place.
	Temp string `json:"temp,omitempty"`
	// Restoring is the kept container that a rollback goes back to, and
	// RestoringName its name; a deployment makes a container instead.
	Restoring     string `json:"restoring,omitempty"`
	RestoringName string `json:"restoringName,omitempty"`
	// Old is the container that has the name now, and OldName the name that
	// it gets.
	Old        string `json:"old,omitempty"`
	OldName    string `json:"oldName,omitempty"`
	OldRunning bool   `json:"oldRunning,omitempty"`
	OldSays    string `json:"oldSays,omitempty"` // what it is, for people
	// Stopping says that the old one's stop may have been asked for.
	Stopping bool   `json:"stopping,omitempty"`
	New      string `json:"new,omitempty"`
	Keep     bool   `json:"keep,omitempty"`
	Stop     int    `json:"stop,omitempty"`

	Sticker stickerState `json:"sticker"`
}

// deployment is one task that changes what runs. payload is nil while it is
// recovered.
type deployment struct {
	*target
	payload *api.DeployPayload
	state   *state
}

func (t *target) deploy(ctx context.Context, p *api.DeployPayload) (*api.TaskResult, error) {
	name, err := t.containerName(p.Config.ContainerName)
	if err != nil {
		return nil, err
	}
	img, err := parseImage(p.Image, p.Digest)
	if err != nil {
		return nil, err
	}
	if err := validate(p); err != nil {
		return nil, err
	}
	place, err := t.stickerPlace()
	if err != nil {
		return nil, err
	}
	id := p.Config.ReleaseID
	if id == "" {
		id = t.task.ID
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	s := &state{
		Name: name, Image: p.Image, Digest: p.Digest,
		Temp: name + "-stella-" + t.task.ID, OldName: fmt.Sprintf("%s-previous-%d", name, now.UnixMilli()),
		Keep: p.Config.CleanupPrevious != nil && !*p.Config.CleanupPrevious, Stop: defaultStopTimeout,
	}
	if p.Config.StopTimeout > 0 {
		s.Stop = int(p.Config.StopTimeout)
	}
	s.Sticker = t.newSticker(place, now)
	s.Sticker.Content.ReleaseID, s.Sticker.Content.ReleaseName = id, p.Config.ReleaseName
	s.Sticker.Content.Image, s.Sticker.Content.Digest = p.Image, p.Digest
	s.Sticker.Content.PreviousDigest = p.PreviousDigest
	s.Sticker.Helper = img.String()
	d := &deployment{target: t, payload: p, state: s}
	return deploy.Run(ctx, t.task, d.plan(), t.env.Journal, t.env.Log), nil
}

// plan is the deployment's steps; after a crash it is made from the state
// alone, and then only Undo and Finish are used.
func (d *deployment) plan() *deploy.Plan {
	plan := &deploy.Plan{State: d.state, Outputs: d.outputs, Restored: d.restored, Standing: d.standing}
	put := deploy.Step{Name: deploy.PhaseSticker, Do: d.writeSticker, Undo: d.restoreSticker}
	plan.Finish = []deploy.Step{{Name: deploy.PhaseCleanup, Do: d.cleanUp}}
	if d.state.Name == "" {
		plan.Steps = []deploy.Step{put}
		return plan
	}
	if d.payload != nil {
		plan.Secrets = deploy.SecretsOf(d.task.Credentials, d.payload)
	}
	if d.state.Restoring == "" {
		plan.Steps = append(plan.Steps, deploy.Step{Name: deploy.PhasePull, Do: d.pull})
	}
	plan.Steps = append(plan.Steps,
		deploy.Step{Name: deploy.PhaseVerify, Do: d.verify},
		deploy.Step{Name: deploy.PhasePreHook, Do: func(ctx context.Context) error {
			return d.hook(ctx, deploy.PhasePreHook, d.payload.Hooks.PreDeploy, api.ErrPreHookFailed)
		}},
		deploy.Step{Name: deploy.PhaseBackup, Do: d.backUp},
		deploy.Step{Name: deploy.PhaseSwitch, Do: d.switchOver, Undo: d.switchBack, Changes: true},
		deploy.Step{Name: deploy.PhaseHealthCheck, Do: d.awaitHealth},
		deploy.Step{Name: deploy.PhasePostHook, Do: func(ctx context.Context) error {
			return d.hook(ctx, deploy.PhasePostHook, d.payload.Hooks.PostDeploy, api.ErrPostHookFailed)
		}},
		put,
	)
	return plan
}

func (d *deployment) hook(ctx context.Context, phase string, h *api.Hook, errType string) error {
	s := d.state
	return hook.Do(ctx, h, "", map[string]string{
		"STELLA_PHASE": phase, hook.OfTask: d.task.ID, "STELLA_TARGET_ID": d.task.TargetID,
		"STELLA_TARGET_NAME": d.task.Target.Name, "STELLA_RELEASE_ID": s.Sticker.Content.ReleaseID,
		"STELLA_CONTAINER": s.Name, "STELLA_IMAGE": s.Image, "STELLA_DIGEST": s.Digest,
	}, errType, d.env.Log)
}

// find returns the container of a name; nil when there is none.
func (t *target) find(ctx context.Context, nameOrID string) (*container.InspectResponse, error) {
	res, err := t.engine.ContainerInspect(ctx, nameOrID, client.ContainerInspectOptions{})
	switch {
	case cerrdefs.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, engine.Error(api.ErrSwitchFailed, err)
	}
	return &res.Container, nil
}

// named is find for a name alone: the engine takes the beginning of an id for
// a name too, and a container may well be called cafe.
func (t *target) named(ctx context.Context, name string) (*container.InspectResponse, error) {
	c, err := t.find(ctx, name)
	if c != nil && nameOf(c) != name {
		return nil, err
	}
	return c, err
}

func nameOf(c *container.InspectResponse) string { return strings.TrimPrefix(c.Name, "/") }

// backUp notes what has the name now. A container that Stella did not make is
// adopted: it is kept and restored like any other.
func (d *deployment) backUp(ctx context.Context) error {
	old, err := d.named(ctx, d.state.Name)
	if err != nil {
		return err
	}
	if old != nil {
		if old.HostConfig.AutoRemove {
			return deploy.Fail(api.ErrSwitchFailed,
				"the container %s removes itself when it stops (--rm), so it could not be brought back; remove it yourself, then deploy again", d.state.Name)
		}
		s := d.state
		s.Old, s.OldRunning = old.ID, old.State.Running || old.State.Restarting
		digest := old.Config.Labels[LabelDigest]
		if digest == "" {
			digest = digestOf(old.Config.Image)
		}
		s.OldSays = old.Config.Image
		if id := old.Config.Labels[LabelReleaseID]; id != "" {
			s.OldSays = "release " + id + " (" + old.Config.Image + ")"
		}
		if digest != "" {
			s.Sticker.Content.PreviousDigest = digest
		}
		if _, ours := old.Config.Labels[LabelTaskID]; !ours {
			d.env.Log.Line("system", fmt.Sprintf("the container %s was not made by Stella; it is deployed over and kept until the new one stands", s.Name))
		}
	}
	return d.loadSticker(ctx)
}

func (d *deployment) outputs() map[string]any {
	s := d.state
	out := map[string]any{"sticker": s.Sticker.Content}
	if s.Name == "" {
		return out
	}
	out["containerId"], out["containerName"] = s.New, s.Name
	out["image"], out["digest"], out["releaseId"] = s.Image, s.Digest, s.Sticker.Content.ReleaseID
	if s.Sticker.Content.PreviousDigest != "" {
		out["previousDigest"] = s.Sticker.Content.PreviousDigest
	}
	if s.Keep && s.Old != "" {
		out["previousContainer"] = s.OldName
	}
	return out
}

func (d *deployment) restored() (bool, string) {
	s := d.state
	switch {
	case s.Old == "":
		return false, fmt.Sprintf("Nothing runs as %s now, as before: there was no container to go back to", s.Name)
	case !s.OldRunning:
		return false, fmt.Sprintf("The container %s is back as it was, stopped: %s", s.Name, s.OldSays)
	}
	return true, fmt.Sprintf("The container %s runs %s again", s.Name, s.OldSays)
}

func (d *deployment) standing(ctx context.Context) string {
	var there []string
	for _, id := range []string{d.state.Old, d.state.New, d.state.Restoring} {
		if id == "" {
			continue
		}
		c, err := d.find(ctx, id)
		switch {
		case err != nil:
			there = append(there, fmt.Sprintf("%.12s (not seen: %v)", id, err))
		case c == nil:
			there = append(there, fmt.Sprintf("%.12s is gone", id))
		default:
			there = append(there, fmt.Sprintf("%s is %s (%s)", nameOf(c), c.State.Status, c.Config.Image))
		}
	}
	if len(there) == 0 {
		there = append(there, "no container of this task is known")
	}
	return fmt.Sprintf("What stands: %s. Mend the cause, then rename the right container to %s and start it, or deploy again",
		strings.Join(there, "; "), d.state.Name)
}

// cleanUp removes what the new version does not need.
func (d *deployment) cleanUp(ctx context.Context) error {
	errs := []error{d.removeHelpers(ctx)}
	s := d.state
	if s.Name == "" {
		return errors.Join(errs...)
	}
	if s.Restoring != "" {
		return errors.Join(append(errs, d.remove(ctx, s.Old, false))...)
	}
	kept, err := d.kept(ctx, s.Name)
	if err != nil {
		return err
	}
	keep := ""
	if s.Keep && len(kept) > 0 {
		keep = kept[0].id // the old one, or what an earlier deployment kept
	}
	for _, k := range kept {
		if k.id == keep {
			continue
		}
		d.env.Log.Line("system", "removing the previous container "+k.name)
		errs = append(errs, d.remove(ctx, k.id, false))
	}
	return errors.Join(errs...)
}
