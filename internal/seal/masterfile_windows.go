package seal

import (
	"errors"
	"fmt"
	"syscall"
)

// lockFile takes a lock that ends with the process at the latest: the file is
// opened for nobody else.
func lockFile(path string) (unlock func(), err error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	const sharingViolation = syscall.Errno(32)
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, sharingViolation) {
		return nil, errLocked
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return func() { _ = syscall.CloseHandle(h) }, nil
}

// sameOwner does nothing: a new file has its folder's rights.
func sameOwner(string, string) error { return nil }
