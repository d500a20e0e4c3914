package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"stella-ops.org/stella/internal/testkit/peers"
	"stella-ops.org/stella/packaging"
)

// unit is a unit, and the file that it was written to.
func unit(t *testing.T, kind, binary, file string) (text, path string) {
	t.Helper()
	text, err := packaging.Unit(kind, binary)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), file)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return text, path
}

func TestUnitNamesTheBinary(t *testing.T) {
	t.Parallel()
	for kind, line := range map[string]string{
		"systemd": "\nExecStart=%s run --config /etc/stella-agent/agent.yaml\n",
		"openrc":  "\ncommand=%s\n",
	} {
		for _, binary := range []string{"/usr/local/bin/stella-agent", "/usr/bin/stella-agent", "/opt/stella-1.2+x/bin/agent"} {
			text, _ := unit(t, kind, binary, "unit")
			if want := strings.ReplaceAll(line, "%s", binary); strings.Count(text, want) != 1 {
				t.Errorf("%s: there is no line %q", kind, want)
			}
			if strings.Contains(text, "/usr/local/bin") && binary != "/usr/local/bin/stella-agent" {
				t.Errorf("%s for %s still names /usr/local/bin", kind, binary)
			}
		}
	}
}

func TestUnitRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ kind, binary, says string }{
		{"upstart", "/usr/bin/stella-agent", `"upstart"`},
		{"", "/usr/bin/stella-agent", "use systemd or openrc"},
		{"systemd", "", "absolute"},
		{"systemd", "/", "absolute"},
		{"systemd", "stella-agent", "absolute"},
		{"systemd", "/usr/../stella-agent", "absolute"},
		{"systemd", "/usr/bin/", "absolute"},
		{"systemd", "/opt/my agent", "letters"},
		{"systemd", "/opt/100%/agent", "letters"},
		{"systemd", "/opt/a\nUser=root", "letters"},
		{"openrc", "/opt/$(id)/agent", "letters"},
		{"openrc", `C:\stella\stella-agent.exe`, "absolute"},
	} {
		if text, err := packaging.Unit(c.kind, c.binary); err == nil || text != "" || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s, %q: %v", c.kind, c.binary, err)
		}
	}
}

// What deployments have started on the host lives on when the agent stops, and the
// places are those that installers and packages make.
func TestSystemdUnitKeepsItsPromises(t *testing.T) {
	t.Parallel()
	text, _ := unit(t, "systemd", "/usr/bin/stella-agent", "unit")
	for _, line := range []string{
		"Type=notify", "NotifyAccess=main", "WatchdogSec=60", "Restart=always", "RestartPreventExitStatus=78",
		"KillMode=process", "OOMPolicy=continue", "TasksMax=infinity",
		"User=stella-agent", "Group=stella-agent", "StateDirectory=stella-agent", "StateDirectoryMode=0700",
		"RuntimeDirectory=stella-agent", "RuntimeDirectoryMode=0750", "RuntimeDirectoryPreserve=restart",
		"ProtectSystem=strict", "ReadWritePaths=/tmp /var/tmp", "ReadWritePaths=-/srv -/opt",
		"Environment=STELLA_DATA=/var/lib/stella-agent", "Environment=STELLA_SOCKET=/run/stella-agent/agent.sock",
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
	if bad := regexp.MustCompile(`(?m)^(PrivateTmp|RemoveIPC|MemoryDenyWriteExecute|SupplementaryGroups|DynamicUser)=.*`).FindString(text); bad != "" {
		t.Errorf("%s reaches what lives on, or whom the installer has let in", bad)
	}
}

// systemd knows every setting of the unit, and finds it exposed by 3.0 of 10 at most.
func TestSystemdUnitIsSandboxed(t *testing.T) {
	t.Parallel()
	analyze := peers.Tool(t, "systemd-analyze")
	self, err := os.Executable() // verify looks whether the program is there
	if err != nil {
		t.Fatal(err)
	}
	_, path := unit(t, "systemd", self, "stella-agent.service")
	for _, args := range [][]string{{"security", "--offline=true", "--threshold=30"}, {"verify", "--man=no"}} {
		out, err := exec.CommandContext(t.Context(), analyze, append(args, path)...).CombinedOutput()
		if err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

func TestOpenRCScriptIsShell(t *testing.T) {
	t.Parallel()
	_, path := unit(t, "openrc", "/usr/bin/stella-agent", "stella-agent")
	for _, check := range [][]string{{peers.Tool(t, "sh"), "-n"}, {peers.Tool(t, "shellcheck"), "--shell=sh"}} {
		if out, err := exec.CommandContext(t.Context(), check[0], append(check[1:], path)...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", check, err, out)
		}
	}
}
