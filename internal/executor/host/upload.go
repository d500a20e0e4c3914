package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/executor/artifact"
)

// uploadState is what an upload keeps in the journal.
//
// Below <directory>/<Staging>, new/<i> is file i until it is put in its place,
// and old/<i> is what was in that place. So an undo sees for each file whether
// it was put there and what it replaced.
type uploadState struct {
	Directory string   `json:"directory"`
	Staging   string   `json:"staging"`
	Names     []string `json:"names"`
}

type uploading struct {
	files []api.ArtifactReference
	log   deploy.Log
	store artifact.Source
}

func (e *Executor) upload(ctx context.Context, task *api.AgentTask, env executor.Env) (*api.TaskResult, error) {
	p, err := payload[api.UploadPayload](task)
	if err != nil {
		return nil, err
	}
	dir, err := directory(task)
	if err != nil {
		return nil, err
	}
	if len(p.Files) == 0 {
		return nil, deploy.Fail(api.ErrInvalidPayload, "there are no files to upload")
	}
	s := &uploadState{Directory: dir, Staging: ".stella-upload-" + task.ID}
	seen := map[string]bool{}
	for i := range p.Files {
		if err := artifact.Validate(&p.Files[i]); err != nil {
			return nil, err
		}
		name := p.Files[i].Name
		if seen[name] {
			return nil, deploy.Fail(api.ErrInvalidPayload, "the file %q is there twice", name)
		}
		seen[name] = true
		s.Names = append(s.Names, name)
	}
	return deploy.Run(ctx, task, s.plan(&uploading{files: p.Files, log: env.Log, store: env.Artifacts}), env.Journal, env.Log), nil
}

// plan is the upload's steps; u is nil after a crash.
func (s *uploadState) plan(u *uploading) *deploy.Plan {
	return &deploy.Plan{
		State: s,
		Steps: []deploy.Step{
			{Name: deploy.PhaseVerify, Do: func(ctx context.Context) error { return s.stage(ctx, u) }, Undo: s.drop},
			{Name: "upload", Do: s.place, Undo: s.takeBack, Changes: true},
		},
		Finish: []deploy.Step{{Name: deploy.PhaseCleanup, Do: s.drop}},
		Outputs: func() map[string]any {
			return map[string]any{"files": s.Names, "directory": s.Directory}
		},
		Restored: func() (bool, string) { return true, "The files are as they were before" },
	}
}

func (s *uploadState) root() (*os.Root, error) {
	if err := os.MkdirAll(s.Directory, dirMode); err != nil {
		return nil, fmt.Errorf("make the target's folder: %w", err)
	}
	return os.OpenRoot(s.Directory)
}

func (s *uploadState) stage(ctx context.Context, u *uploading) error {
	root, err := s.root()
	if err != nil {
		return err
	}
	defer root.Close()
	for _, dir := range []string{"new", "old"} {
		if err := root.MkdirAll(path.Join(s.Staging, dir), 0o700); err != nil {
			return err
		}
	}
	for i := range u.files {
		size, err := put(ctx, root, s.fresh(i), &u.files[i], u.store)
		if err != nil {
			return err
		}
		u.log.Line("system", fmt.Sprintf("%s: %d bytes, %s", u.files[i].Name, size, verified(&u.files[i])))
	}
	return nil
}

func (s *uploadState) fresh(i int) string  { return path.Join(s.Staging, "new", strconv.Itoa(i)) }
func (s *uploadState) former(i int) string { return path.Join(s.Staging, "old", strconv.Itoa(i)) }

func (s *uploadState) place(ctx context.Context) error {
	root, err := s.root()
	if err != nil {
		return err
	}
	defer root.Close()
	for i, name := range s.Names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if dir := path.Dir(name); dir != "." {
			if err := root.MkdirAll(dir, dirMode); err != nil {
				return deploy.Fail(api.ErrInvalidPayload, "make the folder of %q: %w", name, err)
			}
		}
		info, err := root.Lstat(name)
		switch {
		case err == nil && info.IsDir():
			return deploy.Fail(api.ErrInvalidPayload, "%q is a folder; upload to a file's name", name)
		case err == nil:
			if err := root.Link(name, s.former(i)); err != nil {
				return fmt.Errorf("keep the former %q: %w", name, err)
			}
		case !errors.Is(err, fs.ErrNotExist):
			return deploy.Fail(api.ErrInvalidPayload, "look at %q: %w", name, err)
		}
		if err := root.Rename(s.fresh(i), name); err != nil {
			return fmt.Errorf("put %q in its place: %w", name, err)
		}
	}
	return nil
}

func (s *uploadState) takeBack(context.Context) error {
	root, err := s.root()
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Lstat(s.Staging); errors.Is(err, fs.ErrNotExist) {
		return nil // an earlier undo came past here already
	}
	for i, name := range s.Names {
		if _, err := root.Lstat(s.fresh(i)); err == nil {
			continue // it was never put in its place
		}
		_, err := root.Lstat(s.former(i))
		switch {
		case err == nil:
			// The former file stays in the staging folder too, so that this
			// can be done again.
			again := s.former(i) + ".back"
			if err := root.Link(s.former(i), again); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			if err := root.Rename(again, name); err != nil {
				return err
			}
		case errors.Is(err, fs.ErrNotExist):
			if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

func (s *uploadState) drop(context.Context) error {
	return os.RemoveAll(path.Join(s.Directory, s.Staging))
}
