package compose_test

import (
	"encoding/json"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/testkit/peers"
	"stella-ops.org/stella/internal/testkit/sampleapp/sampleimage"
)

// deployed runs a deployment that has to work.
func (f *fixture) deployed(t *testing.T, p api.DeployPayload) (log string) {
	t.Helper()
	res, log := executortest.Single(t, f.Fixture, api.TaskDeploy, p)
	if !res.Success {
		t.Fatalf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
	return log
}

// fails runs a deployment that must not work.
func (f *fixture) fails(t *testing.T, name string, p api.DeployPayload, want, says string, rolledBack bool) *api.TaskResult {
	t.Helper()
	res, log := executortest.Single(t, f.Fixture, api.TaskDeploy, p)
	if res.Success || res.ErrorType != want || !strings.Contains(res.Error, says) || res.RolledBack != rolledBack {
		t.Errorf("%s: success=%v errorType=%q rolledBack=%v error %q; want %s saying %q\n%s",
			name, res.Success, res.ErrorType, res.RolledBack, res.Error, want, says, log)
	}
	return res
}

// containers are the project's, each with its service, image and start.
func (f *fixture) containers(t *testing.T) []string {
	t.Helper()
	ids := f.lab.list(t, "ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project="+f.project)
	if len(ids) == 0 {
		return nil
	}
	return f.lab.list(t, append([]string{
		"inspect", "--format",
		`{{index .Config.Labels "com.docker.compose.service"}}={{.Config.Image}},{{.ID}},{{.State.StartedAt}},{{.State.Running}}`,
	}, ids...)...)
}

// services are the project's services that have containers, with their images.
func (f *fixture) services(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, c := range f.containers(t) {
		name, rest, _ := strings.Cut(c, "=")
		image, _, _ := strings.Cut(rest, ",")
		if strings.HasSuffix(rest, ",false") {
			image += " (ended)"
		}
		all[name] = image
	}
	return all
}

// TestRefused: what cannot be deployed is refused with the right word before
// anything is touched.
func TestRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	f.deployed(t, f.Deploy("v1"))
	before := f.containers(t)
	v1, v2 := l.image(t, sampleimage.Options{Version: "v1"}), l.image(t, sampleimage.Options{Version: "v2"})
	digest := func(image string) string { return image[strings.Index(image, "sha256:"):] }
	unknown := "sha256:" + strings.Repeat("ab", 32)
	lock := func(text string) func(*api.DeployPayload) {
		return func(p *api.DeployPayload) { p.Artifacts[0].Content = []byte(text) }
	}
	expect := func(text string, digests ...string) func(*api.DeployPayload) {
		return func(p *api.DeployPayload) {
			lock(text)(p)
			p.Config.ExpectedDigests = map[string]string{}
			for i := 0; i < len(digests); i += 2 {
				p.Config.ExpectedDigests[digests[i]] = digests[i+1]
			}
		}
	}
	for name, c := range map[string]struct {
		change     func(*api.DeployPayload)
		want, says string
	}{
		"a tag":             {lock("services: {web: {image: " + l.repository + ":v2}}"), api.ErrInvalidPayload, "not pinned"},
		"a variable":        {lock("services: {web: {image: '$IMAGE'}}"), api.ErrInvalidPayload, "variable"},
		"a build":           {lock("services: {web: {build: .}}"), api.ErrInvalidPayload, "is built"},
		"no image":          {lock("services: {web: {command: x}}"), api.ErrInvalidPayload, "no image"},
		"no YAML":           {lock("services: ["), api.ErrInvalidPayload, "YAML"},
		"no services":       {lock("name: x"), api.ErrInvalidPayload, "no services"},
		"no compose file":   {lock("services: {web: {image: " + v2 + ", prots: [1]}}"), api.ErrInvalidPayload, "prots"},
		"an include":        {lock("include: [/etc/x.yml]\nservices: {web: {image: " + v2 + "}}"), api.ErrInvalidPayload, "not among the release's files"},
		"an include above":  {lock("include: [../x.yml]\nservices: {web: {image: " + v2 + "}}"), api.ErrInvalidPayload, "not among the release's files"},
		"extends elsewhere": {lock("services: {web: {image: " + v2 + ", extends: {file: /x.yml, service: y}}}"), api.ErrInvalidPayload, "not among the release's files"},
		"a provider":        {lock("services: {web: {image: " + v2 + ", provider: {type: sh}}}"), api.ErrInvalidPayload, ""},
		"an image mounted":  {lock("services: {web: {image: " + v2 + ", volumes: [{type: image, source: nginx, target: /x}]}}"), api.ErrInvalidPayload, "mounts the image"},
		"one more service":  {lock(f.file(f.service("web", v2), f.service("spy", v1))), api.ErrDigestMismatch, "service spy, and no digest is expected"},
		"one in a profile":  {lock(f.file(f.service("web", v2), f.service("spy", v1, "profiles: [x]"))), api.ErrDigestMismatch, "spy"},
		"one service less":  {expect(f.file(f.service("web", v2)), "web", digest(v2), "db", digest(v1)), api.ErrDigestMismatch, "db"},
		"another digest":    {lock(f.file(f.service("web", v1))), api.ErrDigestMismatch, digest(v2) + " is expected"},
		"nothing enabled":   {lock(f.file(f.service("web", v2, "profiles: [x]"))), api.ErrInvalidPayload, "profile"},
		"unknown digest":    {expect(f.file(f.service("web", l.repository+"@"+unknown)), "web", unknown), api.ErrDigestMismatch, "does not serve"},
		"no registry":       {expect(f.file(f.service("web", "127.0.0.1:1/x@"+unknown)), "web", unknown), api.ErrPullFailed, "refused"},
		"tampered": {func(p *api.DeployPayload) {
			p.Artifacts[0].Digest = unknown
		}, api.ErrDigestMismatch, "find out who"},
		"two lock files": {func(p *api.DeployPayload) { p.Artifacts = append(p.Artifacts, p.Artifacts[0]) }, api.ErrInvalidPayload, "are 2"},
		"no digests":     {func(p *api.DeployPayload) { p.Config.ExpectedDigests = nil }, api.ErrInvalidPayload, "expectedDigests"},
		"a script": {func(p *api.DeployPayload) {
			p.Artifacts = append(p.Artifacts, api.ArtifactReference{Name: "x", Type: "deploy_script"})
		}, api.ErrInvalidPayload, "deploy_script"},
		"the sticker": {func(p *api.DeployPayload) {
			p.Artifacts = append(p.Artifacts, api.ArtifactReference{Name: "version.json"})
		}, api.ErrInvalidPayload, "sticker"},
		"docker's own variable": {func(p *api.DeployPayload) { p.Config.Environment = map[string]string{"PATH": "x"} }, api.ErrInvalidPayload, "PATH"},
		"a bad env file": {func(p *api.DeployPayload) {
			p.Artifacts = append(p.Artifacts, api.ArtifactReference{Name: "a.env", Type: "env_file", Content: []byte("hunter2 secret!")})
		}, api.ErrInvalidPayload, "a.env"},
	} {
		p := f.Deploy("v2")
		c.change(&p)
		res := f.fails(t, name, p, c.want, c.says, false)
		if strings.Contains(res.Error, "hunter2") || strings.Contains(res.Error, ".stella-new") {
			t.Errorf("%s says too much: %s", name, res.Error)
		}
	}
	if diff := cmp.Diff(before, f.containers(t)); diff != "" {
		t.Errorf("something was touched: %s", diff)
	}
}

// TestSeveralFiles: other compose files count when they come along, and what
// they say is verified like the rest.
func TestSeveralFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	v1 := l.image(t, sampleimage.Options{Version: "v1"})
	p := f.payload("v1", "include: [sub/db.yml]\n"+f.file(f.service("web", v1+" # it", "ports: ['"+f.web+":8080']", "env_file: app.env")))
	p.Config.ExpectedDigests = map[string]string{"web": v1[strings.Index(v1, "sha256:"):], "db": v1[strings.Index(v1, "sha256:"):]}
	p.Artifacts = append(p.Artifacts,
		api.ArtifactReference{Name: "sub/db.yml", Content: []byte(f.file(f.service("db", v1, "command: [wait]")))},
		api.ArtifactReference{Name: "app.env", Content: []byte("A=1\n")})
	f.deployed(t, p)
	executortest.Await(t, f.Fixture, "v1")
	if diff := cmp.Diff(map[string]string{"web": v1, "db": v1}, f.services(t)); diff != "" {
		t.Error(diff)
	}
	p.Artifacts[1].Content = []byte(f.file(f.service("db", l.repository+":v1")))
	f.fails(t, "a tag in the other file", p, api.ErrInvalidPayload, "sub/db.yml", false)
}

// TestSecondServiceFails: when one service of a version is not well, all are
// as they were.
func TestSecondServiceFails(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	project := func(version string, db sampleimage.Options, more ...string) api.DeployPayload {
		return f.payload(version, f.file(
			f.service("web", l.image(t, sampleimage.Options{Version: version}), "ports: ['"+f.web+":8080']"),
			f.service("db", l.image(t, db), more...)))
	}
	f.deployed(t, project("v1", sampleimage.Options{Version: "v1", HealthCheck: true}))
	old := f.services(t)
	for name, c := range map[string]struct {
		db         sampleimage.Options
		more, says string
	}{
		"unhealthy": {sampleimage.Options{Version: "v2", Mode: "unhealthy", HealthCheck: true}, "restart: always", "503"},
		"ended":     {sampleimage.Options{Version: "v2", Mode: "exit"}, "restart: 'no'", "has ended with exit code 1"},
		"looping":   {sampleimage.Options{Version: "v2", Mode: "exit"}, "restart: always", "restart"},
	} {
		p := project("v2", c.db, c.more)
		p.Config.HealthCheck = nil
		res := f.fails(t, name, p, api.ErrHealthCheckFailed, c.says, true)
		lines, _ := res.Outputs["containerLogs"].([]string)
		states, _ := res.Outputs["failedServices"].([]string)
		if len(states) != 1 || !strings.Contains(states[0], "the service db") {
			t.Errorf("%s: failed services %q", name, states)
		}
		if !strings.Contains(strings.Join(lines, "\n"), "db-1: sampleapp") || strings.Contains(strings.Join(lines, "\n"), "web-1") {
			t.Errorf("%s: the last lines are %q", name, lines)
		}
		executortest.Await(t, f.Fixture, "v1")
		if diff := cmp.Diff(old, f.services(t)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	// The service that web waits for is not healthy: compose itself gives up.
	p := project("v2", sampleimage.Options{Version: "v2", Mode: "unhealthy", HealthCheck: true})
	p.Artifacts[0].Content = []byte(strings.Replace(string(p.Artifacts[0].Content), "    ports:", "    depends_on: {db: {condition: service_healthy}}\n    ports:", 1))
	f.fails(t, "a dependency", p, api.ErrHealthCheckFailed, "unhealthy", true)
	executortest.Await(t, f.Fixture, "v1")
}

// TestOneShot: a service that does its work and ends is no failure.
func TestOneShot(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	v1 := l.image(t, sampleimage.Options{Version: "v1"})
	job := func(code string) api.DeployPayload {
		p := f.payload("v1", f.file(f.service("web", v1, "ports: ['"+f.web+":8080']"), f.service("job", v1, "command: [exit, '"+code+"']")))
		p.Config.HealthCheck = nil
		return p
	}
	f.deployed(t, job("0"))
	res, _ := executortest.Single(t, f.Fixture, api.TaskInspect, struct{}{})
	if res.Outputs["running"] != true {
		t.Errorf("inspect: %v", res.Outputs)
	}
	f.fails(t, "a job that fails", job("4"), api.ErrHealthCheckFailed, "exit code 4", true)
	if diff := cmp.Diff(map[string]string{"web": v1, "job": v1 + " (ended)"}, f.services(t)); diff != "" {
		t.Error(diff)
	}
}

// TestOrphans: a service that the new version does not have goes, and is back
// when the version is not well.
func TestOrphans(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	v1 := l.image(t, sampleimage.Options{Version: "v1"})
	both := f.payload("v1", f.file(
		f.service("web", v1, "ports: ['"+f.web+":8080']"),
		f.service("worker", v1, "command: [wait]", "networks: [back]"))+"networks: {back: {}}\n")
	f.deployed(t, both)
	bad := f.Deploy("v2")
	bad.Config.HealthCheck.ExpectedStatus, bad.Config.HealthCheck.Timeout = 418, 1
	f.fails(t, "unhealthy", bad, api.ErrHealthCheckFailed, "200 OK", true)
	if diff := cmp.Diff(map[string]string{"web": v1, "worker": v1}, f.services(t)); diff != "" {
		t.Error(diff)
	}
	keep := f.Deploy("v2")
	no := false
	keep.Config.CleanupPrevious = &no
	f.deployed(t, keep)
	if diff := cmp.Diff(map[string]string{"web": l.image(t, sampleimage.Options{Version: "v2"})}, f.services(t)); diff != "" {
		t.Error(diff)
	}
	networks := l.list(t, "network", "ls", "--filter", "label=com.docker.compose.project="+f.project, "--format", "{{.Name}}")
	if diff := cmp.Diff([]string{f.project + "_default"}, networks); diff != "" {
		t.Error(diff)
	}
	if res, log := executortest.Single(t, f.Fixture, api.TaskRollback, api.RollbackPayload{}); !res.Success {
		t.Fatalf("%s\n%s", res.Error, log)
	}
	if diff := cmp.Diff(map[string]string{"web": v1, "worker": v1}, f.services(t)); diff != "" {
		t.Error(diff)
	}
}

// TestFiles: the files beside the lock file come, go and come back with it.
func TestFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	release := func(version string, files ...string) api.DeployPayload {
		p := f.Deploy(version)
		for i := 0; i < len(files); i += 3 {
			p.Artifacts = append(p.Artifacts, api.ArtifactReference{Name: files[i], Content: []byte(files[i+1]), Mode: files[i+2]})
		}
		return p
	}
	mine := filepath.Join(f.dir, "mine.txt")
	if err := os.WriteFile(mine, []byte("mine"), 0o640); err != nil {
		t.Fatal(err)
	}
	empty := f.tree(t)
	bad := release("v1", "a/b/new", "1", "", "mine.txt", "theirs", "")
	bad.Config.HealthCheck.ExpectedStatus, bad.Config.HealthCheck.Timeout = 418, 1
	f.fails(t, "the first", bad, api.ErrHealthCheckFailed, "othing runs", false)
	if diff := cmp.Diff(empty, f.tree(t)); diff != "" {
		t.Errorf("the first: %s", diff)
	}
	one := release("v1", "conf/app.conf", "one", "0600", "conf/old.sh", "#!/bin/sh\n", "0755")
	one.Artifacts = append(one.Artifacts, api.ArtifactReference{Name: "x.env", Type: "env_file", Content: []byte("A=1"), Mode: "0644"})
	no := false
	one.Config.Environment = map[string]string{"SECRET": "s"}
	f.deployed(t, one)
	first := f.tree(t)
	for name, want := range map[string]string{
		"conf/app.conf": "-rw------- one", "conf/old.sh": "-rwxr-xr-x #!/bin/sh\n", "x.env": "-rw------- A=1", "mine.txt": "-rw-r----- mine",
		".stella.env": "-rw------- SECRET=\"s\"\n",
	} {
		if first[name] != want {
			t.Errorf("%s is %q, want %q", name, first[name], want)
		}
	}
	if mode := strings.Fields(first[".stella-release.json"])[0]; mode != "-rw-------" || strings.Contains(first[".stella-release.json"], `"s"`) {
		t.Errorf("the release says %s", first[".stella-release.json"])
	}
	two := release("v2", "conf/app.conf", "two", "", "more/new", "2", "")
	two.Config.CleanupPrevious = &no
	bad = two
	hc := *bad.Config.HealthCheck
	hc.ExpectedStatus, hc.Timeout = 418, 1
	bad.Config.HealthCheck = &hc
	f.fails(t, "the second", bad, api.ErrHealthCheckFailed, "200 OK", true)
	if diff := cmp.Diff(first, f.tree(t)); diff != "" {
		t.Errorf("the second: %s", diff)
	}
	f.deployed(t, two)
	now := f.tree(t)
	if now["conf/app.conf"] != "-rw-r--r-- two" || now["conf/old.sh"] != "" || now["x.env"] != "" || now["mine.txt"] == "" {
		t.Errorf("after the second: %q", now)
	}
	if res, log := executortest.Single(t, f.Fixture, api.TaskRollback, api.RollbackPayload{}); !res.Success {
		t.Fatalf("%s\n%s", res.Error, log)
	}
	back := f.tree(t)
	delete(back, "version.json")
	delete(back, "more") // a folder that is empty now
	delete(first, "version.json")
	if diff := cmp.Diff(first, back); diff != "" {
		t.Errorf("after the rollback: %s", diff)
	}
}

// tree is what a target's folder has: permissions and content by name.
func (f *fixture) tree(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.Walk(f.dir, func(p string, info os.FileInfo, err error) error {
		if err != nil || p == f.dir {
			return err
		}
		name, err := filepath.Rel(f.dir, p)
		if err != nil {
			return err
		}
		if info.IsDir() {
			if name == ".stella-previous" {
				return filepath.SkipDir
			}
			all[name] = "folder"
			return nil
		}
		data, err := os.ReadFile(p)
		all[name] = info.Mode().String() + " " + string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestVolumes: data survives whatever happens to the versions around it.
func TestVolumes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	project := func(version string) api.DeployPayload {
		return f.payload(version, f.file(f.service("web", l.image(t, sampleimage.Options{Version: version}),
			"ports: ['"+f.web+":8080']", "volumes: ['data:/data']"))+"volumes: {data: {}}\n")
	}
	volume := func() []string {
		return l.list(t, "volume", "ls", "--quiet", "--filter", "label=com.docker.compose.project="+f.project)
	}
	bad := project("v1")
	bad.Config.HealthCheck.ExpectedStatus, bad.Config.HealthCheck.Timeout = 418, 1
	f.fails(t, "the first", bad, api.ErrHealthCheckFailed, "othing runs", false)
	made := volume()
	if len(made) != 1 {
		t.Fatalf("volumes %q", made)
	}
	mountpoint, err := l.docker("volume", "inspect", "--format", "{{.CreatedAt}}", made[0])
	if err != nil {
		t.Fatal(err)
	}
	f.deployed(t, project("v1"))
	bad = project("v2")
	bad.Config.HealthCheck.ExpectedStatus, bad.Config.HealthCheck.Timeout = 418, 1
	f.fails(t, "the second", bad, api.ErrHealthCheckFailed, "200 OK", true)
	f.deployed(t, f.Deploy("v3")) // which does not have the volume
	again, err := l.docker("volume", "inspect", "--format", "{{.CreatedAt}}", made[0])
	if err != nil || again != mountpoint {
		t.Errorf("the volume is %q and was %q: %v", again, mountpoint, err)
	}
}

// TestUntouched: what the new version could not even begin with is not
// restarted.
func TestUntouched(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	f.deployed(t, f.Deploy("v1"))
	before := f.containers(t)
	p := f.Deploy("v2")
	p.Artifacts[0].Content = append(p.Artifacts[0].Content, "    volumes: ['data:/data']\nvolumes: {data: {external: true, name: stella-test-none}}\n"...)
	f.fails(t, "no such volume", p, api.ErrSwitchFailed, "stella-test-none", true)
	if diff := cmp.Diff(before, f.containers(t)); diff != "" {
		t.Error(diff)
	}
	executortest.Await(t, f.Fixture, "v1")
}

// TestHalfway: a container that a compose was about to put in another's place
// when it was ended does not keep the old version from coming back.
func TestHalfway(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	f.deployed(t, f.Deploy("v1"))
	old := l.list(t, "ps", "--no-trunc", "--filter", "label=com.docker.compose.project="+f.project, "--format", "{{.ID}} {{.Names}}")
	if len(old) != 2 {
		t.Fatalf("%q", old)
	}
	labels, err := l.docker("inspect", "--format", `{{range $k, $v := .Config.Labels}}--label={{$k}}={{$v}}{{"\n"}}{{end}}`, old[0])
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"create", "--name", old[0][:12] + "_" + old[1]}, strings.Split(strings.TrimSpace(labels), "\n")...)
	if out, err := l.docker(append(args, l.image(t, sampleimage.Options{Version: "v2"}))...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p := f.Deploy("v3")
	p.Config.HealthCheck.ExpectedStatus, p.Config.HealthCheck.Timeout = 418, 1
	res, log := executortest.Single(t, f.Fixture, api.TaskDeploy, p)
	if res.Success || res.ErrorType == api.ErrRollbackFailed {
		t.Fatalf("%s: %s\n%s", res.ErrorType, res.Error, log)
	}
	executortest.Await(t, f.Fixture, "v1")
	f.deployed(t, f.Deploy("v2"))
}

// TestMadeAnew: a release whose lock file is the same starts anew, for what it
// reads at its start may not be.
func TestMadeAnew(t *testing.T) {
	t.Parallel()
	f := newLab(t).fixture(t)
	p := f.Deploy("v1")
	p.Artifacts = append(p.Artifacts, api.ArtifactReference{Name: "app.conf", Content: []byte("one")})
	f.deployed(t, p)
	before := f.containers(t)
	p.Artifacts[1].Content = []byte("two")
	f.deployed(t, p)
	if cmp.Equal(before, f.containers(t)) {
		t.Errorf("the container that has read the old file still runs: %v", before)
	}
}

// TestForeign: a project that Stella did not deploy is left alone.
func TestForeign(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	other := t.TempDir()
	file := filepath.Join(other, "compose.yml")
	if err := os.WriteFile(file, []byte(f.file(f.service("web", l.image(t, sampleimage.Options{Version: "v1"}), "ports: ['"+f.web+":8080']"))), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := l.docker("compose", "--project-name", f.project, "--file", file, "up", "--detach"); err != nil {
		t.Fatal(out)
	}
	before := f.containers(t)
	p := f.Deploy("v2")
	task := func() *api.TaskResult {
		e, j := l.executor, &plainJournal{}
		return e.Run(t.Context(), f.deployTask(t, p), j.env(t))
	}
	if res := task(); res.ErrorType != api.ErrSwitchFailed || !strings.Contains(res.Error, "down") {
		t.Errorf("%s: %s", res.ErrorType, res.Error)
	}
	if diff := cmp.Diff(before, f.containers(t)); diff != "" {
		t.Error(diff)
	}
}

// TestRegistryAway: what is here by its digest is deployed without a registry.
func TestRegistryAway(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	upstream, err := url.Parse("http://" + peers.Registry(t))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(httputil.NewSingleHostReverseProxy(upstream))
	f := l.fixture(t)
	p := f.Deploy("v1")
	p.Artifacts[0].Content = []byte(strings.Replace(string(p.Artifacts[0].Content), upstream.Host, strings.TrimPrefix(server.URL, "http://"), 1))
	f.deployed(t, p)
	server.Close()
	if log := f.deployed(t, p); !strings.Contains(log, "is here already") {
		t.Errorf("the log does not say so:\n%s", log)
	}
	ids := slices.DeleteFunc(l.list(t, "image", "ls", "--digests", "--format", "{{.Repository}}@{{.Digest}}"), func(s string) bool {
		return !strings.HasPrefix(s, strings.TrimPrefix(server.URL, "http://"))
	})
	for _, id := range ids {
		_, _ = l.docker("image", "rm", "--force", id)
	}
}

// TestCommandIn: a command runs in the service that is named, with its
// variables.
func TestCommandIn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	v1, v2 := l.image(t, sampleimage.Options{Version: "v1"}), l.image(t, sampleimage.Options{Version: "v2"})
	f.deployed(t, f.payload("v1", f.file(f.service("web", v1, "ports: ['"+f.web+":8080']"), f.service("db", v2, "command: [wait]"))))
	run := func(service string, env map[string]string) (*api.TaskResult, string) {
		return executortest.Single(t, f.Fixture, api.TaskExecuteCommand, api.CommandPayload{
			ContainerName: service, Environment: env, Command: []string{"/app", "health"},
		})
	}
	// The application is asked where it answers, and only one of them does.
	if res, log := run("web", nil); !res.Success {
		t.Errorf("web: %s\n%s", res.Error, log)
	}
	if res, _ := run("db", nil); res.ErrorType != api.ErrCommandFailed {
		t.Errorf("db: success=%v %s", res.Success, res.Error)
	}
	if res, log := run("web", map[string]string{"APP_ADDR": "no where"}); res.ErrorType != api.ErrCommandFailed || !strings.Contains(log, "no where") {
		t.Errorf("the variable did not come: %s\n%s", res.Error, log)
	}
	for service, says := range map[string]string{"": "db, web", "cache": "no service"} {
		if res, _ := run(service, nil); res.ErrorType != api.ErrInvalidPayload || !strings.Contains(res.Error, says) {
			t.Errorf("%q: %s: %s", service, res.ErrorType, res.Error)
		}
	}
	res, _ := executortest.Single(t, f.Fixture, api.TaskInspect, struct{}{})
	data, err := json.Marshal(res.Outputs["services"])
	if err != nil || strings.Count(string(data), `"differs":false`) != 2 || !strings.Contains(string(data), `"health"`) == strings.Contains(string(data), "healthy") {
		t.Errorf("inspect: %s", data)
	}
}

// TestStubborn: a version that does not stop is stopped by force in its time.
func TestStubborn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.fixture(t)
	f.deployed(t, f.payload("v1", f.file(f.service("web", l.image(t, sampleimage.Options{Version: "v1", Mode: "stubborn"}), "ports: ['"+f.web+":8080']"))))
	p := f.Deploy("v2")
	p.Config.StopTimeout = 1
	began := time.Now()
	f.deployed(t, p)
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("it took %v", took)
	}
}
