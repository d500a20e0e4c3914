package testkit_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"stella-ops.org/stella/internal/testkit"
)

// agentProgram has a server give out a program for Linux, and returns it.
func agentProgram(t testing.TB, cp *testkit.ControlPlane, arch string) []byte {
	t.Helper()
	program := []byte("the agent for linux/" + arch)
	folder := filepath.Join(cp.Data, "agents")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "stella-agent_linux_"+arch), program, 0o600); err != nil {
		t.Fatal(err)
	}
	return program
}

// TestInstallPage runs the commands of docs/install.md that check what the
// server gives out, and that they fail when it was altered.
func TestInstallPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(page), "To check it with openssl 3:\n\n```sh\n")
	block, _, ends := strings.Cut(block, "```")
	if !found || !ends {
		t.Fatal("the page has no commands for openssl")
	}
	cp := testkit.StartServer(t)
	agentProgram(t, cp, "arm64")
	run := func(script string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", "set -euo pipefail; cp \"$CA\" ca.pem\n"+script)
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), "SERVER="+cp.URL, "CA="+filepath.Join(cp.Data, "ca.pem"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run(block); err != nil || !strings.Contains(out, "Verified Successfully") {
		t.Errorf("%v: %s", err, out)
	}
	altered := strings.Replace(block, "cat - SHA256SUMS", "cat - SHA256SUMS | tr a b", 1)
	if out, err := run(altered); err == nil {
		t.Errorf("an altered list is taken: %s", out)
	}
}
