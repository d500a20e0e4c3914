package compose

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/healthcheck"
)

// rollback goes back to the version whose files were kept; where there is
// none, or another release is asked for, it repeats the deployment that the
// server has filled in.
func (t *target) rollback(ctx context.Context) (*api.TaskResult, error) {
	p, err := payload[api.RollbackPayload](t.task)
	if err != nil {
		return nil, err
	}
	kept, err := readRelease(filepath.Join(t.dir, previousName))
	if err != nil {
		return nil, err
	}
	if kept == nil || kept.Project != t.project || p.ReleaseID != "" && p.ReleaseID != kept.ReleaseID {
		if p.Deploy != nil {
			t.env.Log.Line("system", "the version to go back to was not kept; it is deployed again")
			return t.deploy(ctx, p.Deploy)
		}
		what := "a version before the one that runs"
		if p.ReleaseID != "" {
			what = "release " + p.ReleaseID
		}
		return nil, deploy.Fail(api.ErrNothingToRestore, "%s was not kept in %s, and no earlier deployment is known; deploy the version that you want",
			what, filepath.Join(t.dir, previousName))
	}
	if err := healthcheck.Validate(kept.HealthCheck, healthTypes...); err != nil {
		return nil, err
	}
	d, err := t.prepare(&api.DeployPayload{})
	if err != nil {
		return nil, err
	}
	s := d.state
	s.Restoring, s.New, d.release = true, &kept.model, kept
	if s.Files.Names, err = filesBelow(filepath.Join(t.dir, previousName)); err != nil {
		return nil, err
	}
	s.Sticker.ReleaseID, s.Sticker.ReleaseName = kept.ReleaseID, kept.ReleaseName
	return d.begin(ctx)
}

// fromPrevious stages the files that were kept. They stay where they are kept
// too, until the version stands.
func (d *deployment) fromPrevious(root *os.Root) error {
	for _, name := range d.state.Files.Names {
		to := d.state.Files.New(name)
		if err := root.MkdirAll(path.Dir(to), 0o755); err != nil {
			return err
		}
		if err := root.Link(path.Join(previousName, name), to); err != nil {
			return fmt.Errorf("bring the kept %q: %w", name, err)
		}
	}
	d.env.Log.Line("system", fmt.Sprintf("going back to %s, whose %d files were kept", d.release.says(), len(d.state.Files.Names)))
	return d.readEnvFiles(root)
}

// filesBelow are the names of all files below a folder, in order.
func filesBelow(dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, p)
		names = append(names, filepath.ToSlash(name))
		return err
	})
	slices.Sort(names)
	return names, err
}
