package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stella-ops.org/stella/internal/cli/out"
	"stella-ops.org/stella/internal/testkit"
)

// runs runs the program as a script does, and returns what it wrote.
func runs(args ...string) (code int, stdout, stderr string) {
	var o, e bytes.Buffer
	code = run(args, &out.IO{In: strings.NewReader(""), Out: &o, Err: &e})
	return code, o.String(), e.String()
}

// at returns the flags that name a server, as its admin.
func at(t *testing.T, cp *testkit.ControlPlane) []string {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(cp.AdminToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--server", cp.URL, "--token-file", token, "--ca", filepath.Join(cp.Data, "ca.pem")}
}

// noContext keeps the contexts of whoever runs the tests out of them.
func noContext(t *testing.T) {
	t.Setenv("STELLA_CLI_CONFIG", filepath.Join(t.TempDir(), "none.yaml"))
	for _, name := range []string{"STELLA_SERVER", "STELLA_TOKEN", "STELLA_CA", "STELLA_CONTEXT"} {
		t.Setenv(name, "")
	}
}

func TestWrongUse(t *testing.T) {
	noContext(t)
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"idle --agents many", exitUsage, "--help` shows the flags"},
		{"idle --format xml", exitUsage, "use table, json or yaml"},
		{"idle now", exitUsage, "does not take"},
		{"nonsense", exitUsage, "nonsense"},
		{"heartbeat --server https://127.0.0.1:1 --token stl_x --rate fast", exitUsage, "give a number above 0, or max"},
		{"idle", exitFailed, "no server is known"},
		{"idle --server https://127.0.0.1:1", exitFailed, "there is no API token"},
		{"idle --server https://127.0.0.1:1 --token stl_x", exitFailed, "nothing listens at"},
		{"idle --server https://127.0.0.1:1 --token stl_x --agents 0", exitFailed, "say how many"},
		{"idle --server https://127.0.0.1:1 --token-file /no/such", exitFailed, "/no/such"},
		{"clean --server nonsense --token stl_x", exitFailed, "no server URL"},
	} {
		code, stdout, stderr := runs(strings.Fields(c.args)...)
		if code != c.code || stdout != "" || !strings.Contains(stderr, c.says) || strings.Count(stderr, "\n") != 1 || strings.Contains(stderr, "stl_") {
			t.Errorf("%s: exit %d\n%s%s", c.args, code, stdout, stderr)
		}
	}
	if code, stdout, stderr := runs(); code != exitOK || !strings.Contains(stdout, "heartbeat") || stderr != "" {
		t.Errorf("without arguments: exit %d\n%s%s", code, stdout, stderr)
	}
}

func TestReports(t *testing.T) {
	noContext(t)
	cp := testkit.StartServer(t)
	args := func(more ...string) []string { return append(more, at(t, cp)...) }
	identities := filepath.Join(t.TempDir(), "ids.json")

	code, stdout, stderr := runs(args("enrol", "-n", "5", "--identities", identities)...)
	if code != exitOK || !strings.Contains(stdout, "registrations a second") || stderr != "" {
		t.Fatalf("enrol: exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = runs(args("heartbeat", "-n", "5", "--identities", identities, "--rate", "50", "--duration", "1s", "--transport", "grpc", "--format", "json")...)
	var report struct {
		Agents int
		Result struct{ Asked, Acked, StoreChecked, StoreMissing int }
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != exitOK || stderr != "" {
		t.Fatalf("heartbeat: exit %d, %v\n%s%s", code, err, stdout, stderr)
	}
	if r := report.Result; report.Agents != 5 || r.Asked != 50 || r.Acked != 50 || r.StoreChecked != 5 || r.StoreMissing != 0 {
		t.Errorf("%s", stdout)
	}
	// Nobody can be back that fast: the report comes all the same, and the
	// exit code tells.
	code, stdout, stderr = runs(args("storm", "-n", "5", "--identities", identities, "--transport", "grpc", "--cut", "--limit", "1ms")...)
	if code != exitFailed || !strings.Contains(stdout, "agents back") || !strings.Contains(stderr, "lost: ") || !strings.Contains(stderr, "were not back within 1ms") {
		t.Errorf("storm: exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = runs(args("clean")...)
	if code != exitOK || stdout != "" || !strings.Contains(stderr, "5 simulated agents are removed") {
		t.Errorf("clean: exit %d\n%s%s", code, stdout, stderr)
	}
	// The server no longer knows them, and says so once.
	code, _, stderr = runs(args("idle", "-n", "5", "--identities", identities, "--transport", "grpc", "--settle", "0s")...)
	if code != exitFailed || !strings.Contains(stderr, "an agent was not let in") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("removed agents: exit %d\n%s", code, stderr)
	}
}
