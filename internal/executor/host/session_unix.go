//go:build !windows

package host

import (
	"os/exec"
	"syscall"
)

// ownSession lets what a command leaves behind outlive the agent's terminal
// and its process group, and ends all of it if the command is cut short.
func ownSession(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
