//go:build linux

package packaging_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// testLineOnDeb runs a bootstrap's line where the agent is a package: that
// registers and starts the package's own agent, which comes back as itself when
// the package is upgraded; the program stays the package manager's.
func testLineOnDeb(t *testing.T, older, newer dist) {
	h := host(t)
	cp := testkit.StartServer(t, func(c *server.Config) { c.Listen = net.JoinHostPort(h.Host(), "0") })
	h.Must(t, "dpkg", "--install", h.Copy(t, older.file(t, "stella-agent_", ".deb"), "/packages"))
	made, err := cp.Client.Bootstrap(t.Context(), api.BootstrapRequest{RegistrationTokenRequest: api.RegistrationTokenRequest{Name: "packaged"}})
	if err != nil {
		t.Fatal(err)
	}
	online := func(version string) *api.Agent {
		t.Helper()
		var a *api.Agent
		testkit.Eventually(t, 20*time.Second, "the agent "+version+" to be online", func() (bool, string) {
			var err error
			a, err = cp.Client.Agent(t.Context(), "packaged")
			return err == nil && a.Status == api.StatusOnline && a.Version == version, fmt.Sprintf("%+v, %v", a, err)
		})
		return a
	}
	out := h.Must(t, "sh", "-c", made.InstallCommand)
	if !strings.Contains(out, "is a package here") {
		t.Errorf("the line says %s", out)
	}
	first := online(older.version)
	h.Must(t, "sh", "-c", "test ! -e /usr/local/bin/stella-agent && test ! -e /etc/systemd/system/stella-agent.service && systemctl is-enabled stella-agent")

	h.Must(t, "dpkg", "--install", h.Copy(t, newer.file(t, "stella-agent_", ".deb"), "/packages"))
	if a := online(newer.version); a.ID != first.ID {
		t.Errorf("after the upgrade it is %s, and was %s", a.ID, first.ID)
	}
	h.Restart(t)
	online(newer.version)

	fetch, _, _ := strings.Cut(made.InstallCommand, "/install.sh && ")
	out, code := h.Exec(t, "sh", "-c", fetch+`/install.sh && sh "$f" --uninstall --purge`)
	if code == 0 || !strings.Contains(out, "remove it with apt") {
		t.Errorf("the installer removes what is a package's: %d: %s", code, out)
	}
	online(newer.version)
}
