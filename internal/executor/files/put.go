package files

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/artifact"
)

// Put gets an artifact, verifies its digest and writes it to a name below a
// root, where nothing may be yet. It returns when the content is on disk and,
// if it is a program, may be executed. Store may be nil where there is none.
func Put(ctx context.Context, root *os.Root, name string, a *api.ArtifactReference, store artifact.Source) (int64, error) {
	mode, err := artifact.Mode(a)
	if err != nil {
		return 0, err
	}
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, dirMode); err != nil {
			return 0, fmt.Errorf("make the folder of %q: %w", a.Name, err)
		}
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, deploy.Fail(api.ErrInvalidPayload, "write %q: %w", a.Name, err)
	}
	defer f.Close()
	size, err := artifact.Copy(ctx, f, a, store)
	if err != nil {
		return 0, err
	}
	if err := f.Chmod(mode); err != nil {
		return 0, fmt.Errorf("write %q: %w", a.Name, err)
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("write %q: %w", a.Name, err)
	}
	if err := f.Close(); err != nil {
		return 0, fmt.Errorf("write %q: %w", a.Name, err)
	}
	if mode&0o111 != 0 {
		err = settle(ctx, filepath.Join(root.Name(), filepath.FromSlash(name)))
	}
	return size, err
}

// Said is what a log says of an artifact that was put somewhere.
func Said(a *api.ArtifactReference, size int64) string {
	verified := "digest verified"
	if a.Digest == "" {
		verified = "no digest given"
	}
	return fmt.Sprintf("%s: %d bytes, %s", a.Name, size, verified)
}
