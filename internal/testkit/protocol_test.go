package testkit_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"stella-ops.org/stella/internal/testkit"
)

// TestProtocolPage runs the commands of docs/protocol.md: a client made only
// of openssl and curl.
func TestProtocolPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	script := "set -euo pipefail; trap 'tail -v -c 600 *.json *.txt' ERR; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
	blocks := strings.Split(string(page), "```sh\n")
	for _, b := range blocks[1:] {
		code, _, ok := strings.Cut(b, "```")
		if !ok {
			t.Fatal("a block of the page does not end")
		}
		script += code
	}
	cp := testkit.StartServer(t)
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Env = append(os.Environ(), "STELLA="+cp.URL, "ADMIN="+cp.AdminToken, "WORK="+t.TempDir())
	cmd.WaitDelay = linkPatience // for streams that outlive the shell
	out, err := cmd.CombinedOutput()
	t.Logf("%d blocks\n%s", len(blocks)-1, out)
	if err != nil {
		t.Fatalf("the page's commands: %v", err)
	}
	for _, want := range []string{
		"this is the server that made the token", "cert.pem: OK", `"state":"succeeded"`, `"result":{"spans":3}`, `"acknowledged":1`, `"kind":"task.assigned"`,
		`"code":"signature_refused"`, `"intervalMs"`, `"code":"number_refused","knownBoot":1`,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output lacks %q", want)
		}
	}
}
