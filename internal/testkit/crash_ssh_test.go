//go:build linux

package testkit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/testkit"
	"stella-ops.org/stella/internal/testkit/sshd"
)

func init() { crashKinds["ssh"] = newCrashSSH } //nolint:gochecknoinits // this kind is Linux's alone

// crashSSH is a folder behind an SSH server.
type crashSSH struct {
	server *sshd.Server
	dir    string
	addr   string
	app    api.ArtifactReference
}

func newCrashSSH(t *testing.T) crashKind {
	t.Helper()
	s := sshd.Start(t, sshd.Options{})
	return &crashSSH{server: s, dir: filepath.Join(s.Folder, "app"), addr: testkit.FreePort(t), app: served(t)}
}

func (k *crashSSH) target() (api.TargetRequest, func(*agent.Config)) {
	return api.TargetRequest{Name: "app", Kind: "ssh", Config: k.server.Target(k.dir).Config}, func(c *agent.Config) { c.Capabilities = []string{"ssh"} }
}

func (k *crashSSH) env() []string { return nil }

func (k *crashSSH) secrets() map[string]string { return k.server.Credentials().Secrets }

func (k *crashSSH) deploy(version string) api.DeployPayload {
	env := map[string]string{"APP_ADDR": k.addr, "APP_VERSION": version}
	if version == sick {
		env["APP_MODE"] = "unhealthy"
	}
	return api.DeployPayload{
		Artifacts: []api.ArtifactReference{k.app, {Name: "etc/version", Content: []byte(version)}, {Name: "only-" + version, Content: []byte("x")}},
		Config: api.DeployConfig{
			ReleaseID: version, Environment: env, Start: "bin/app serve & echo $! > app.pid", Stop: "kill $(cat app.pid)", StopTimeout: 5,
			HealthCheck: healthy(k.addr),
		},
	}
}

// stands: one version answers, its files and no others are there, and no other
// process of the application runs.
func (k *crashSSH) stands() (string, []string) {
	var left []string
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return "", []string{err.Error()}
	}
	version := answering(k.addr)
	for _, e := range entries {
		switch name := e.Name(); name {
		case ".stella-release.json", ".stella-started", ".stella-start.log", "bin", "etc", "app.pid", "version.json", "only-" + version:
		default:
			left = append(left, name)
		}
	}
	if data, err := os.ReadFile(filepath.Join(k.dir, "etc", "version")); err != nil || string(data) != version {
		return fmt.Sprintf("%s answers, and the file says %s", version, data), left
	}
	if n := len(k.running()); n != 1 {
		left = append(left, fmt.Sprintf("%d processes of the application", n))
	}
	return version, left
}

// running are the application's processes, by the folder that they run in.
func (k *crashSSH) running() (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range all {
		dir := filepath.Dir(link)
		cwd, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(cwd, k.dir) {
			continue
		}
		if text, err := os.ReadFile(filepath.Join(dir, "cmdline")); err != nil || !strings.Contains(string(text), "bin/app\x00serve") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (k *crashSSH) sweep() {
	for _, pid := range k.running() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
