package docker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/docker/engine"
)

// settings reads a container that Stella made back into the payload of a
// deployment of another digest: what its image gave it is left to the new
// image.
func (t *target) settings(ctx context.Context, c *container.InspectResponse, repository, digest string) (*api.DeployPayload, error) {
	from, err := t.engine.ImageInspect(ctx, c.Image)
	if err != nil {
		return nil, engine.Error(api.ErrSwitchFailed, err)
	}
	var imageEnv, imageCmd []string
	var imageLabels map[string]string
	if from.Config != nil {
		imageEnv, imageCmd, imageLabels = from.Config.Env, from.Config.Cmd, from.Config.Labels
	}
	p := &api.DeployPayload{Image: repository, Digest: digest}
	p.Config.ContainerName = nameOf(c)
	p.Config.Environment = map[string]string{}
	for _, kv := range c.Config.Env {
		if name, value, ok := strings.Cut(kv, "="); ok && !slices.Contains(imageEnv, kv) {
			p.Config.Environment[name] = value
		}
	}
	for _, port := range slices.SortedFunc(maps.Keys(c.HostConfig.PortBindings), comparePorts) {
		for _, b := range c.HostConfig.PortBindings[port] {
			s := b.HostPort + ":" + port.String()
			switch {
			case b.HostIP.Is6():
				s = "[" + b.HostIP.String() + "]:" + s
			case b.HostIP.IsValid():
				s = b.HostIP.String() + ":" + s
			}
			p.Config.Ports = append(p.Config.Ports, s)
		}
	}
	p.Config.Volumes = c.HostConfig.Binds
	if c.HostConfig.NetworkMode != "default" && c.HostConfig.NetworkMode != "bridge" && c.HostConfig.NetworkMode != "" {
		p.Config.Networks = []string{string(c.HostConfig.NetworkMode)}
		for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
			if name != string(c.HostConfig.NetworkMode) {
				p.Config.Networks = append(p.Config.Networks, name)
			}
		}
	}
	restart := c.HostConfig.RestartPolicy
	p.Config.RestartPolicy = string(restart.Name)
	if restart.Name == container.RestartPolicyOnFailure {
		p.Config.RestartPolicy = fmt.Sprintf("on-failure:%d", restart.MaximumRetryCount)
	}
	p.Config.MemoryLimit = c.HostConfig.Memory
	p.Config.CPULimit = float64(c.HostConfig.NanoCPUs) / 1e9
	if !slices.Equal(c.Config.Cmd, imageCmd) {
		p.Config.Command = c.Config.Cmd
	}
	p.Config.Labels = map[string]string{}
	for name, value := range c.Config.Labels {
		if imageLabels[name] != value && !strings.HasPrefix(name, "stella.") {
			p.Config.Labels[name] = value
		}
	}
	return p, nil
}
