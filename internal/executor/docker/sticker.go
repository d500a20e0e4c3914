package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"path/filepath"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/sticker"
)

// stickerPlace is where a target keeps its sticker: a file on the agent's
// host, or one in a volume of the engine's.
type stickerPlace struct {
	Path   string `json:"path"`
	Volume string `json:"volume,omitempty"`
}

// stickerState is what the journal keeps of a sticker.
type stickerState struct {
	Place   stickerPlace       `json:"place"`
	Content api.VersionSticker `json:"content"`
	Former  *sticker.Former    `json:"former,omitempty"`
	// Helper is the image of the container that reaches the volume.
	Helper string `json:"helper,omitempty"`
}

const (
	volumePath = "/var/stella/version.json"
	stickerMax = 1 << 20
)

func (t *target) stickerPlace() (stickerPlace, error) {
	c := t.task.Target.Config
	switch c.StickerLocation {
	case "", "file":
		p := c.StickerPath
		if p == "" {
			p = filepath.Join(t.env.DataDir, "docker", "stickers", url.PathEscape(t.task.TargetID)+".json")
		}
		if !filepath.IsAbs(p) {
			return stickerPlace{}, invalid("config.stickerPath of target %s is %q; it must be absolute", t.task.Target.Name, p)
		}
		return stickerPlace{Path: filepath.Clean(p)}, nil
	case "volume":
		p := c.StickerPath
		if p == "" {
			p = volumePath
		}
		if c.StickerVolume == "" || !path.IsAbs(p) || path.Dir(path.Clean(p)) == "/" {
			return stickerPlace{}, invalid("target %s keeps its sticker in a volume: config.stickerVolume must name it, and config.stickerPath, "+
				"if given, be an absolute path in a folder, where the volume is mounted", t.task.Target.Name)
		}
		return stickerPlace{Path: path.Clean(p), Volume: c.StickerVolume}, nil
	}
	return stickerPlace{}, invalid("config.stickerLocation of target %s is %q; use file or volume", t.task.Target.Name, c.StickerLocation)
}

func (t *target) newSticker(place stickerPlace, now time.Time) stickerState {
	return stickerState{Place: place, Content: api.VersionSticker{
		TargetID: t.task.TargetID, TargetName: t.task.Target.Name, Environment: t.task.Target.Environment,
		TaskID: t.task.ID, AgentID: t.env.AgentID, DeployedAt: now,
	}}
}

// loadSticker notes what is there before the sticker is written.
func (d *deployment) loadSticker(ctx context.Context) error {
	s := &d.state.Sticker
	former, err := d.readPlace(ctx, s.Place, s.Helper)
	if err != nil {
		return err
	}
	s.Former = &former
	return nil
}

func (d *deployment) writeSticker(ctx context.Context) error {
	s := &d.state.Sticker
	data, err := sticker.Encode(&s.Content)
	if err != nil {
		return err
	}
	if s.Place.Volume == "" {
		return sticker.Write(s.Place.Path, data)
	}
	return d.withVolume(ctx, s.Place, s.Helper, func(id string) error {
		if err := d.putFile(ctx, id, s.Place.Path, data); err != nil {
			return fmt.Errorf("write the sticker into the volume %s: %w", s.Place.Volume, err)
		}
		back, err := d.getFile(ctx, id, s.Place.Path)
		if err != nil {
			return err
		}
		if !bytes.Equal(back.Data, data) {
			return fmt.Errorf("the sticker in the volume %s reads back differently; something else writes it", s.Place.Volume)
		}
		return nil
	})
}

// restoreSticker puts the former sticker back if this task's is there.
func (d *deployment) restoreSticker(ctx context.Context) error {
	if err := d.removeHelpers(ctx); err != nil {
		return err
	}
	s := &d.state.Sticker
	if s.Former == nil {
		return nil
	}
	if s.Place.Volume == "" {
		return sticker.Undo(s.Place.Path, &s.Content, *s.Former)
	}
	data, err := sticker.Encode(&s.Content)
	if err != nil {
		return err
	}
	return d.withVolume(ctx, s.Place, s.Helper, func(id string) error {
		now, err := d.getFile(ctx, id, s.Place.Path)
		if err != nil || !now.Existed || !bytes.Equal(now.Data, data) {
			return err
		}
		// A file cannot be removed by the archive API: where there was none,
		// an empty one says that nothing is known.
		return d.putFile(ctx, id, s.Place.Path, s.Former.Data)
	})
}

// readPlace reads what is where a sticker is kept; an empty file is none.
func (t *target) readPlace(ctx context.Context, place stickerPlace, helper string) (former sticker.Former, err error) {
	if place.Volume == "" {
		return sticker.Load(place.Path)
	}
	err = t.withVolume(ctx, place, helper, func(id string) error {
		former, err = t.getFile(ctx, id, place.Path)
		return err
	})
	if len(former.Data) == 0 {
		former = sticker.Former{}
	}
	return former, err
}

// withVolume calls f with a container that has the volume mounted and is never
// started: the archive API reads and writes there all the same, and no image
// with tools in it is needed.
func (t *target) withVolume(ctx context.Context, place stickerPlace, image string, f func(id string) error) error {
	if image == "" {
		return deploy.Fail(api.ErrUnsupported, "the sticker is in the volume %s, and no container of target %s is there to reach it through; deploy first",
			place.Volume, t.task.Target.Name)
	}
	made, err := t.engine.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config: &container.Config{
			Image: image, Cmd: []string{"never-started"}, NetworkDisabled: true,
			Labels: map[string]string{labelHelper: "sticker", LabelTaskID: t.task.ID, LabelTargetID: t.task.TargetID},
		},
		HostConfig: &container.HostConfig{Mounts: []mount.Mount{{
			Type: mount.TypeVolume, Source: place.Volume, Target: path.Dir(place.Path),
			VolumeOptions: &mount.VolumeOptions{NoCopy: true},
		}}},
	})
	if err != nil {
		return fmt.Errorf("reach the volume %s: %w", place.Volume, err)
	}
	err = f(made.ID)
	return errors.Join(err, t.remove(context.WithoutCancel(ctx), made.ID, false))
}

// removeHelpers removes what a killed withVolume left.
func (t *target) removeHelpers(ctx context.Context) error {
	left, err := t.engine.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", LabelTaskID+"="+t.task.ID, labelHelper),
	})
	if err != nil {
		return fmt.Errorf("list the helpers of task %s: %w", t.task.ID, err)
	}
	var errs []error
	for _, c := range left.Items {
		errs = append(errs, t.remove(ctx, c.ID, false))
	}
	return errors.Join(errs...)
}

func (t *target) putFile(ctx context.Context, id, name string, data []byte) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: path.Base(name), Mode: 0o644, Size: int64(len(data)), ModTime: time.Now()}); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, err := t.engine.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: path.Dir(name), Content: &archive})
	return err
}

func (t *target) getFile(ctx context.Context, id, name string) (sticker.Former, error) {
	res, err := t.engine.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: name})
	if cerrdefs.IsNotFound(err) {
		return sticker.Former{}, nil
	}
	if err != nil {
		return sticker.Former{}, fmt.Errorf("read %s: %w", name, err)
	}
	defer res.Content.Close()
	r := tar.NewReader(res.Content)
	header, err := r.Next()
	if err != nil {
		return sticker.Former{}, fmt.Errorf("read %s: %w", name, err)
	}
	if header.Typeflag != tar.TypeReg || header.Size > stickerMax {
		return sticker.Former{}, fmt.Errorf("%s is not a file of less than 1 MiB; choose another path for the sticker", name)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return sticker.Former{}, fmt.Errorf("read %s: %w", name, err)
	}
	return sticker.Former{Existed: true, Data: data}, nil
}

// helperImage is an image through which the target's volume can be reached:
// that of its container.
func (t *target) helperImage(ctx context.Context, place stickerPlace, name string) (string, error) {
	if place.Volume == "" {
		return "", nil
	}
	c, err := t.named(ctx, name)
	if err != nil || c == nil {
		return "", err
	}
	return c.Image, nil
}

func (t *target) writeStickerTask(ctx context.Context) (*api.TaskResult, error) {
	p, err := payload[api.StickerPayload](t.task)
	if err != nil {
		return nil, err
	}
	place, err := t.stickerPlace()
	if err != nil {
		return nil, err
	}
	name, err := t.containerName(p.ContainerName)
	if err != nil {
		return nil, err
	}
	if p.Sticker.TaskID == "" {
		p.Sticker.TaskID = t.task.ID
	}
	s := &state{Sticker: stickerState{Place: place, Content: p.Sticker}}
	if s.Sticker.Helper, err = t.helperImage(ctx, place, name); err != nil {
		return nil, err
	}
	d := &deployment{target: t, state: s}
	if err := d.loadSticker(ctx); err != nil {
		return nil, err
	}
	return deploy.Run(ctx, t.task, d.plan(), t.env.Journal, t.env.Log), nil
}

func (t *target) readStickerTask(ctx context.Context) (*api.TaskResult, error) {
	started := time.Now()
	place, err := t.stickerPlace()
	if err != nil {
		return nil, err
	}
	name, err := t.containerName("")
	if err != nil {
		return nil, err
	}
	helper, err := t.helperImage(ctx, place, name)
	if err != nil {
		return nil, err
	}
	former, err := t.readPlace(ctx, place, helper)
	if err != nil {
		return nil, err
	}
	outputs := map[string]any{"found": former.Existed, "path": place.Path}
	if place.Volume != "" {
		outputs["volume"] = place.Volume
	}
	if former.Existed {
		s, err := sticker.Decode(former.Data)
		if err != nil {
			return nil, deploy.Fail(api.ErrInternal, "%s: %w", place.Path, err)
		}
		outputs["sticker"] = s
	}
	return deploy.Ended(ctx, t.task, started, outputs, nil), nil
}
