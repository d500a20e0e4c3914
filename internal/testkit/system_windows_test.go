package testkit_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/windows"
)

// needFiles does nothing: Windows limits handles by memory alone.
func needFiles(*testing.T, uint64) {}

// limitFiles fails: Windows has no such limit.
func limitFiles(uint64) error {
	return errors.New("Windows does not limit the size of a process' files")
}

// kill ends a process at once.
func kill(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}

// cpuTime is the processor time of this process; Windows does not add up that of
// others.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var created, ended, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(windows.CurrentProcess(), &created, &ended, &kernel, &user); err != nil {
		t.Fatal(err)
	}
	ticks := func(f windows.Filetime) time.Duration {
		return time.Duration(uint64(f.HighDateTime)<<32|uint64(f.LowDateTime)) * 100
	}
	return ticks(kernel) + ticks(user)
}
