//go:build linux

package ssh_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/executor/ssh"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
	"stella-ops.org/stella/internal/testkit/sshd"
)

// TestProcess: a server with bash or dash and coreutils, and the user of the
// tests, who is often root.
func TestProcess(t *testing.T) {
	t.Parallel()
	s, app := sshd.Start(t, sshd.Options{}), artifact(t)
	executortest.Run(t, func(t *testing.T) *executortest.Fixture { return fixture(t, s, app) })
}

// TestContainer: a server with busybox alone, and a user who may do little.
func TestContainer(t *testing.T) {
	t.Parallel()
	s, app := sshd.Contain(t, sshd.Options{}), artifact(t)
	executortest.Run(t, func(t *testing.T) *executortest.Fixture { return fixture(t, s, app) })
}

// artifact is the sample application, to be had over http.
func artifact(t *testing.T) api.ArtifactReference {
	t.Helper()
	app := sampleimage.Binary(t)
	sum := sha256.Sum256(app)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(app) }))
	t.Cleanup(server.Close)
	return api.ArtifactReference{Name: "bin/app", Mode: "0755", URL: server.URL + "/app", Digest: "sha256:" + hex.EncodeToString(sum[:])}
}

// fixture is a folder of a server, whose releases are the sample application.
func fixture(t *testing.T, s *sshd.Server, app api.ArtifactReference) *executortest.Fixture {
	t.Helper()
	root, addr := folder(t, s), freeAddress(t)
	dir := filepath.Join(root, "app")
	f := &executortest.Fixture{
		Executor:    ssh.New(ssh.Options{Patience: 10 * time.Second}),
		TargetID:    "target-" + t.Name(),
		Target:      s.Target(dir),
		Credentials: s.Credentials(),
		HookDir:     root,
		Deploy: func(version string) api.DeployPayload {
			return api.DeployPayload{
				Artifacts: []api.ArtifactReference{app, {Name: "etc/version", Content: []byte(version)}},
				Config: api.DeployConfig{
					ReleaseID:   version,
					Environment: map[string]string{"APP_ADDR": addr, "APP_VERSION": version},
					Start:       "bin/app serve & echo $! > app.pid",
					Stop:        "kill $(cat app.pid)",
					StopTimeout: 5,
					HealthCheck: &api.HealthCheck{Type: "http", URL: "http://" + addr + "/healthz", IntervalMs: 20, Timeout: 20},
				},
			}
		},
		Running:   func() string { return get("http://" + addr + "/") },
		Leftovers: func() []string { return leftovers(dir) },
		Say:       func(text string) []string { return []string{"echo", text} },
		Exit:      func(code int) []string { return []string{"sh", "-c", "exit " + strconv.Itoa(code)} },
		UploadDir: "data/",
		Read: func(name string) string {
			data, _ := os.ReadFile(filepath.Join(dir, "data", name))
			return string(data)
		},
	}
	return f
}

// killPID ends a process whose number is in a file.
func killPID(file string) {
	data, _ := os.ReadFile(file)
	if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
}

// folder is a new folder of the server, which its user may write to.
func folder(t *testing.T, s *sshd.Server) string {
	t.Helper()
	root, err := os.MkdirTemp(s.Folder, "t-") //nolint:usetesting // it must be in the server's folder, which a container shares
	if err == nil {
		err = os.Chmod(root, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sweep(root) })
	return root
}

// sweep ends what a test has left running in a folder: what a broken connection
// had started lives on. A container ends it all by itself.
func sweep(root string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range all {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, root) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// leftovers are files of Stella's that only a running task may have.
func leftovers(dir string) []string {
	var left []string
	all, _ := filepath.Glob(filepath.Join(dir, ".stella*"))
	for _, file := range all {
		switch filepath.Base(file) {
		case ".stella-release.json", ".stella-previous", ".stella-start.log", ".stella-started":
		default:
			left = append(left, file)
		}
	}
	return left
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func get(url string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Sprint(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body))
}
