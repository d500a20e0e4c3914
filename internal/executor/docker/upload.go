package docker

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/artifact"
	"stella-ops.org/stella/internal/executor/docker/engine"
)

// uploadState is what an upload keeps in the journal.
type uploadState struct {
	Container string   `json:"container"`
	Folder    string   `json:"folder"` // on the agent's host, with the archive
	Names     []string `json:"names"`
}

// upload puts files into the container, all or none: they are gathered and
// verified on the agent's host first and go over as one archive. What has gone
// over is not taken back: the engine has no call for it.
func (t *target) upload(ctx context.Context) (*api.TaskResult, error) {
	p, err := payload[api.UploadPayload](t.task)
	if err != nil {
		return nil, err
	}
	if len(p.Files) == 0 {
		return nil, invalid("there are no files to upload")
	}
	name, err := t.containerName(p.ContainerName)
	if err != nil {
		return nil, err
	}
	s := &uploadState{Folder: filepath.Join(t.env.DataDir, "docker", "upload-"+t.task.ID)}
	seen := map[string]bool{}
	for i := range p.Files {
		f := &p.Files[i]
		if err := artifact.Validate(f); err != nil {
			return nil, err
		}
		if seen[f.Name] {
			return nil, invalid("the file %q is there twice", f.Name)
		}
		seen[f.Name] = true
		s.Names = append(s.Names, f.Name)
	}
	c, err := t.named(ctx, name)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, deploy.Fail(api.ErrSwitchFailed, "there is no container %s to upload to; deploy one first", name)
	}
	s.Container = c.ID
	return deploy.Run(ctx, t.task, t.uploadPlan(s, p.Files), t.env.Journal, t.env.Log), nil
}

func (t *target) uploadPlan(s *uploadState, files []api.ArtifactReference) *deploy.Plan {
	drop := func(context.Context) error { return os.RemoveAll(s.Folder) }
	return &deploy.Plan{
		State: s,
		Steps: []deploy.Step{
			{Name: deploy.PhaseVerify, Do: func(ctx context.Context) error { return t.gather(ctx, s, files) }, Undo: drop},
			{Name: "upload", Do: func(ctx context.Context) error { return t.send(ctx, s) }},
		},
		Finish:  []deploy.Step{{Name: deploy.PhaseCleanup, Do: drop}},
		Outputs: func() map[string]any { return map[string]any{"files": s.Names, "containerId": s.Container} },
	}
}

func archiveOf(folder string) string { return filepath.Join(folder, "files.tar") }

// gather writes the verified files into one archive.
func (t *target) gather(ctx context.Context, s *uploadState, files []api.ArtifactReference) error {
	if err := os.MkdirAll(s.Folder, 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(archiveOf(s.Folder), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	for i := range files {
		if err := add(ctx, w, s.Folder, &files[i], t.env.Artifacts); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), out.Close())
}

// add gets a file, whose size an archive must know beforehand, and appends it.
func add(ctx context.Context, w *tar.Writer, folder string, a *api.ArtifactReference, store artifact.Source) error {
	mode, err := artifact.Mode(a)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(folder, "file-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	defer f.Close()
	size, err := artifact.Copy(ctx, f, a, store)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: a.Name, Mode: int64(mode), Size: size, ModTime: time.Now()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

func (t *target) send(ctx context.Context, s *uploadState) error {
	in, err := os.Open(archiveOf(s.Folder))
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := t.engine.CopyToContainer(ctx, s.Container, client.CopyToContainerOptions{DestinationPath: "/", Content: in}); err != nil {
		return engine.Error(api.ErrSwitchFailed, fmt.Errorf("put the files into the container %.12s: %w", s.Container, err))
	}
	return nil
}
