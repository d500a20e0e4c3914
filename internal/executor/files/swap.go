// Package files puts files that go with a task into a folder of a target on
// the agent's own host, all together, and takes them back.
//
// It knows artifacts and folders. What the files are, and what is done with
// them, is its callers' business.
package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/atomicfile"
	"stella-ops.org/stella/internal/deploy"
)

// dirMode is what folders get that files are put into.
const dirMode fs.FileMode = 0o755

// Swap is a set of files that take the place of others in a folder. It goes
// into the journal; it holds names alone.
//
// <Directory>/<Staging>/<name> is a new file until it is put in its place, and
// <Directory>/<Backup>/<name> is what was in that place, as another link to
// the same file. So an undo sees for each name whether it was put there and
// what it replaced, and gives back the very file: its content, its owner and
// its permissions.
//
// The order is: stage each file, Prepare, Backup, Place; then either Drop, or
// TakeBack and Drop. It is for one goroutine.
type Swap struct {
	Directory string `json:"directory"`
	Staging   string `json:"staging"`
	Backup    string `json:"backup"`
	// Names are the files that are put in their places.
	Names []string `json:"names"`
	// Gone are files that are taken away.
	Gone []string `json:"gone,omitempty"`
	// Folders are those that Place makes, the outermost first.
	Folders []string `json:"folders,omitempty"`
}

// Root opens the folder, which is made when it is not there.
func (s *Swap) Root() (*os.Root, error) {
	if err := os.MkdirAll(s.Directory, dirMode); err != nil {
		return nil, fmt.Errorf("make the target's folder: %w", err)
	}
	return os.OpenRoot(s.Directory)
}

// New is where a new file is until it is placed, and Old what it replaces,
// below the folder.
func (s *Swap) New(name string) string { return path.Join(s.Staging, name) }

// Old is where the file is kept that a new one replaces, below the folder.
func (s *Swap) Old(name string) string { return path.Join(s.Backup, name) }

// Open makes the staging folder, empty, which only the agent may look into.
func (s *Swap) Open(root *os.Root) error {
	if err := root.RemoveAll(s.Staging); err != nil {
		return err
	}
	return root.MkdirAll(s.Staging, 0o700)
}

// Prepare notes which folders will have to be made, and refuses names that
// cannot be put in place. Nothing is changed.
func (s *Swap) Prepare() error {
	root, err := s.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	s.Folders = nil
	for _, name := range s.Names {
		info, err := root.Lstat(name)
		switch {
		case err == nil && info.IsDir():
			return deploy.Fail(api.ErrInvalidPayload, "%q is a folder; choose a file's name", name)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return deploy.Fail(api.ErrInvalidPayload, "look at %q: %w", name, err)
		}
		for i := range name {
			if name[i] != '/' || slices.Contains(s.Folders, name[:i]) {
				continue
			}
			if _, err := root.Lstat(name[:i]); errors.Is(err, fs.ErrNotExist) {
				s.Folders = append(s.Folders, name[:i])
			}
		}
	}
	return nil
}

// KeepOld links what is in the places now into the backup folder.
func (s *Swap) KeepOld(ctx context.Context) error {
	root, err := s.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.RemoveAll(s.Backup); err != nil {
		return err
	}
	if err := root.MkdirAll(s.Backup, 0o700); err != nil {
		return err
	}
	for _, name := range slices.Concat(s.Names, s.Gone) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := link(root, name, s.Old(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("keep the former %q: %w", name, err)
		}
	}
	return nil
}

// link makes the file at from be at to as well.
func link(root *os.Root, from, to string) error {
	if _, err := root.Lstat(from); err != nil {
		return err
	}
	if err := root.MkdirAll(path.Dir(to), 0o700); err != nil {
		return err
	}
	return root.Link(from, to)
}

// Place puts the new files in their places and takes away those that are to
// go. Each file is there whole, in its old or its new form, all the time.
func (s *Swap) Place(ctx context.Context) error {
	root, err := s.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range s.Names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if dir := path.Dir(name); dir != "." {
			if err := root.MkdirAll(dir, dirMode); err != nil {
				return deploy.Fail(api.ErrInvalidPayload, "make the folder of %q: %w", name, err)
			}
		}
		if err := root.Rename(s.New(name), name); err != nil {
			return fmt.Errorf("put %q in its place: %w", name, err)
		}
	}
	for _, name := range s.Gone {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("take %q away: %w", name, err)
		}
	}
	return atomicfile.SyncDir(s.Directory)
}

// TakeBack makes the places be as they were before Place, however far that
// came; it may be called again.
func (s *Swap) TakeBack() error {
	root, err := s.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Lstat(s.Staging); errors.Is(err, fs.ErrNotExist) {
		return nil // an earlier undo came past here already
	}
	for _, name := range s.Names {
		if _, err := root.Lstat(s.New(name)); err == nil {
			continue // it was never put in its place
		}
		kept, err := s.giveBack(root, name)
		if err != nil {
			return err
		}
		if kept {
			continue
		}
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, name := range s.Gone {
		if _, err := s.giveBack(root, name); err != nil {
			return err
		}
	}
	for _, dir := range slices.Backward(s.Folders) {
		// One that somebody put a file into meanwhile stays.
		if err := root.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
	}
	return atomicfile.SyncDir(s.Directory)
}

// giveBack puts a former file back, and says whether there was one. The file
// stays in the backup folder too, so that this can be done again.
func (s *Swap) giveBack(root *os.Root, name string) (bool, error) {
	was, err := root.Lstat(s.Old(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if now, err := root.Lstat(name); err == nil && os.SameFile(was, now) {
		return true, nil
	}
	again := s.New(".stella-back")
	if err := root.Remove(again); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := root.Link(s.Old(name), again); err != nil {
		return false, err
	}
	return true, root.Rename(again, name)
}

// Restored says whether all that the backup folder holds is in its place: then
// the folder is needed no more.
func (s *Swap) Restored() bool {
	root, err := os.OpenRoot(s.Directory)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer root.Close()
	for _, name := range slices.Concat(s.Names, s.Gone) {
		was, err := root.Lstat(s.Old(name))
		if err != nil {
			continue
		}
		if now, err := root.Lstat(name); err != nil || !os.SameFile(was, now) {
			return false
		}
	}
	return true
}

// Drop removes the staging folder and the backup folder.
func (s *Swap) Drop() error {
	return errors.Join(
		os.RemoveAll(filepath.Join(s.Directory, s.Staging)),
		os.RemoveAll(filepath.Join(s.Directory, s.Backup)),
	)
}
