//go:build linux

package testkit_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/systemd"
)

// newcomer is a host that systemd has booted, and a server that it can reach,
// which has an agent to give out.
type newcomer struct {
	*systemd.Host
	t  *testing.T
	cp *testkit.ControlPlane
}

func newNewcomer(t *testing.T, bare bool) *newcomer {
	t.Helper()
	// userdel asks whose processes there are, as root may.
	h := systemd.Start(t, systemd.Options{Docker: []string{"--cap-add", "SYS_PTRACE"}, Bare: bare})
	cp := testkit.StartServer(t, func(c *server.Config) {
		c.Listen = net.JoinHostPort(h.Host(), "0")
		c.Advertise = ""
	})
	n := &newcomer{Host: h, t: t, cp: cp}
	n.give("1.0.0")
	return n
}

// give has the server give out the agent, as a version of its own.
func (n *newcomer) give(version string, tags ...string) {
	n.t.Helper()
	folder := filepath.Join(n.cp.Data, "agents")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		n.t.Fatal(err)
	}
	n.build(filepath.Join(folder, "stella-agent_linux_"+runtime.GOARCH), version, tags...)
}

func (n *newcomer) build(file, version string, tags ...string) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), "go", "build", "-tags", strings.Join(tags, ","),
		"-ldflags", "-s -w -X stella-ops.org/stella/internal/obs.Version="+version, "-o", file, "../../cmd/stella-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
}

// bootstrap makes a token with the lines that use it.
func (n *newcomer) bootstrap(name string) *api.Bootstrap {
	n.t.Helper()
	made, err := n.cp.Client.Bootstrap(n.t.Context(), api.BootstrapRequest{RegistrationTokenRequest: api.RegistrationTokenRequest{Name: name, Environment: "production", Platform: "linux"}})
	if err != nil {
		n.t.Fatal(err)
	}
	return made
}

// run runs a line as a person would, in a shell; words before it are put before
// the shell.
func (n *newcomer) run(line string, before ...string) (string, int) {
	n.t.Helper()
	return n.Exec(n.t, append(before, "bash", "-c", line)...)
}

// online waits until the server has the agent online, in a version.
func (n *newcomer) online(name, version string) *api.Agent {
	n.t.Helper()
	var agent *api.Agent
	testkit.Eventually(n.t, linkPatience, name+" "+version+" to be online", func() (bool, string) {
		a, err := n.cp.Client.Agent(n.t.Context(), name)
		agent = a
		return err == nil && a.Status == api.StatusOnline && a.Version == version, fmt.Sprintf("%+v, %v", a, err)
	})
	return agent
}

func (n *newcomer) mainPID() string {
	n.t.Helper()
	return strings.TrimSpace(n.Must(n.t, "systemctl", "show", "--property", "MainPID", "--value", "stella-agent"))
}

// traces is what an installation can leave on a host.
func (n *newcomer) traces() []string {
	n.t.Helper()
	lines := strings.Split(strings.TrimSpace(n.Must(n.t, "sh", "-c", `
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /root -o -path /var/log/journal -o -path /var/lib/systemd \
	-o -path '/var/tmp/*-systemd-logind.service-*' \) -prune -o -print | grep -vE '^/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$|^/etc/\.pwd\.lock$'
find /run -maxdepth 2 -name '*stella*'
cat /etc/passwd /etc/group /etc/subuid /etc/subgid 2>/dev/null
systemctl list-unit-files --no-legend --no-pager
systemctl list-units --all --no-legend --no-pager 'stella*'`)), "\n")
	slices.Sort(lines)
	return lines
}

// One line, and the host is online; it is again after a reboot; the same line
// upgrades it, or does nothing; and what it brought goes without a trace.
func TestOneLineBringsAHostOnline(t *testing.T) {
	t.Parallel()
	n := newNewcomer(t, false)
	n.Must(t, "groupadd", "docker")
	before := n.traces()

	made := n.bootstrap("prod-01")
	began := time.Now()
	out, code := n.run(made.InstallCommand)
	took := time.Since(began)
	if code != 0 {
		t.Fatalf("%d: %s", code, out)
	}
	first := n.online("prod-01", "1.0.0")
	t.Logf("online %v after the line was begun\n%s", took.Round(time.Millisecond), out)
	if first.Environment != "production" || strings.Contains(out, made.Token) {
		t.Errorf("%+v: %s", first, out)
	}
	for path, want := range map[string]string{
		"/usr/local/bin/stella-agent": "root:root 755", "/etc/stella-agent": "root:stella-agent 750", "/etc/stella-agent/agent.yaml": "root:stella-agent 640",
		"/var/lib/stella-agent": "stella-agent:stella-agent 700", "/var/lib/stella-agent/client.pem": "stella-agent:stella-agent 600",
		"/run/stella-agent": "stella-agent:stella-agent 750", "/run/stella-agent/agent.sock": "stella-agent:stella-agent 660",
	} {
		if have := strings.TrimSpace(n.Must(t, "stat", "--format", "%U:%G %a", path)); have != want {
			t.Errorf("%s is %s, want %s", path, have, want)
		}
	}
	if text := n.Must(t, "cat", "/etc/stella-agent/agent.yaml"); !strings.HasSuffix(text, "agent:\n  orchestrator_url: \""+n.cp.URL+"\"\n") {
		t.Errorf("its configuration: %s", text)
	}
	if groups := n.Must(t, "id", "--name", "--groups", "stella-agent"); strings.Join(strings.Fields(groups), " ") != "stella-agent docker" {
		t.Errorf("its user is in the groups %s", groups)
	}
	if left, _ := n.run("grep -rlF " + made.Token + " /etc /var /run /usr/local 2>/dev/null; tr '\\0' '\\n' </proc/" + n.mainPID() + "/environ | grep TOKEN"); strings.TrimSpace(left) != "" {
		t.Errorf("the token is still there: %s", left)
	}
	if score := n.Must(t, "systemd-analyze", "security", "--no-pager", "--threshold=30", "stella-agent"); !strings.Contains(score, "Overall exposure level") {
		t.Errorf("%s", score)
	} else {
		t.Log(score[strings.LastIndex(strings.TrimSpace(score), "\n")+1:])
	}
	n.statusOnTheHost()

	// The same line again, with a token that is used up, changes nothing.
	pid := n.mainPID()
	if out, code := n.run(made.InstallCommand); code != 0 || n.mainPID() != pid || strings.Contains(out, "Fetching") {
		t.Errorf("once more: %d, and the process is %s after %s: %s", code, n.mainPID(), pid, out)
	}

	// With another agent to give out, it upgrades: the same identity, without a token.
	n.give("1.1.0")
	again := n.bootstrap("unused")
	line := strings.Replace(again.InstallCommand, "STELLA_BOOTSTRAP_TOKEN="+again.Token+" ", "", 1)
	if out, code := n.run(line); code != 0 || n.mainPID() == pid {
		t.Errorf("the upgrade: %d: %s", code, out)
	}
	if up := n.online("prod-01", "1.1.0"); up.ID != first.ID {
		t.Errorf("after the upgrade it is agent %s, before it was %s", up.ID, first.ID)
	}

	n.Restart(t)
	n.Must(t, "/usr/local/bin/stella-agent", "status", "--config", "/etc/stella-agent/agent.yaml", "--socket", "/run/stella-agent/agent.sock", "--wait", "30s")
	if up := n.online("prod-01", "1.1.0"); up.ID != first.ID {
		t.Errorf("after a reboot it is agent %s, before it was %s", up.ID, first.ID)
	}

	// Removed, its identity is kept, and it can come back without a token.
	script := n.script(line)
	if out, code := n.run("sh " + script + " --uninstall"); code != 0 || !strings.Contains(out, "--purge") {
		t.Errorf("uninstall: %d: %s", code, out)
	}
	if out, code := n.run("systemctl cat stella-agent || ls /usr/local/bin/stella-agent"); code == 0 {
		t.Errorf("uninstalled, and there is still %s", out)
	}
	if out, code := n.run("sh " + script); code != 0 {
		t.Errorf("installed again: %d: %s", code, out)
	}
	if up := n.online("prod-01", "1.1.0"); up.ID != first.ID {
		t.Errorf("installed again it is agent %s", up.ID)
	}
	if out, code := n.run("sh " + script + " --uninstall --purge"); code != 0 {
		t.Errorf("purge: %d: %s", code, out)
	}
	if diff := cmp.Diff(before, n.traces()); diff != "" {
		t.Errorf("it has left (-before +after):\n%s", diff)
	}
}

// script fetches the installer of a line, and returns where it is.
func (n *newcomer) script(line string) string {
	n.t.Helper()
	fetch, _, _ := strings.Cut(line, "/install.sh && ")
	fetch += "/install.sh"
	out, code := n.run(fetch + ` && echo "$f"`)
	if code != 0 {
		n.t.Fatalf("%d: %s", code, out)
	}
	return strings.TrimSpace(out)
}

// statusOnTheHost asks the agent on its own host, as somebody of its group and
// as somebody who is not.
func (n *newcomer) statusOnTheHost() {
	n.t.Helper()
	n.Must(n.t, "useradd", "--groups", "stella-agent", "friend")
	n.Must(n.t, "useradd", "stranger")
	defer n.Must(n.t, "sh", "-c", "userdel friend && userdel stranger")
	const status = "/usr/local/bin/stella-agent status --socket /run/stella-agent/agent.sock"
	if out, code := n.Exec(n.t, "su", "friend", "-c", status); code != 0 || !strings.Contains(out, "prod-01") || !strings.Contains(out, n.cp.URL) {
		n.t.Errorf("to one of its group: %d: %s", code, out)
	}
	if out, code := n.Exec(n.t, "su", "stranger", "-c", status); code == 0 || !strings.Contains(out, "stella-agent") || strings.Contains(out, n.cp.URL) {
		n.t.Errorf("to a stranger: %d: %s", code, out)
	}
}

// What can be wrong is said, each in its own words, and nothing is started.
func TestOneLineSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	n := newNewcomer(t, false)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(n.cp.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	other := testkit.StartServer(t)
	used := n.bootstrap("used")
	registered(t, n.cp, used.Token, api.RegisterRequest{Name: "used"})
	revoked := n.bootstrap("revoked")
	if err := n.cp.Client.RevokeRegistrationToken(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	expired := n.bootstrap("expired")
	if res, err := database(t, n.cp).ExecContext(t.Context(), "UPDATE registration_tokens SET expires_at = 1 WHERE id = ?", expired.ID); err != nil {
		t.Fatal(err)
	} else if rows, _ := res.RowsAffected(); rows != 1 {
		t.Fatalf("%d tokens have expired", rows)
	}
	good := n.bootstrap("good")
	theirs := other.Token()
	replaced := func(line, from, to string) string {
		if !strings.Contains(line, from) {
			t.Fatalf("there is no %q in %s", from, line)
		}
		return strings.Replace(line, from, to, 1)
	}
	// The line fetches from the right server, and the installer is told another.
	toward := func(url string) string { return good.InstallCommand + " --server " + url }
	for _, c := range []struct{ name, line, says string }{
		{"wrong pin", replaced(good.InstallCommand, "'sha256//", "'sha256//AAAA"), "public key does not match pinned public key"},
		{"another installer, with wget", replaced(good.Alternatives[0].Command, `echo "`, `echo "00`), "checksum"},
		{"used", used.InstallCommand, "was used already"},
		{"expired", expired.InstallCommand, "expired at"},
		{"revoked", revoked.InstallCommand, "was revoked"},
		{"half", replaced(good.InstallCommand, good.Token, good.Token[:30]), "not whole"},
		{"no token", replaced(good.InstallCommand, "STELLA_BOOTSTRAP_TOKEN="+good.Token, ""), "there is no token"},
		{"token of another server", replaced(good.InstallCommand, good.Token, theirs), "is not the server that made the token"},
		{"nobody listens", toward("https://" + net.JoinHostPort(n.Host.Host(), "9")), "refused"},
		{"no such name", toward("https://nowhere.invalid:" + port), "nowhere.invalid"},
		{"not TLS", toward("https://" + notTLS(t, n.Host.Host())), "does not speak TLS"},
	} {
		out, code := n.run(c.line)
		if code == 0 || !strings.Contains(out, c.says) || strings.Contains(out, good.Token) {
			t.Errorf("%s: %d, want %q: %s", c.name, code, c.says, out)
		}
		if out, code := n.run("systemctl is-active stella-agent"); code == 0 {
			t.Errorf("%s: it runs all the same: %s", c.name, out)
		}
	}

	// Another program than the installer is for, as after an upgrade of the server
	// or by somebody in between.
	script := n.script(good.InstallCommand)
	n.give("6.6.6")
	n.Must(t, "rm", "/usr/local/bin/stella-agent")
	if out, code := n.run("STELLA_BOOTSTRAP_TOKEN=" + good.Token + " sh " + script); code == 0 || !strings.Contains(out, "is not the agent that this file is for") {
		t.Errorf("another program: %d: %s", code, out)
	}
	if left := n.Must(t, "ls", "/usr/local/bin"); left != "" {
		t.Errorf("it was put in place, or left: %s", left)
	}

	// A clock that is a year ahead.
	n.give("1.0.1", "stella_test_clock")
	line := replaced(n.bootstrap("late").InstallCommand, ` sh "$f"`, ` STELLA_CLOCK_AHEAD=8760h sh "$f"`)
	if out, code := n.run(line); code == 0 || !strings.Contains(out, "this machine's clock is 365 days ahead of the server's") {
		t.Errorf("a wrong clock: %d: %s", code, out)
	}

	// All that was said is mended, and the same host comes online.
	n.give("1.0.2")
	if out, code := n.run(n.bootstrap("good-2").InstallCommand); code != 0 {
		t.Errorf("%d: %s", code, out)
	}
	n.online("good-2", "1.0.2")
}

// notTLS listens, says something that is not TLS, and returns its address.
func notTLS(t *testing.T, host string) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("220 mail.example.com ready\r\n"))
			_ = conn.Close()
		}
	}()
	return l.Addr().String()
}

// Other ways: with wget, by a user who may use sudo, from a file that was carried
// there, with the agent's own program, and on a host without an init system.
func TestOneLineInOtherWays(t *testing.T) {
	t.Parallel()
	n := newNewcomer(t, false)
	purge := func() {
		t.Helper()
		if out, code := n.run("sh /root/install.sh --uninstall --purge"); code != 0 {
			t.Fatalf("purge: %d: %s", code, out)
		}
	}
	carried := func(made *api.Bootstrap) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "install.sh")
		if err := os.WriteFile(file, []byte(made.InstallScript), 0o600); err != nil {
			t.Fatal(err)
		}
		n.Copy(t, file, "/root")
	}

	made := n.bootstrap("by-file")
	carried(made)
	if out, code := n.run("sh /root/install.sh"); code != 0 {
		t.Errorf("from a file: %d: %s", code, out)
	}
	n.online("by-file", "1.0.0")
	purge()

	if out, code := n.run(n.bootstrap("by-wget").Alternatives[0].Command); code != 0 {
		t.Errorf("with wget: %d: %s", code, out)
	}
	n.online("by-wget", "1.0.0")
	purge()

	// sudo gets the token by a file: no list of processes has it.
	n.Must(t, "sh", "-c", "useradd --create-home admin && echo 'admin ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/admin")
	made = n.bootstrap("by-sudo")
	watch, stop := context.WithCancel(t.Context())
	seen := make(chan string, 1)
	go func() {
		cmd := exec.CommandContext(watch, "docker", "exec", n.Container, "sh", "-c",
			"while [ ! -e /stop ]; do for f in /proc/[0-9]*/cmdline; do { tr '\\0' ' ' <$f; echo; } 2>/dev/null; done | grep -E '^(sudo|sh /tmp|curl|su -s|/usr/local)'; done | sort -u")
		out, _ := cmd.CombinedOutput()
		seen <- string(out)
	}()
	if out, code := n.run(made.InstallCommand, "su", "admin", "-c", `"$0" "$@"`, "--"); code != 0 {
		t.Errorf("by sudo: %d: %s", code, out)
	}
	n.Must(t, "touch", "/stop")
	got := <-seen
	stop()
	if !strings.Contains(got, "sudo sh /tmp/") || strings.Contains(got, made.Token[4:20]) {
		t.Errorf("in the list of processes was:\n%s", got)
	}
	n.online("by-sudo", "1.0.0")
	purge()
	if out, code := n.run(made.InstallCommand, "su", "admin", "-c", `"$0" "$@"`, "--"); code == 0 || !strings.Contains(out, "was used already") {
		t.Errorf("by sudo, with a token that is used up: %d: %s", code, out)
	}
	purge()

	file := filepath.Join(t.TempDir(), "stella-agent")
	n.build(file, "1.2.0")
	n.Copy(t, file, "/root")
	made = n.bootstrap("by-binary")
	carried(made)
	if out, code := n.run("sh /root/install.sh --binary /root/stella-agent --name by-binary"); code != 0 {
		t.Errorf("with a program of its own: %d: %s", code, out)
	}
	n.online("by-binary", "1.2.0")
	pid := n.mainPID()
	if out, code := n.run("sh /root/install.sh --binary /root/stella-agent"); code != 0 || n.mainPID() != pid {
		t.Errorf("with the same program once more: %d, %s after %s: %s", code, n.mainPID(), pid, out)
	}
	purge()
}

// On a host without an init system, it runs all the same, and it is said what to
// do for the next start.
func TestOneLineWithoutAnInitSystem(t *testing.T) {
	t.Parallel()
	n := newNewcomer(t, true)
	agents := func() []string {
		t.Helper()
		out, _ := n.run("pgrep --full '^/usr/local/bin/stella-agent run'")
		return strings.Fields(out)
	}
	made := n.bootstrap("bare")
	out, code := n.run(made.InstallCommand)
	if code != 0 || !strings.Contains(out, "nothing starts it when this machine does") {
		t.Errorf("%d: %s", code, out)
	}
	n.online("bare", "1.0.0")
	first := agents()
	if len(first) != 1 {
		t.Fatalf("the agents are %v", first)
	}
	if user := strings.TrimSpace(n.Must(t, "ps", "--no-headers", "-o", "user:20", "--pid", first[0])); user != "stella-agent" {
		t.Errorf("it runs as %s", user)
	}
	if left, _ := n.run("tr '\\0' '\\n' </proc/" + first[0] + "/environ | grep TOKEN=."); left != "" {
		t.Errorf("its environment has a token: %s", left)
	}
	if out, code := n.run(made.InstallCommand); code != 0 || !slices.Equal(agents(), first) {
		t.Errorf("once more: %d, %v after %v: %s", code, agents(), first, out)
	}
	n.give("1.1.0")
	if out, code := n.run(n.bootstrap("unused").InstallCommand); code != 0 || len(agents()) != 1 || slices.Equal(agents(), first) {
		t.Errorf("the upgrade: %d, %v after %v: %s", code, agents(), first, out)
	}
	n.online("bare", "1.1.0")
	if out, code := n.run("sh " + n.script(n.bootstrap("unused-2").InstallCommand) + " --uninstall --purge"); code != 0 || len(agents()) != 0 {
		t.Errorf("purge: %d, %v: %s", code, agents(), out)
	}
	if left, _ := n.run("find / -xdev -name '*stella*' -not -path '/proc/*'; grep stella /etc/passwd /etc/group"); left != "" {
		t.Errorf("it has left %s", left)
	}
}

// The same under OpenRC.
func TestOneLineUnderOpenRC(t *testing.T) {
	t.Parallel()
	n := newNewcomer(t, true)
	// As at a boot, but for what a container has no hardware for.
	n.run("for level in sysinit boot default; do openrc $level; done")
	before := n.openRC()
	made := n.bootstrap("openrc")
	if out, code := n.run(made.InstallCommand); code != 0 {
		t.Fatalf("%d: %s", code, out)
	}
	n.online("openrc", "1.0.0")
	n.Must(t, "sh", "-c", "rc-service stella-agent status && test -e /etc/runlevels/default/stella-agent")
	pid := func() string {
		t.Helper()
		out, _ := n.run("pgrep --full '^/usr/local/bin/stella-agent run'")
		return strings.TrimSpace(out)
	}
	first := pid()
	if user := strings.TrimSpace(n.Must(t, "ps", "--no-headers", "-o", "user:20", "--pid", first)); user != "stella-agent" {
		t.Errorf("it runs as %s", user)
	}
	if out, code := n.run(made.InstallCommand); code != 0 || pid() != first {
		t.Errorf("once more: %d, %s after %s: %s", code, pid(), first, out)
	}
	n.give("1.1.0")
	if out, code := n.run(n.bootstrap("unused").InstallCommand); code != 0 || pid() == first {
		t.Errorf("the upgrade: %d: %s", code, out)
	}
	n.online("openrc", "1.1.0")
	// What ends is started again.
	n.Must(t, "kill", "-KILL", pid())
	testkit.Eventually(t, linkPatience, "the agent to be started again", func() (bool, string) { return pid() != "", "" })
	n.online("openrc", "1.1.0")
	if out, code := n.run("sh " + n.script(n.bootstrap("unused-2").InstallCommand) + " --uninstall --purge"); code != 0 || pid() != "" {
		t.Errorf("purge: %d, %s: %s", code, pid(), out)
	}
	if diff := cmp.Diff(before, n.openRC()); diff != "" {
		t.Errorf("it has left (-before +after):\n%s", diff)
	}
}

// openRC is what an installation can leave where OpenRC is.
func (n *newcomer) openRC() []string {
	n.t.Helper()
	out, _ := n.run("ls /etc/init.d /etc/runlevels/*; find / -xdev -name '*stella*' -not -path '/proc/*'; cat /etc/passwd /etc/group; rc-status --servicelist 2>/dev/null | grep -v Caching | sort")
	return strings.Split(out, "\n")
}
