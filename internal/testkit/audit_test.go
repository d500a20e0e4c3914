package testkit_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/testkit"
)

// cli runs the command line as an admin, and returns its exit code.
func cli(t *testing.T, cp *testkit.ControlPlane, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	p := startProgram(t, "", []string{"STELLA_SERVER=" + cp.URL, "STELLA_TOKEN=" + cp.AdminToken, "STELLA_CA=" + filepath.Join(cp.Data, "ca.pem")}, "stella", args...)
	err := <-p.done
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return code, p.stdout.String(), p.stderr.String()
}

// verified wants a log that holds, and returns its head.
func verified(t *testing.T, cp *testkit.ControlPlane, args ...string) (head string) {
	t.Helper()
	code, stdout, stderr := cli(t, cp, append([]string{"audit", "verify"}, args...)...)
	if code != 0 || !strings.Contains(stdout, "holds") {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	_, head, _ = strings.Cut(stdout, "\nHead ")
	head, _, _ = strings.Cut(strings.TrimSpace(head), "\n")
	return head
}

// The audit log of a real server holds after the server was killed in the midst
// of its work, with everything in it that was answered; an export is checked
// without the server; and what is done to the database is found.
func TestAuditLogIsVerified(t *testing.T) {
	t.Parallel()
	data, listen := t.TempDir(), testkit.FreePort(t)
	env := []string{"STELLA_DATA=" + data, "STELLA_LISTEN=" + listen, "STELLA_AUDIT_RETENTION=24h"}
	start := func() (*program, *testkit.ControlPlane) {
		return startProgram(t, "", env, "stella", "server"), testkit.Attach(t, data, listen)
	}
	server, cp := start()

	// Many change something, until the server is gone.
	var mu sync.Mutex
	var answered []string
	var wg sync.WaitGroup
	enough := make(chan struct{})
	for range 16 {
		wg.Go(func() {
			for {
				tok, err := cp.Client.CreateRegistrationToken(t.Context(), api.RegistrationTokenRequest{})
				if err != nil {
					return
				}
				mu.Lock()
				if answered = append(answered, tok.ID); len(answered) == 200 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	if err := server.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := <-server.done; err == nil {
		t.Error("a server that was killed has ended well")
	}
	cp.Client.Close()

	server, cp = start()
	head := verified(t, cp)
	noted := map[string]bool{}
	for e, err := range cp.Client.Audit(t.Context(), clientAudit()) {
		if err != nil {
			t.Fatal(err)
		}
		noted[e.Object] = true
	}
	for _, id := range answered {
		if !noted[id] {
			t.Errorf("the token %s was made, and the audit log does not know", id)
		}
	}

	// What was written down is still there when the log has grown.
	cp.Token()
	if later := verified(t, cp, "--head", head); later == head || head == "" {
		t.Errorf("the head stays at %q", later)
	}
	code, export, stderr := cli(t, cp, "audit", "list", "--limit", "0", "-o", "json")
	if code != 0 {
		t.Fatal(stderr)
	}
	file := filepath.Join(t.TempDir(), "export.json")
	check := func(text string) (int, string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		nowhere := *cp
		nowhere.URL = "https://127.0.0.1:1"
		code, stdout, stderr := cli(t, &nowhere, "audit", "verify", "--file", file, "--head", head)
		return code, stdout + stderr
	}
	if code, said := check(export); code != 0 || !strings.Contains(said, "contained") {
		t.Errorf("the export: %d\n%s", code, said)
	}
	if code, said := check(strings.Replace(export, answered[7], answered[8], 1)); code != 1 || !strings.Contains(said, "was changed after it was written") {
		t.Errorf("an export that was changed: %d\n%s", code, said)
	}

	// Somebody changes the database while the server is down.
	if _, err := server.stop(t); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(data, "stella.db")) // the driver is the server's
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{`DROP TRIGGER audit_no_update`, fmt.Sprintf(`UPDATE audit SET object = 'nothing' WHERE object = '%s'`, answered[9])} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	cp.Client.Close()
	_, cp = start()
	code, stdout, stderr := cli(t, cp, "audit", "verify", "-o", "json")
	if code != 1 || !strings.Contains(stdout, `"holds": false`) || !strings.Contains(stderr, "was changed after it was written") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}
