package demo

import (
	"os"
	"os/exec"
)

// Windows has the commands, and refuses to run them: see programs.

func detach(*exec.Cmd) {}

func terminate(pid int) { kill(pid) }

func kill(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill() // fails when it has ended
	}
}

func alive(pid int) bool {
	_, err := os.FindProcess(pid)
	return err == nil
}
