//go:build unix

package host_test

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
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/executor/host"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

func TestHost(t *testing.T) {
	t.Parallel()
	app := sampleimage.Binary(t)
	sum := sha256.Sum256(app)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(app) }))
	t.Cleanup(server.Close)
	executortest.Run(t, func(t *testing.T) *executortest.Fixture {
		return fixture(t, api.ArtifactReference{
			Name: "bin/app", Mode: "0755", URL: server.URL + "/app", Digest: "sha256:" + hex.EncodeToString(sum[:]),
		})
	})
}

// fixture is a target folder whose releases are the sample application.
func fixture(t *testing.T, app api.ArtifactReference) *executortest.Fixture {
	dir, addr := filepath.Join(t.TempDir(), "app"), freeAddress(t)
	f := &executortest.Fixture{
		Executor: host.New(host.Options{}),
		TargetID: "target-" + t.Name(),
		Target:   api.AgentTarget{Name: "web", Kind: "host", Environment: "test", Config: api.TargetConfig{Directory: dir}},
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
		Running: func() string { return get("http://" + addr + "/") },
		Leftovers: func() []string {
			var left []string
			for _, pattern := range []string{".stella-*", "releases/.*", "releases/*/.stella-units"} {
				found, _ := filepath.Glob(filepath.Join(dir, pattern))
				left = append(left, found...)
			}
			return left
		},
		Say:       func(text string) []string { return []string{"echo", text} },
		Exit:      func(code int) []string { return []string{"sh", "-c", "exit " + strconv.Itoa(code)} },
		UploadDir: "data/",
		Read: func(name string) string {
			data, _ := os.ReadFile(filepath.Join(dir, "data", name))
			return string(data)
		},
	}
	t.Cleanup(func() {
		pids, _ := filepath.Glob(filepath.Join(dir, "releases", "*", "app.pid"))
		for _, file := range pids {
			data, _ := os.ReadFile(file)
			if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
				if p, err := os.FindProcess(pid); err == nil {
					_ = p.Kill()
				}
			}
		}
	})
	return f
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
