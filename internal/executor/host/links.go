package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"stella-ops.org/stella/internal/atomicfile"
)

// symlink makes link point to target, in place of whatever link pointed to
// before. tmp is a name beside link that nothing else uses; one that a crash
// left there is replaced.
func symlink(target, link, tmp string) error {
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link %s to %s: %w", link, target, err)
	}
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("link %s to %s: %w", link, target, err)
	}
	if err := os.Rename(tmp, link); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("link %s to %s: %w", link, target, err)
	}
	return atomicfile.SyncDir(filepath.Dir(link))
}

// remove removes the file at path, if it is there, and returns when that is on
// disk.
func remove(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}
