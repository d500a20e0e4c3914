package files

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// settle waits until nobody has a file open for writing any more, so that it
// can be executed. A process that another goroutine forks while the file is
// being written holds it open until it calls exec, and the kernel refuses to
// execute it until then ("text file busy").
//
// The kernel tells by a lease: it gives one for reading only on a file that
// nobody has open for writing. Where it gives none at all (not our file, a
// network's file system), there is nothing to wait for.
func settle(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for deadline := time.Now().Add(5 * time.Second); ; {
		_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
		if err == nil {
			_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
			return err
		}
		if !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
			return nil // to execute it may work all the same
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}
