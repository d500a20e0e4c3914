package install_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/server/install"
)

func put(t *testing.T, folder, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

// What is put into a folder is given out, and what takes its place is known by
// its own checksum; the operator's folder wins.
func TestAgents(t *testing.T) {
	t.Parallel()
	own, packaged := t.TempDir(), t.TempDir()
	a := install.NewAgents(own, filepath.Join(own, "nothing"), packaged)
	list := func() map[string]string {
		t.Helper()
		all, err := a.All()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, p := range all {
			r, err := a.Open(&p)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(r)
			if err != nil || r.Close() != nil || sum(string(text)) != p.SHA256 {
				t.Errorf("%s: %q has not the sum %s (%v)", p.Name(), text, p.SHA256, err)
			}
			got[p.Name()] = string(text)
		}
		return got
	}
	if got := list(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	put(t, packaged, "stella-agent_linux_amd64", "packaged")
	put(t, packaged, "stella-agent_windows_amd64.exe", "for windows")
	for _, stray := range []string{"stella-agent", "stella-agent_linux_amd64.exe", "stella-agent_windows_arm64", "stella-agent_linux_amd64.new", "README"} {
		put(t, packaged, stray, "stray")
	}
	if err := os.Mkdir(filepath.Join(packaged, "stella-agent_linux_arm"), 0o700); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"stella-agent_linux_amd64": "packaged", "stella-agent_windows_amd64.exe": "for windows"}
	if diff := cmp.Diff(want, list()); diff != "" {
		t.Error(diff)
	}
	put(t, own, "stella-agent_linux_amd64", "the operator's")
	want["stella-agent_linux_amd64"] = "the operator's"
	if diff := cmp.Diff(want, list()); diff != "" {
		t.Error(diff)
	}
	put(t, own, "stella-agent_linux_amd64", "the operators'") // of the same size
	if err := os.Chtimes(filepath.Join(own, "stella-agent_linux_amd64"), time.Time{}, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	want["stella-agent_linux_amd64"] = "the operators'"
	if diff := cmp.Diff(want, list()); diff != "" {
		t.Error(diff)
	}
	for _, absent := range [][2]string{{"linux", "riscv64"}, {"", ""}, {"..", "amd64"}} {
		if p, err := a.Find(absent[0], absent[1]); p != nil || err != nil {
			t.Errorf("%v: %v, %v", absent, p, err)
		}
	}
	if p, err := a.Find("windows", "amd64"); err != nil || p == nil || p.Name() != "stella-agent_windows_amd64.exe" {
		t.Errorf("%v, %v", p, err)
	}
}

func installers(t *testing.T) *install.Installers {
	t.Helper()
	folder := t.TempDir()
	put(t, folder, "stella-agent_linux_amd64", "for amd64")
	put(t, folder, "stella-agent_linux_arm64", "for arm64")
	put(t, folder, "stella-agent_windows_amd64.exe", "for windows")
	return &install.Installers{
		Agents: install.NewAgents(folder), Version: "1.2.3+x", Pins: func() []string { return []string{"AAAA=", "BBBB="} },
		Names: []string{"localhost", "stella.example.com", "192.0.2.1", "::1"},
	}
}

// What is served is a script that shells and shellcheck take, with all that is
// needed in it.
func TestScript(t *testing.T) {
	t.Parallel()
	i := installers(t)
	text, err := i.Script("linux", "https://stella.example.com:8443", "reg_abc_def")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"server='https://stella.example.com:8443'", "token='reg_abc_def'",
		"sums='" + sum("for amd64") + " amd64\n" + sum("for arm64") + " arm64'",
	} {
		if !strings.Contains(text, "\n"+line+" ") {
			t.Errorf("there is no line %s in\n%.1200s", line, text)
		}
	}
	if n := strings.Count(text, "\n"); n >= 400 {
		t.Errorf("the installer has grown to %d lines: who is to read it before it runs as root?", n)
	}
	for _, shell := range [][]string{{"sh", "-n"}, {"bash", "-n"}, {"busybox", "sh", "-n"}, {"shellcheck", "-"}} {
		if _, err := exec.LookPath(shell[0]); err != nil {
			continue // CI has them; lint needs shellcheck there
		}
		cmd := exec.CommandContext(t.Context(), shell[0], shell[1:]...)
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", shell, err, out)
		}
	}
	// A download that was cut off does nothing.
	for _, part := range []int{len(text) / 3, len(text) - len(`main "$@"`) - 2} {
		cmd := exec.CommandContext(t.Context(), "sh", "-s", "--", "--help")
		cmd.Stdin = strings.NewReader(text[:part])
		if out, err := cmd.Output(); err == nil && len(out) > 0 {
			t.Errorf("%d bytes of it do something: %s", part, out)
		}
	}
	text, err = i.Script("windows", "https://stella.example.com:8443", "")
	if err != nil || !strings.Contains(text, "\n$Server = 'https://stella.example.com:8443'") || !strings.Contains(text, "'amd64' = '"+sum("for windows")+"'") {
		t.Errorf("%v: %.600s", err, text)
	}
	for _, bad := range []struct{ platform, server, token string }{
		{"darwin", "https://s", ""}, {"docker", "https://s", ""}, {"linux", "https://s'; reboot; '", ""}, {"linux", "https://s", "reg_'$(reboot)"}, {"windows", "https://s", "reg_a_b"},
	} {
		if text, err := i.Script(bad.platform, bad.server, bad.token); err == nil {
			t.Errorf("%+v: %.200s", bad, text)
		}
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	i := installers(t)
	const server, token = "https://stella.example.com:8443", "reg_abc_def"
	script, err := i.Script("linux", server, "")
	if err != nil {
		t.Fatal(err)
	}
	for platform, parts := range map[string][][]string{
		"linux": {
			{"curl -fsSk --pinnedpubkey 'sha256//AAAA=;sha256//BBBB=' ", server + "/install.sh ", "&& STELLA_BOOTSTRAP_TOKEN=" + token + ` sh "$f"`},
			{"wget ", server + "/install.sh ", sum(script) + `  $f" | sha256sum -c - && STELLA_BOOTSTRAP_TOKEN=` + token},
		},
		"windows": {{server + "/install.ps1", "Get-FileHash", "$env:STELLA_BOOTSTRAP_TOKEN = '" + token + "'"}},
		"docker":  {{"STELLA_BOOTSTRAP_TOKEN=" + token + " docker run -d ", " -e STELLA_BOOTSTRAP_TOKEN -e STELLA_SERVER=" + server + " ", " stella/agent:1.2.3-x"}},
	} {
		commands, err := i.Commands(platform, server, token)
		if err != nil || len(commands) != len(parts) {
			t.Fatalf("%s: %v, %v", platform, commands, err)
		}
		for n, c := range commands {
			for _, part := range parts[n] {
				if !strings.Contains(c.Line, part) {
					t.Errorf("%s: there is no %q in %s", platform, part, c.Line)
				}
			}
			// The token is assigned, and no program's argument.
			if bytes.Count([]byte(c.Line), []byte(token)) != 1 || strings.Contains(c.Line, "-e STELLA_BOOTSTRAP_TOKEN=") || strings.Contains(c.Line, "--token") {
				t.Errorf("%s: %s", platform, c.Line)
			}
		}
	}
	if _, err := i.Commands("linux", "https://s'", token); err == nil {
		t.Error("a quote is taken into a command")
	}
}

func TestCheckServer(t *testing.T) {
	t.Parallel()
	i := installers(t)
	for text, want := range map[string]string{
		"https://stella.example.com:8443": "https://stella.example.com:8443", "https://STELLA.example.com": "https://STELLA.example.com",
		"https://192.0.2.1:1/": "https://192.0.2.1:1", "https://[::1]:8443": "https://[::1]:8443", "https://[0:0::1]": "https://[0:0::1]",
		"https://other.example.com": "", "http://localhost": "", "localhost": "", "https://": "", "https://u:p@localhost": "", "https://localhost/path": "", "https://localhost?q": "", "": "", "https://localhost#f": "",
	} {
		if got, err := i.CheckServer(text); got != want || want == "" && fault.KindOf(err) != fault.Invalid || want != "" && err != nil {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	want := "agent:\n  name: \"prod-01\"\n  orchestrator_url: \"https://s:8443\"\n"
	if got := install.Configuration("prod-01", "https://s:8443"); got != want {
		t.Errorf("%s", got)
	}
	if got := install.Configuration("", "https://s:8443"); got != "agent:\n  orchestrator_url: \"https://s:8443\"\n" {
		t.Errorf("%s", got)
	}
}
