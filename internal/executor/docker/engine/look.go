package engine

import (
	"context"
	"encoding/json"
	"fmt"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
)

// Containers are what the engine at an address says of the containers that have
// a label, running or not, read into a type with the fields that the caller
// wants. What is removed meanwhile is left out.
func Containers[T any](ctx context.Context, e *Engines, addr, label string) ([]T, error) {
	c, err := e.At(addr)
	if err != nil {
		return nil, err
	}
	there, err := c.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", label)})
	if err != nil {
		return nil, Error(api.ErrSwitchFailed, fmt.Errorf("list the containers with the label %s: %w", label, err))
	}
	var all []T
	for i := range there.Items {
		res, err := c.ContainerInspect(ctx, there.Items[i].ID, client.ContainerInspectOptions{})
		if cerrdefs.IsNotFound(err) {
			continue
		}
		var one T
		if err == nil {
			err = json.Unmarshal(res.Raw, &one)
		}
		if err != nil {
			return nil, Error(api.ErrSwitchFailed, fmt.Errorf("look at the container %.12s: %w", there.Items[i].ID, err))
		}
		all = append(all, one)
	}
	return all, nil
}

// Image is an image that an engine has.
type Image struct {
	ID          string
	RepoDigests []string
}

// Images are those of the named images that the engine at an address has, by
// the names that were given.
func Images(ctx context.Context, e *Engines, addr string, names []string) (map[string]Image, error) {
	c, err := e.At(addr)
	if err != nil {
		return nil, err
	}
	here := map[string]Image{}
	for _, name := range names {
		if _, known := here[name]; known {
			continue
		}
		img, err := c.ImageInspect(ctx, name)
		switch {
		case cerrdefs.IsNotFound(err):
		case err != nil:
			return nil, Error(api.ErrPullFailed, fmt.Errorf("look at the image %s: %w", name, err))
		default:
			here[name] = Image{ID: img.ID, RepoDigests: img.RepoDigests}
		}
	}
	return here, nil
}

// Networks are the names of the networks that have a label.
func Networks(ctx context.Context, e *Engines, addr, label string) ([]string, error) {
	c, err := e.At(addr)
	if err != nil {
		return nil, err
	}
	res, err := c.NetworkList(ctx, client.NetworkListOptions{Filters: make(client.Filters).Add("label", label)})
	if err != nil {
		return nil, Error(api.ErrSwitchFailed, fmt.Errorf("list the networks with the label %s: %w", label, err))
	}
	names := make([]string, len(res.Items))
	for i := range res.Items {
		names[i] = res.Items[i].Name
	}
	return names, nil
}
