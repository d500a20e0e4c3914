//go:build !windows

package hook

import (
	"os/exec"
	"syscall"
)

// ownGroup puts the program into a process group of its own, and ends that
// group when the context ends: killing the program alone would leave its
// children.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
