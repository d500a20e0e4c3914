package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"stella-ops.org/stella/internal/agent"
)

func TestUnitIsOfThisProgram(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]string{"systemd": "\nExecStart=" + self + " run ", "openrc": "\ncommand=" + self + "\n"} {
		var out strings.Builder
		if err := execute([]string{"unit", kind}, &out); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v\n%s", kind, err, out.String())
		}
	}
	for _, args := range [][]string{nil, {"launchd"}, {"systemd", "openrc"}} {
		var out strings.Builder
		if err := execute(append([]string{"unit"}, args...), &out); err == nil || out.Len() > 0 {
			t.Errorf("%v: %v\n%s", args, err, out.String())
		}
	}
}

// The unit's RestartPreventExitStatus is the exit code of an agent that is not
// registered, and of no other end.
func TestExitCodes(t *testing.T) {
	t.Chdir(t.TempDir())
	err := execute([]string{"run", "--capability", "none"}, io.Discard)
	if !errors.Is(err, agent.ErrNotRegistered) || exitCode(err) != exitNotRegistered {
		t.Errorf("not registered: %d, %v", exitCode(err), err)
	}
	if code := exitCode(fmt.Errorf("anything: %w", os.ErrPermission)); code != 1 {
		t.Errorf("another error: %d", code)
	}
	var text strings.Builder
	if err := execute([]string{"unit", "systemd"}, &text); err != nil {
		t.Fatal(err)
	}
	if line := fmt.Sprintf("\nRestartPreventExitStatus=%d\n", exitNotRegistered); !strings.Contains(text.String(), line) {
		t.Errorf("the unit has no line %s", line)
	}
}
