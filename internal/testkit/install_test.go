package testkit_test

import (
	"os"
	"path/filepath"
	"testing"

	"stella-ops.org/stella/internal/testkit"
)

// agentProgram has a server give out a program for a system, and returns it.
func agentProgram(t testing.TB, cp *testkit.ControlPlane, goos, arch string) []byte {
	t.Helper()
	program := []byte("the agent for " + goos + "/" + arch)
	folder := filepath.Join(cp.Data, "agents")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "stella-agent_"+goos+"_"+arch), program, 0o600); err != nil {
		t.Fatal(err)
	}
	return program
}
