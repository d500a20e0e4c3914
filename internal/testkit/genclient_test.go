package testkit_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"stella-ops.org/stella/internal/testkit"
)

// TestGeneratedClient has a client that a foreign generator made out of the
// API's document make every call that is no stream.
func TestGeneratedClient(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "calls")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./calls")
	build.Dir = "genclient" // a module of its own
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	cp := testkit.StartServer(t)
	out, err := exec.CommandContext(t.Context(), program, cp.URL, cp.AdminToken, filepath.Join(cp.Data, "ca.pem")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "operations called") {
		t.Fatalf("%v\n%s", err, out)
	}
}
