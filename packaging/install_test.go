//go:build linux

package packaging_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/systemd"
)

// host is a machine to install on.
func host(t *testing.T) *systemd.Host {
	t.Helper()
	// Who may look at all processes, as root may: userdel asks whose they are.
	return systemd.Start(t, systemd.Options{Docker: []string{"--cap-add", "SYS_PTRACE"}})
}

// traces lists what an installation can leave on a host: files, users, groups,
// units. Left out is what belongs to the package managers, the logs and systemd's own
// services.
func traces(t *testing.T, h *systemd.Host) []string {
	t.Helper()
	out := h.Must(t, "sh", "-c", `
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /var/lib/dpkg -o -path /var/lib/rpm \
	-o -path /root -o -path /var/log -o -path /var/cache -o -path /var/lib/systemd -o -path /packages -o -path '/var/tmp/*-systemd-logind.service-*' \) -prune -o -print |
	grep -vE '^/etc/(passwd|group|shadow|gshadow)-$|^/etc/\.pwd\.lock$'
find /run/systemd /run -maxdepth 1 -name '*stella*'
getent passwd
getent group
systemctl list-unit-files --no-legend --no-pager
`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(lines)
	return lines
}

// standIn makes a unit run something else, which needs no registration: what a
// package does to a running service does not depend on what the service is.
const standIn = "mkdir -p /etc/systemd/system/stella-agent.service.d\n" +
	"printf '[Service]\\nType=exec\\nWatchdogSec=0\\nExecStart=\\nExecStart=/bin/sleep infinity\\n' >/etc/systemd/system/stella-agent.service.d/test.conf\n" +
	"systemctl daemon-reload\nsystemctl enable --now stella-agent.service\n"

func mainPID(t *testing.T, h *systemd.Host, unit string) string {
	t.Helper()
	return strings.TrimSpace(h.Must(t, "systemctl", "show", "--property", "MainPID", "--value", unit))
}

func testAgentDeb(t *testing.T, older, newer dist) {
	h := host(t)
	before := traces(t, h)
	old := h.Copy(t, older.file(t, "stella-agent_", ".deb"), "/packages")
	next := h.Copy(t, newer.file(t, "stella-agent_", ".deb"), "/packages")

	// A fresh install says what to do, and does not do it.
	h.Must(t, "groupadd", "docker")
	out := h.Must(t, "dpkg", "--install", old)
	if said := regexp.MustCompile(`(?m)^.*stella-agent register .*$`).FindAllString(out, -1); len(said) != 1 {
		t.Errorf("it does not say once how to register: %s", out)
	}
	notRunning(t, h)
	h.Must(t, "sh", "-c", "systemctl cat stella-agent.service | grep '^ExecStart=/usr/bin/stella-agent run '")
	if out := h.Must(t, "stella-agent", "version"); strings.TrimSpace(out) != older.version {
		t.Errorf("installed is %s", out)
	}
	owners(t, h, map[string]string{
		"/etc/stella-agent":     "root:stella-agent 750",
		"/var/lib/stella-agent": "stella-agent:stella-agent 700",
		"/usr/bin/stella-agent": "root:root 755",
	})
	if groups := h.Must(t, "id", "--name", "--groups", "stella-agent"); !slices.Equal(strings.Fields(groups), []string{"stella-agent", "docker"}) {
		t.Errorf("its user is in the groups %s", groups)
	}
	if user := h.Must(t, "getent", "passwd", "stella-agent"); !strings.HasSuffix(strings.TrimSpace(user), ":/var/lib/stella-agent:/usr/sbin/nologin") {
		t.Errorf("its user is %s", user)
	}
	secure(t, h, "stella-agent.service")

	// An upgrade restarts what runs, and only that.
	h.Must(t, "dpkg", "--install", next)
	notRunning(t, h)
	h.Must(t, "dpkg", "--install", old)
	h.Must(t, "sh", "-ec", standIn)
	h.Must(t, "sh", "-c", "echo identity >/var/lib/stella-agent/identity; echo name: a >/etc/stella-agent/agent.yaml")
	running := mainPID(t, h, "stella-agent")
	out = h.Must(t, "dpkg", "--install", next)
	if strings.Contains(out, "register") {
		t.Errorf("an upgrade says how to register: %s", out)
	}
	if pid := mainPID(t, h, "stella-agent"); pid == "0" || pid == running {
		t.Errorf("after the upgrade the process is %s; before, it was %s", pid, running)
	}
	if out := h.Must(t, "stella-agent", "version"); strings.TrimSpace(out) != newer.version {
		t.Errorf("installed is %s", out)
	}
	// Installing the same again is harmless.
	h.Must(t, "dpkg", "--install", next)

	// Removal stops it and keeps what it knows; it is there for another installation.
	h.Must(t, "dpkg", "--remove", "stella-agent")
	notRunning(t, h)
	h.Must(t, "cat", "/var/lib/stella-agent/identity", "/etc/stella-agent/agent.yaml")
	h.Must(t, "dpkg", "--install", next)
	notRunning(t, h)
	owners(t, h, map[string]string{"/var/lib/stella-agent": "stella-agent:stella-agent 700"})

	h.Must(t, "dpkg", "--purge", "stella-agent")
	h.Must(t, "groupdel", "docker")
	if diff := cmp.Diff(before, traces(t, h)); diff != "" {
		t.Errorf("after the purge the host is another one (-before +after):\n%s", diff)
	}

	// Programs that the agent has deployed are not ended, and it says so.
	h.Must(t, "dpkg", "--install", next)
	h.Must(t, "systemd-run", "--uid", "stella-agent", "--unit", "deployed", "sleep", "infinity")
	if out := h.Must(t, "dpkg", "--purge", "stella-agent"); !strings.Contains(out, "userdel stella-agent") {
		t.Errorf("a purge leaves the user, and says nothing: %s", out)
	}
	h.Must(t, "systemctl", "is-active", "deployed")
}

// notRunning checks that the agent neither runs nor will at the next boot.
func notRunning(t *testing.T, h *systemd.Host) {
	t.Helper()
	for _, question := range []string{"is-active", "is-enabled"} {
		if out, code := h.Exec(t, "systemctl", question, "stella-agent.service"); code == 0 {
			t.Errorf("systemctl %s stella-agent: %s", question, out)
		}
	}
}

func owners(t *testing.T, h *systemd.Host, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for path := range want {
		got[path] = strings.TrimSpace(h.Must(t, "stat", "--format", "%U:%G %a", path))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("owners and modes (-want +got):\n%s", diff)
	}
}

// secure has systemd judge how much of the host a unit can reach: 0 is nothing,
// 10 is all.
func secure(t *testing.T, h *systemd.Host, unit string) {
	t.Helper()
	if out, code := h.Exec(t, "systemd-analyze", "security", "--no-pager", "--threshold", "30", unit); code != 0 {
		t.Errorf("%s is exposed to more than 3.0:\n%s", unit, out)
	}
	if out, code := h.Exec(t, "systemd-analyze", "verify", unit); code != 0 || strings.Contains(out, "stella") {
		t.Errorf("systemd does not like %s: %s", unit, out)
	}
}

func testServerDeb(t *testing.T, older, newer dist) {
	h := host(t)
	before := traces(t, h)
	h.Must(t, "dpkg", "--install", h.Copy(t, older.file(t, "stella_", ".deb"), "/packages"))
	if out, code := h.Exec(t, "systemctl", "is-active", "stella.service"); code == 0 {
		t.Errorf("the server runs without being asked to: %s", out)
	}
	owners(t, h, map[string]string{
		"/etc/stella": "root:stella 750", "/etc/stella/server.yaml": "root:stella 640", "/var/lib/stella": "stella:stella 700",
	})
	secure(t, h, "stella.service")
	if out := h.Must(t, "sh", "-c", "/usr/lib/stella/agents/stella-agent_linux_* version"); strings.TrimSpace(out) != older.version {
		t.Errorf("the agent that the server hands out is %s", out)
	}
	h.Must(t, "bash", "-n", "/usr/share/bash-completion/completions/stella")

	// It runs as it is installed, in all its sandbox.
	h.Must(t, "systemctl", "enable", "--now", "stella.service")
	token := serves(t, h)
	running := mainPID(t, h, "stella")
	if user := h.Must(t, "ps", "-o", "user=", "-p", running); strings.TrimSpace(user) != "stella" {
		t.Errorf("it runs as %s", user)
	}
	h.Must(t, "sh", "-c", "echo 'log_level: debug' >>/etc/stella/server.yaml")
	h.Must(t, "dpkg", "--force-confdef", "--force-confold", "--install", h.Copy(t, newer.file(t, "stella_", ".deb"), "/packages"))
	if again := serves(t, h); again != token {
		t.Error("after the upgrade it is another server")
	}
	if pid := mainPID(t, h, "stella"); pid == "0" || pid == running {
		t.Errorf("after the upgrade the process is %s; before, it was %s", pid, running)
	}
	h.Must(t, "grep", "log_level: debug", "/etc/stella/server.yaml")
	h.Restart(t)
	if again := serves(t, h); again != token {
		t.Error("after a boot it is another server")
	}

	h.Must(t, "dpkg", "--purge", "stella")
	if diff := cmp.Diff(before, traces(t, h)); diff != "" {
		t.Errorf("after the purge the host is another one (-before +after):\n%s", diff)
	}
}

// serves waits until the server answers, and returns its admin token.
func serves(t *testing.T, h *systemd.Host) string {
	t.Helper()
	testkit.Eventually(t, 30*time.Second, "the server to answer", func() (bool, string) {
		out, code := h.Exec(t, "curl", "--silent", "--show-error", "--fail", "--max-time", "5", "--insecure", "https://127.0.0.1:8443/readyz")
		return code == 0, out
	})
	return h.Must(t, "cat", "/var/lib/stella/admin.token")
}

// In a container, no systemd runs, and often none is installed.
func testDebWithoutSystemd(t *testing.T, older, newer dist) {
	h := host(t)
	h.Copy(t, older.file(t, "stella-agent_", ".deb"), "/packages")
	h.Copy(t, newer.file(t, "stella-agent_", ".deb"), "/packages")
	for name, hide := range map[string]string{
		"not running":   "mount --bind /var/empty /run/systemd",
		"not installed": "mount --bind /var/empty /run/systemd; mount --bind /dev/null /usr/bin/systemctl",
	} {
		// In a mount namespace of its own, the rest of the host does not see what is hidden.
		out := h.Must(t, "unshare", "--mount", "sh", "-exc", "mkdir -p /var/empty; "+hide+`
for deb in /packages/*1.0.0*.deb /packages/*1.0.1*.deb; do dpkg --install "$deb"; done
stella-agent version
dpkg --remove stella-agent
dpkg --install /packages/*1.0.1*.deb
dpkg --purge stella-agent
! getent passwd stella-agent
! ls -d /var/lib/stella-agent /etc/stella-agent`)
		if !strings.Contains(out, "stella-agent register") {
			t.Errorf("%s: it does not say how to register: %s", name, out)
		}
	}
}

func testAgentRPM(t *testing.T, older, newer dist) {
	h := host(t)
	// Debian's rpm knows nothing of what dpkg has installed, and wants to be asked twice.
	rpm := func(args ...string) string {
		t.Helper()
		return h.Must(t, append([]string{"rpm", "--nodeps", "--force-debian"}, args...)...)
	}
	old := h.Copy(t, older.file(t, "stella-agent-", ".rpm"), "/packages")
	next := h.Copy(t, newer.file(t, "stella-agent-", ".rpm"), "/packages")
	if requires := h.Must(t, "rpm", "--query", "--requires", "--package", old); !strings.Contains(requires, "/usr/sbin/useradd") {
		t.Errorf("it requires %s", requires)
	}

	if out := rpm("--install", old); strings.Count(out, "stella-agent register") != 1 {
		t.Errorf("it does not say once how to register: %s", out)
	}
	notRunning(t, h)
	owners(t, h, map[string]string{
		"/etc/stella-agent":     "root:stella-agent 750",
		"/var/lib/stella-agent": "stella-agent:stella-agent 700",
		"/usr/bin/stella-agent": "root:root 755",
	})
	h.Must(t, "rpm", "--verify", "--nodeps", "stella-agent")

	h.Must(t, "sh", "-ec", standIn)
	h.Must(t, "sh", "-c", "echo identity >/var/lib/stella-agent/identity")
	running := mainPID(t, h, "stella-agent")
	if out := rpm("--upgrade", next); strings.Contains(out, "register") {
		t.Errorf("an upgrade says how to register: %s", out)
	}
	if pid := mainPID(t, h, "stella-agent"); pid == "0" || pid == running {
		t.Errorf("after the upgrade the process is %s; before, it was %s", pid, running)
	}
	h.Must(t, "systemctl", "is-enabled", "stella-agent")
	if out := h.Must(t, "stella-agent", "version"); strings.TrimSpace(out) != newer.version {
		t.Errorf("installed is %s", out)
	}

	// It has no purge: what the agent is stays.
	rpm("--erase", "stella-agent")
	notRunning(t, h)
	h.Must(t, "cat", "/var/lib/stella-agent/identity")
	for _, file := range []string{"/usr/bin/stella-agent", "/usr/lib/systemd/system/stella-agent.service", "/usr/share/doc/stella-agent"} {
		if _, code := h.Exec(t, "test", "-e", file); code == 0 {
			t.Errorf("it has left %s", file)
		}
	}
}
