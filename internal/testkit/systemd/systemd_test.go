//go:build linux

package systemd_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stella-ops.org/stella/internal/testkit/systemd"
)

func TestHost(t *testing.T) {
	t.Parallel()
	h := systemd.Start(t, systemd.Options{})

	if out, code := h.Exec(t, "sh", "-c", "echo out; echo err >&2; exit 7"); !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") || code != 7 {
		t.Errorf("a command said %q and ended with %d", out, code)
	}

	file := filepath.Join(t.TempDir(), "a file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := h.Must(t, "cat", h.Copy(t, file, "/tmp/here")); out != "content" {
		t.Errorf("a file arrived as %q", out)
	}

	// A unit that is enabled runs after a boot; what was in memory does not outlive it.
	unit := filepath.Join(t.TempDir(), "nothing.service")
	if err := os.WriteFile(unit, []byte("[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Copy(t, unit, "/etc/systemd/system")
	h.Must(t, "systemctl", "enable", "nothing.service")
	boot := h.Must(t, "systemctl", "show", "--property", "UserspaceTimestampMonotonic")
	h.Restart(t)
	if again := h.Must(t, "systemctl", "show", "--property", "UserspaceTimestampMonotonic"); again == boot {
		t.Errorf("it has not booted again: %s", again)
	}
	h.Must(t, "systemctl", "is-active", "nothing.service")
	if out, code := h.Exec(t, "cat", "/tmp/here/a file"); code == 0 {
		t.Errorf("memory outlived a boot: %q", out)
	}
}

func TestHostReachesThisMachine(t *testing.T) {
	t.Parallel()
	h := systemd.Start(t, systemd.Options{})
	l, err := net.Listen("tcp", net.JoinHostPort(h.Host(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "here")
	}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	defer server.Close()
	if out := h.Must(t, "curl", "--silent", "--show-error", "--max-time", "10", server.URL); out != "here" {
		t.Errorf("the container got %q", out)
	}
}
