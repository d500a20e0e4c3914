//go:build unix

package host_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/executor/host"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

func sample(t *testing.T) *executortest.Fixture {
	t.Helper()
	app := sampleimage.Binary(t)
	return fixture(t, api.ArtifactReference{Name: "bin/app", Mode: "0755", Content: app})
}

// files is a target whose releases are files alone.
func files(t *testing.T, o host.Options) (f *executortest.Fixture, dir string) {
	t.Helper()
	dir = t.TempDir()
	return &executortest.Fixture{
		Executor: host.New(o), TargetID: "target",
		Target:    api.AgentTarget{Name: "site", Kind: "host", Config: api.TargetConfig{Directory: dir}},
		Leftovers: func() []string { return nil },
		Running:   func() string { return read(t, filepath.Join(dir, "current", "version")) },
	}, dir
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

func release(version string, more ...api.ArtifactReference) api.DeployPayload {
	return api.DeployPayload{
		Artifacts: append([]api.ArtifactReference{{Name: "version", Content: []byte(version)}}, more...),
		Config:    api.DeployConfig{ReleaseID: version},
	}
}

// TestWithoutStop: a release without a stop command is stopped all the same,
// even when its daemon keeps the start's output open.
func TestWithoutStop(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/environ"); err != nil {
		t.Skip("processes' environments cannot be read here, so a stop command is needed")
	}
	f := sample(t)
	for _, version := range []string{"v1", "v2"} {
		p := f.Deploy(version)
		p.Config.Stop = ""
		began := time.Now()
		if res, log := executortest.Single(t, f, api.TaskDeploy, p); !res.Success {
			t.Fatalf("%s\n%s", res.Error, log)
		}
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("the deployment took %v: the start was waited for", took)
		}
		executortest.Await(t, f, version)
	}
}

// TestStubborn: a version that ignores its stop is killed when its time is up.
func TestStubborn(t *testing.T) {
	t.Parallel()
	f := sample(t)
	p := f.Deploy("v1")
	p.Config.Environment["APP_MODE"] = "stubborn"
	if res, log := executortest.Single(t, f, api.TaskDeploy, p); !res.Success {
		t.Fatalf("%s\n%s", res.Error, log)
	}
	p = f.Deploy("v2")
	p.Config.StopTimeout = 1
	res, log := executortest.Single(t, f, api.TaskDeploy, p)
	if !res.Success || !strings.Contains(log, "were killed") {
		t.Fatalf("%s\n%s", res.Error, log)
	}
	executortest.Await(t, f, "v2")
}

// TestStartFails: what the start said is in the log, and the old version runs
// again.
func TestStartFails(t *testing.T) {
	t.Parallel()
	f := sample(t)
	if res, log := executortest.Single(t, f, api.TaskDeploy, f.Deploy("v1")); !res.Success {
		t.Fatalf("%s\n%s", res.Error, log)
	}
	p := f.Deploy("v2")
	p.Config.Start = "echo the licence is missing; exit 4"
	res, log := executortest.Single(t, f, api.TaskDeploy, p)
	if res.ErrorType != api.ErrSwitchFailed || !res.RolledBack || !strings.Contains(res.Error, "the licence is missing") {
		t.Errorf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
	executortest.Await(t, f, "v1")
}

func TestDeployScript(t *testing.T) {
	t.Parallel()
	f, dir := files(t, host.Options{})
	script := func(body string) api.ArtifactReference {
		return api.ArtifactReference{Name: "deploy.sh", Type: "deploy_script", Content: []byte("#!/bin/sh\n" + body)}
	}
	p := release("v1", script(`echo "migrating to $STELLA_RELEASE_ID for $GREETING"; pwd > where`))
	p.Config.Environment = map[string]string{"GREETING": "hello"}
	res, log := executortest.Single(t, f, api.TaskDeploy, p)
	if !res.Success || !strings.Contains(log, "stdout: migrating to v1 for hello") {
		t.Fatalf("%s\n%s", res.Error, log)
	}
	if got, want := read(t, filepath.Join(dir, "current", "where")), filepath.Join(dir, "releases", "v1")+"\n"; got != want {
		t.Errorf("the script ran in %q, want %q", got, want)
	}
	res, log = executortest.Single(t, f, api.TaskDeploy, release("v2", script("exit 9")))
	if res.ErrorType != api.ErrSwitchFailed || !strings.Contains(res.Error, "exit code 9") {
		t.Errorf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
	executortest.Await(t, f, "v1")
	if _, err := os.Stat(filepath.Join(dir, "releases", "v2")); !os.IsNotExist(err) {
		t.Errorf("the failed release is still there: %v", err)
	}
}

func TestArtifacts(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/a" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, "content")
	}))
	t.Cleanup(server.Close)
	sum := sha256.Sum256([]byte("content"))
	good := "sha256:" + hex.EncodeToString(sum[:])
	bad := "sha256:" + strings.Repeat("00", 32)
	f, dir := files(t, host.Options{})
	for name, c := range map[string]struct {
		artifact api.ArtifactReference
		want     string
	}{
		"from a url":        {api.ArtifactReference{Name: "a/b", URL: server.URL + "/a", Digest: good}, ""},
		"without digest":    {api.ArtifactReference{Name: "a", URL: server.URL + "/a"}, api.ErrInvalidPayload},
		"another digest":    {api.ArtifactReference{Name: "a", URL: server.URL + "/a?token=s3cr3t", Digest: bad}, api.ErrDigestMismatch},
		"inline, another":   {api.ArtifactReference{Name: "a", Content: []byte("x"), Digest: bad}, api.ErrDigestMismatch},
		"not found":         {api.ArtifactReference{Name: "a", URL: server.URL + "/none?token=s3cr3t", Digest: good}, api.ErrPullFailed},
		"no server":         {api.ArtifactReference{Name: "a", URL: "http://127.0.0.1:1/?token=s3cr3t", Digest: good}, api.ErrPullFailed},
		"a file's url":      {api.ArtifactReference{Name: "a", URL: "file:///etc/passwd", Digest: good}, api.ErrInvalidPayload},
		"up":                {api.ArtifactReference{Name: "../a", Content: []byte("x")}, api.ErrInvalidPayload},
		"absolute":          {api.ArtifactReference{Name: "/etc/a", Content: []byte("x")}, api.ErrInvalidPayload},
		"Stella's own":      {api.ArtifactReference{Name: ".stella-release.json", Content: []byte("x")}, api.ErrInvalidPayload},
		"twice":             {api.ArtifactReference{Name: "version", Content: []byte("x")}, api.ErrInvalidPayload},
		"setuid":            {api.ArtifactReference{Name: "a", Content: []byte("x"), Mode: "4755"}, api.ErrInvalidPayload},
		"an unknown type":   {api.ArtifactReference{Name: "a", Content: []byte("x"), Type: "poem"}, api.ErrInvalidPayload},
		"a unit's bad name": {api.ArtifactReference{Name: "a", Content: []byte("x"), Type: "systemd_unit"}, api.ErrInvalidPayload},
	} {
		res, log := executortest.Single(t, f, api.TaskDeploy, release("v1", c.artifact))
		if res.ErrorType != c.want || strings.Contains(res.Error+log, "s3cr3t") {
			t.Errorf("%s: %q, want %q: %s\n%s", name, res.ErrorType, c.want, res.Error, log)
		}
	}
	if got := read(t, filepath.Join(dir, "current", "a", "b")); got != "content" {
		t.Errorf("the artifact is %q", got)
	}
}

// TestReleases: the last ones are kept, the environment is for the agent's
// user alone, and a rollback may name a release.
func TestReleases(t *testing.T) {
	t.Parallel()
	f, dir := files(t, host.Options{})
	for i := range 6 {
		p := release(fmt.Sprintf("v%d", i))
		p.Config.Keep, p.Config.Environment = 3, map[string]string{"PASSWORD": `a"b$c`}
		if res, log := executortest.Single(t, f, api.TaskDeploy, p); !res.Success {
			t.Fatalf("%s\n%s", res.Error, log)
		}
	}
	names := func() []string {
		entries, err := os.ReadDir(filepath.Join(dir, "releases"))
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return all
	}
	if diff := cmp.Diff([]string{"v3", "v4", "v5"}, names()); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{".stella-release.json", ".stella.env"} {
		info, err := os.Stat(filepath.Join(dir, "current", name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if got := read(t, filepath.Join(dir, "current", ".stella.env")); got != `PASSWORD="a\"b\$c"`+"\n" {
		t.Errorf("the environment file is %q", got)
	}
	if res, log := executortest.Single(t, f, api.TaskRollback, api.RollbackPayload{ReleaseID: "v3"}); !res.Success {
		t.Errorf("%s\n%s", res.Error, log)
	}
	executortest.Await(t, f, "v3")
	res, _ := executortest.Single(t, f, api.TaskRollback, api.RollbackPayload{ReleaseID: "v0"})
	if res.ErrorType != api.ErrNothingToRestore {
		t.Errorf("%s: %s", res.ErrorType, res.Error)
	}
}

// TestUnit: a unit is installed, restarted, and restored when the deployment
// fails. systemctl is a program that notes how it was called.
func TestUnit(t *testing.T) {
	t.Parallel()
	bin, units := t.TempDir(), t.TempDir()
	calls, systemctl := filepath.Join(bin, "calls"), filepath.Join(bin, "systemctl")
	body := fmt.Sprintf("#!/bin/sh\necho \"$@\" >> %s\n[ \"$1\" != restart ] || [ ! -e %s/fail ] || { rm %s/fail; exit 1; }\n", calls, bin, bin)
	if err := os.WriteFile(systemctl, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	f, _ := files(t, host.Options{UnitDir: units, Systemctl: systemctl})
	unit := func(version string) api.DeployPayload {
		p := release(version, api.ArtifactReference{Name: "etc/app.service", Type: "systemd_unit", Content: []byte("# " + version)})
		p.Config.Unit = "app.service"
		return p
	}
	if res, log := executortest.Single(t, f, api.TaskDeploy, unit("v1")); !res.Success {
		t.Fatalf("%s\n%s", res.Error, log)
	}
	if got := read(t, filepath.Join(units, "app.service")); got != "# v1" {
		t.Errorf("the unit is %q", got)
	}
	if err := os.WriteFile(filepath.Join(bin, "fail"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(calls); err != nil {
		t.Fatal(err)
	}
	res, log := executortest.Single(t, f, api.TaskDeploy, unit("v2"))
	if res.ErrorType != api.ErrSwitchFailed || !res.RolledBack {
		t.Errorf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
	if got := read(t, filepath.Join(units, "app.service")); got != "# v1" {
		t.Errorf("after the undo the unit is %q", got)
	}
	if diff := cmp.Diff("daemon-reload\nrestart app.service\ndaemon-reload\nrestart app.service\n", read(t, calls)); diff != "" {
		t.Error(diff)
	}
	executortest.Await(t, f, "v1")
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	f, dir := files(t, host.Options{})
	for _, bad := range []string{"", "relative/dir", "/"} {
		f.Target.Config.Directory = bad
		if res, _ := executortest.Single(t, f, api.TaskDeploy, release("v1")); res.ErrorType != api.ErrInvalidPayload {
			t.Errorf("directory %q: %s: %s", bad, res.ErrorType, res.Error)
		}
	}
	f.Target.Config.Directory = dir
	for _, bad := range []string{"../up", "a/b", ".hidden"} {
		p := release("v1")
		p.Config.ReleaseID = bad
		if res, _ := executortest.Single(t, f, api.TaskDeploy, p); res.ErrorType != api.ErrInvalidPayload {
			t.Errorf("release id %q: %s: %s", bad, res.ErrorType, res.Error)
		}
	}
	// A folder called current is somebody's: it is not replaced.
	if err := os.Mkdir(filepath.Join(dir, "current"), 0o755); err != nil {
		t.Fatal(err)
	}
	if res, _ := executortest.Single(t, f, api.TaskDeploy, release("v1")); res.Success || !strings.Contains(res.Error, "not a link") {
		t.Errorf("%s: %s", res.ErrorType, res.Error)
	}
	// A link that leads out of the target's folder is not followed by an
	// upload.
	out := t.TempDir()
	if err := os.Symlink(out, filepath.Join(dir, "door")); err != nil {
		t.Fatal(err)
	}
	up := api.UploadPayload{Files: []api.ArtifactReference{{Name: "door/evil", Content: []byte("x")}}}
	if res, _ := executortest.Single(t, f, api.TaskUploadFiles, up); res.Success {
		t.Error("an upload left the target's folder")
	}
	if got := read(t, filepath.Join(out, "evil")); got != "" {
		t.Error("the file is there")
	}
}
