//go:build unix

package testkit_test

import (
	"syscall"
	"testing"
	"time"
)

// needFiles raises this process' limit of open files, or says that it cannot.
func needFiles(t *testing.T, n uint64) {
	t.Helper()
	var have syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &have); err != nil {
		t.Fatal(err)
	}
	if have.Cur >= n {
		return
	}
	wanted := syscall.Rlimit{Cur: n, Max: max(n, have.Max)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &wanted); err != nil {
		t.Fatalf("this test opens %d files, and the process may open %d and raise that to %d (%v): run it where `ulimit -Hn` is higher", n, have.Cur, have.Max, err)
	}
}

// limitFiles limits how long a file may be that this process writes.
func limitFiles(size uint64) error {
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: size})
}

// kill ends a process at once.
func kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// cpuTime is the processor time of this process and of those that it has waited
// for.
func cpuTime(t *testing.T) (used time.Duration) {
	t.Helper()
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			t.Fatal(err)
		}
		used += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return used
}
