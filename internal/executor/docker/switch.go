package docker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/docker/engine"
)

// engineTimeout is how long the engine's calls of a switch may take together,
// beside the old container's stop.
const engineTimeout = 3 * time.Minute

// switchOver puts the new container in the old one's place. The new one is
// made before the old one is stopped: what is wrong with its settings shows
// while the old one still runs, and the gap is short.
//
// A call to the engine is not cut short by a cancel: the engine would go on
// with it, and an undo would look at what is still changing.
func (d *deployment) switchOver(ctx context.Context) error {
	s := d.state
	call, done := context.WithTimeout(context.WithoutCancel(ctx), engineTimeout+time.Duration(s.Stop)*time.Second)
	defer done()
	if s.Restoring != "" {
		s.New = s.Restoring
	} else if err := d.create(call); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.Stopping = s.Old != ""
	if err := deploy.Checkpoint(ctx); err != nil {
		return err
	}
	if s.Old != "" {
		d.env.Log.Line("system", "stopping "+s.Name)
		if _, err := d.engine.ContainerStop(call, s.Old, client.ContainerStopOptions{Timeout: &s.Stop}); err != nil {
			return switchError("stop the container "+s.Name, err)
		}
		d.env.Log.Line("system", "keeping it as "+s.OldName)
		if _, err := d.engine.ContainerRename(call, s.Old, client.ContainerRenameOptions{NewName: s.OldName}); err != nil {
			return switchError("rename the container "+s.Name, err)
		}
	}
	if _, err := d.engine.ContainerRename(call, s.New, client.ContainerRenameOptions{NewName: s.Name}); err != nil {
		return switchError("name the new container "+s.Name, err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d.env.Log.Line("system", fmt.Sprintf("starting %s from %s", s.Name, s.Image+"@"+s.Digest))
	if _, err := d.engine.ContainerStart(call, s.New, client.ContainerStartOptions{}); err != nil {
		return switchError("start the container "+s.Name, err)
	}
	return nil
}

// create makes the new container under its temporary name.
func (d *deployment) create(ctx context.Context) error {
	s, c := d.state, &d.payload.Config
	img, err := parseImage(s.Image, s.Digest)
	if err != nil {
		return err
	}
	exposed, bindings, err := parsePorts(c.Ports)
	if err != nil {
		return err
	}
	restart, err := parseRestart(c.RestartPolicy)
	if err != nil {
		return err
	}
	labels := maps.Clone(c.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, map[string]string{
		LabelReleaseID: s.Sticker.Content.ReleaseID, LabelReleaseName: c.ReleaseName, LabelDigest: s.Digest,
		LabelDeployedAt: s.Sticker.Content.DeployedAt.Format(time.RFC3339),
		LabelTaskID:     d.task.ID, LabelTargetID: d.task.TargetID,
	})
	env := make([]string, 0, len(c.Environment))
	for _, name := range slices.Sorted(maps.Keys(c.Environment)) {
		env = append(env, name+"="+c.Environment[name])
	}
	host := &container.HostConfig{
		PortBindings: bindings, Binds: c.Volumes, RestartPolicy: restart,
		Resources: container.Resources{Memory: c.MemoryLimit, NanoCPUs: int64(c.CPULimit * 1e9)},
	}
	var endpoints *network.NetworkingConfig
	if len(c.Networks) > 0 {
		host.NetworkMode = container.NetworkMode(c.Networks[0])
		if host.NetworkMode.IsUserDefined() {
			endpoints = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{c.Networks[0]: {}}}
		}
	}
	made, err := d.engine.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name:       s.Temp,
		Config:     &container.Config{Image: img.String(), Env: env, Cmd: c.Command, Labels: labels, ExposedPorts: exposed},
		HostConfig: host, NetworkingConfig: endpoints,
	})
	if err != nil {
		return switchError("create the container", err)
	}
	s.New = made.ID
	for _, warning := range made.Warnings {
		d.env.Log.Line("system", "the engine warns: "+warning)
	}
	// Engines before 25 take one network at creation.
	for _, name := range c.Networks[min(1, len(c.Networks)):] {
		if _, err := d.engine.NetworkConnect(ctx, name, client.NetworkConnectOptions{Container: made.ID}); err != nil {
			return switchError("connect the container to the network "+name, err)
		}
	}
	return nil
}

// switchError says what an engine's refusal means.
func switchError(what string, err error) error {
	if client.IsErrConnectionFailed(err) {
		return engine.Error(api.ErrSwitchFailed, err)
	}
	hint := ""
	switch text := strings.ToLower(err.Error()); {
	case strings.Contains(text, "port is already allocated"), strings.Contains(text, "address already in use"):
		hint = "; another container or program has this port: stop it, or choose another in config.ports"
	case strings.Contains(text, "network") && strings.Contains(text, "not found"), strings.Contains(text, "no such network"):
		hint = "; make the network, or correct config.networks"
	case strings.Contains(text, "volume"), strings.Contains(text, "mount"):
		hint = "; correct config.volumes"
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		hint = "; the image does not have this program: correct config.command"
	}
	return deploy.Fail(api.ErrSwitchFailed, "%s: %w%s", what, err, hint)
}

// switchBack brings the old container back, however far switchOver came. What
// the task made is found by its label: the task may have been killed before it
// knew the container's id.
func (d *deployment) switchBack(ctx context.Context) error {
	s := d.state
	if s.Restoring != "" {
		if err := d.park(ctx); err != nil {
			return err
		}
	} else if err := d.removeMade(ctx); err != nil {
		return err
	}
	if s.Old == "" {
		return nil
	}
	old, err := d.find(ctx, s.Old)
	if err != nil {
		return err
	}
	if old == nil {
		return fmt.Errorf("the previous container %.12s (%s) was removed by somebody", s.Old, s.OldSays)
	}
	if s.Stopping && nameOf(old) == s.Name && old.State.Running {
		// It was to be stopped, and its name says that nobody saw it stop: the
		// engine may be at it still. A second stop waits for the first.
		if _, err := d.engine.ContainerStop(ctx, s.Old, client.ContainerStopOptions{Timeout: &s.Stop}); err != nil {
			return fmt.Errorf("stop the previous container before it is started again: %w", err)
		}
		old.State.Running = false
	}
	if nameOf(old) != s.Name {
		if _, err := d.engine.ContainerRename(ctx, s.Old, client.ContainerRenameOptions{NewName: s.Name}); err != nil {
			return fmt.Errorf("rename the previous container back to %s: %w", s.Name, err)
		}
	}
	if s.OldRunning && !old.State.Running {
		if _, err := d.engine.ContainerStart(ctx, s.Old, client.ContainerStartOptions{}); err != nil {
			return fmt.Errorf("start the previous container again: %w", err)
		}
	}
	return nil
}

// park stops the container that a rollback went back to and gives it its
// former name.
func (d *deployment) park(ctx context.Context) error {
	s := d.state
	c, err := d.find(ctx, s.Restoring)
	if err != nil || c == nil {
		return err
	}
	if c.State.Running || c.State.Restarting {
		if _, err := d.engine.ContainerStop(ctx, s.Restoring, client.ContainerStopOptions{Timeout: &s.Stop}); err != nil {
			return fmt.Errorf("stop the container %s: %w", nameOf(c), err)
		}
	}
	if nameOf(c) == s.RestoringName {
		return nil
	}
	if _, err := d.engine.ContainerRename(ctx, s.Restoring, client.ContainerRenameOptions{NewName: s.RestoringName}); err != nil {
		return fmt.Errorf("rename the container %s back to %s: %w", nameOf(c), s.RestoringName, err)
	}
	return nil
}

// removeMade removes the containers that this task has made.
func (d *deployment) removeMade(ctx context.Context) error {
	made, err := d.engine.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", LabelTaskID+"="+d.task.ID),
	})
	if err != nil {
		return fmt.Errorf("list the containers of task %s: %w", d.task.ID, err)
	}
	for _, c := range made.Items {
		if err := d.remove(ctx, c.ID, true); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a container, if it is there, and returns when it is gone.
// The volumes without a name go with a container that failed; those of one
// that has served may hold data.
func (t *target) remove(ctx context.Context, id string, volumes bool) error {
	if id == "" {
		return nil
	}
	_, err := t.engine.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: volumes})
	switch {
	case err == nil, cerrdefs.IsNotFound(err):
		return nil
	case !strings.Contains(err.Error(), "already in progress"):
		return fmt.Errorf("remove the container %.12s: %w", id, err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := t.find(ctx, id); err != nil || c == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// keptContainer is a previous container that was kept.
type keptContainer struct {
	id, name string
}

// kept are the previous containers of a name, the newest first.
func (t *target) kept(ctx context.Context, name string) ([]keptContainer, error) {
	all, err := t.engine.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("name", name+"-previous-"),
	})
	if err != nil {
		return nil, engine.Error(api.ErrSwitchFailed, err)
	}
	var found []keptContainer
	for _, c := range all.Items {
		for _, n := range c.Names {
			n = strings.TrimPrefix(n, "/")
			if previousPattern.ReplaceAllString(n, "") == name && n != name {
				found = append(found, keptContainer{c.ID, n})
			}
		}
	}
	slices.SortFunc(found, func(a, b keptContainer) int {
		return cmp.Or(cmp.Compare(len(b.name), len(a.name)), cmp.Compare(b.name, a.name))
	})
	return found, nil
}
