package docker

import (
	"context"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/healthcheck"
)

// rollback goes back to the digest that is asked for or to the container that
// was kept; where that is not there, it repeats the deployment that the server
// has filled in.
func (t *target) rollback(ctx context.Context) (*api.TaskResult, error) {
	p, err := payload[api.RollbackPayload](t.task)
	if err != nil {
		return nil, err
	}
	name, err := t.containerName(p.ContainerName)
	if err != nil {
		return nil, err
	}
	kept, err := t.kept(ctx, name)
	if err != nil {
		return nil, err
	}
	if p.Deploy != nil {
		if err := healthcheck.Validate(p.Deploy.Config.HealthCheck, "http", "tcp", "command", "docker"); err != nil {
			return nil, err
		}
	}
	for _, k := range kept {
		c, err := t.find(ctx, k.id)
		if err != nil {
			return nil, err
		}
		if c == nil {
			continue
		}
		digest := c.Config.Labels[LabelDigest]
		if digest == "" {
			digest = digestOf(c.Config.Image)
		}
		if p.TargetDigest != "" && digest != p.TargetDigest || p.ReleaseID != "" && c.Config.Labels[LabelReleaseID] != p.ReleaseID {
			continue
		}
		place, err := t.stickerPlace()
		if err != nil {
			return nil, err
		}
		now := time.Now().UTC().Truncate(time.Millisecond)
		s := &state{
			Name: name, Digest: digest, Restoring: c.ID, RestoringName: k.name,
			OldName: fmt.Sprintf("%s-replaced-%d", name, now.UnixMilli()), Stop: defaultStopTimeout,
		}
		if img, _, ok := cutLast(c.Config.Image, "@"); ok || digest == "" {
			s.Image = img
		}
		s.Sticker = t.newSticker(place, now)
		content := &s.Sticker.Content
		content.ReleaseID, content.ReleaseName = c.Config.Labels[LabelReleaseID], c.Config.Labels[LabelReleaseName]
		content.Image, content.Digest = s.Image, digest
		s.Sticker.Helper = c.Image
		d := &deployment{target: t, payload: &api.DeployPayload{}, state: s}
		// The deployment that made this container, if the server has it, says
		// how its health is checked.
		if p.Deploy != nil && p.Deploy.Digest == digest {
			d.payload.Config.HealthCheck = p.Deploy.Config.HealthCheck
		}
		return deploy.Run(ctx, t.task, d.plan(), t.env.Journal, t.env.Log), nil
	}
	again := p.Deploy
	if again == nil && p.TargetDigest != "" {
		if again, err = t.sameWith(ctx, name, p.TargetDigest); err != nil {
			return nil, err
		}
	}
	if again == nil {
		what := "no previous container of " + name + " was kept"
		if p.TargetDigest != "" {
			what = fmt.Sprintf("no container of %s was kept with the digest %s", name, p.TargetDigest)
		}
		return nil, deploy.Fail(api.ErrNothingToRestore, "%s, and no earlier deployment is known; deploy the version that you want", what)
	}
	repeat := *again
	if p.TargetDigest != "" {
		repeat.Digest = p.TargetDigest
	}
	if repeat.Config.ContainerName == "" {
		repeat.Config.ContainerName = p.ContainerName
	}
	t.env.Log.Line("system", "no container was kept to go back to; the version is deployed again")
	return t.deploy(ctx, &repeat)
}

// sameWith is the deployment of another digest with the settings of the
// container that is there; nil when there is none made by Stella.
func (t *target) sameWith(ctx context.Context, name, digest string) (*api.DeployPayload, error) {
	c, err := t.named(ctx, name)
	if err != nil || c == nil || c.Config.Labels[LabelTaskID] == "" {
		return nil, err
	}
	img, _, ok := cutLast(c.Config.Image, "@")
	if !ok {
		return nil, nil
	}
	return t.settings(ctx, c, img, digest)
}
