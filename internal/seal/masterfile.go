package seal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"stella-ops.org/stella/internal/atomicfile"
)

// masterFile is the file with the master key. While it is replaced, the next
// key lies beside it, from before the database says the new one until the file
// itself does: so no key that the database needs is ever nowhere.
type masterFile struct{ path string }

func (f masterFile) nextPath() string { return f.path + ".next" }

// origin says, for people, where a key was made.
func (f masterFile) origin() string {
	host, err := os.Hostname()
	if err != nil {
		host = "this host"
	}
	path, err := filepath.Abs(f.path)
	if err != nil {
		path = f.path
	}
	return host + ", as " + path
}

// errNoFile: there is no key file of that name.
var errNoFile = errors.New("the file is missing")

// read returns the key in a file.
func (f masterFile) read(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("master key %s: %w; restore it, for without it the stored secrets cannot be read", path, errNoFile)
	}
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	if len(key) != KeySize {
		return nil, fmt.Errorf("master key %s: it has %d bytes instead of %d; restore the right file, for without it the stored secrets cannot be read", path, len(key), KeySize)
	}
	return key, nil
}

// makeNext returns the key that is to be the next one: what an earlier try has
// left, for it was never used, or a new one. The file belongs to whom the
// present one belongs.
func (f masterFile) makeNext() ([]byte, error) {
	key := make([]byte, KeySize)
	_, _ = rand.Read(key) // never fails: crypto/rand ends the process instead
	if err := atomicfile.Create(f.nextPath(), key, 0o600); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("next master key: %w", err)
	}
	if err := sameOwner(f.nextPath(), f.path); err != nil {
		return nil, fmt.Errorf("next master key: it must belong to whom %s belongs, for the server to read it: run this as that user, or as root: %w", f.path, err)
	}
	return f.read(f.nextPath())
}

// promote makes the next key the key, if it is the one that the caller means;
// it is idempotent. Another process that is at it already will see to it.
func (f masterFile) promote(key []byte) error {
	unlock, err := f.lock()
	if errors.Is(err, errLocked) {
		return nil
	} else if err != nil {
		return err
	}
	defer unlock()
	return f.replace(key)
}

// replace is promote for who holds the lock: only then is what was looked at
// still what is renamed.
func (f masterFile) replace(key []byte) error {
	next, err := f.read(f.nextPath())
	if err == nil && bytes.Equal(next, key) {
		if err := os.Rename(f.nextPath(), f.path); err != nil {
			return fmt.Errorf("replace the master key: %w", err)
		}
		return atomicfile.SyncDir(filepath.Dir(f.path))
	}
	if now, err := f.read(f.path); err == nil && bytes.Equal(now, key) {
		return nil
	}
	return fmt.Errorf("replace the master key: %s does not hold the key that the database says: was it moved? Put the file that was there back, under either name", f.nextPath())
}

// errLocked: another process replaces the key.
var errLocked = errors.New("another process is replacing the master key")

// lock keeps other processes of this host from replacing the file, until
// unlock is called or this process is gone.
func (f masterFile) lock() (unlock func(), err error) {
	unlock, err = lockFile(f.path + ".lock")
	if err != nil && !errors.Is(err, errLocked) {
		return nil, fmt.Errorf("lock the master key: %w", err)
	}
	return unlock, err
}
