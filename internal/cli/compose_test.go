package cli

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"stella-ops.org/stella/api"
)

// newRegistry is a registry that has team/app:1.4, and whose /private/ asks
// for the password of joe; logins says who came with one.
func newRegistry(t *testing.T) (host, digest string, logins func() []string) {
	t.Helper()
	var mu sync.Mutex
	var users []string
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		if ok {
			mu.Lock()
			users = append(users, user)
			mu.Unlock()
		}
		if strings.Contains(r.URL.Path, "/private/") && (user != "joe" || password != "hunter2") {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		images.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	tag, err := name.NewTag(host + "/team/app:1.4")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, empty.Image, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	sum, err := empty.Image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return host, sum.String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(users)
	}
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestComposeLock(t *testing.T) {
	t.Parallel()
	host, sum, _ := newRegistry(t)
	term := newTerminal(t, nil)
	write(t, term.home, ".env", "TAG=1.4\n")
	plain := `# The shop.
x-app: &app
  image: HOST/team/app:${TAG} # pinned by the release
services:
  web: {<<: *app, ports: ["80:80"]}
  worker:
    <<: *app
    command: work
  db: { image: 'postgres:16@` + digest + `' }
  job:
    extends: { service: db }
`
	file := write(t, term.home, "compose.yml", strings.ReplaceAll(plain, "HOST", host))
	term.must(t, "compose", "lock", file)
	text, err := os.ReadFile(filepath.Join(term.home, "compose.stella.lock.yml"))
	if err != nil {
		t.Fatal(err)
	}
	pinned := host + "/team/app@" + sum
	want := strings.ReplaceAll(plain, "HOST/team/app:${TAG}", pinned)
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
	for _, s := range []string{"web", "worker", "job", host + "/team/app:1.4", sum, digest} {
		if !strings.Contains(term.stdout, s) {
			t.Errorf("the table does not have %s:\n%s", s, term.stdout)
		}
	}
	// A file that is locked stays as it is; the environment goes before .env.
	term.env["TAG"] = "none"
	term.must(t, "compose", "lock", filepath.Join(term.home, "compose.stella.lock.yml"), "--out", "-")
	if diff := cmp.Diff(want, term.stdout); diff != "" {
		t.Error(diff)
	}
	if code := term.run(t.Context(), "compose", "lock", file, "--out", "-"); code != exitNotFound || term.stdout != "" {
		t.Errorf("%d: %s %s", code, term.stdout, term.stderr)
	}
	delete(term.env, "TAG")
	other := write(t, term.home, "other.env", "TAG='1.4'\n")
	term.must(t, "compose", "lock", file, "--out", "-", "--env-file", other, "-o", "json")
	for text, want := range map[string]string{
		"services: {a: {build: .}}":                           "build and push it",
		"services: {a: {command: x}}":                         "no image",
		"services: {a: {image: 'x:${NONE}'}}":                 "variables",
		"services: {a: {image: 'x:${NONE:?which}'}}":          "which",
		"include: [b.yml]\nservices: {a: {image: x}}":         "make one file",
		"services: {a: {extends: {file: b.yml, service: c}}}": "make one file",
		"a: b": "no services",
		"services:\n  a:\n    image: |\n      " + host + "/team/app:1.4\n": "",
	} {
		bad := write(t, term.home, "bad.yml", text)
		if code := term.run(t.Context(), "compose", "lock", bad, "--out", "-"); code != exitUsage || !strings.Contains(term.stderr, want) {
			t.Errorf("%q: %d: %s", text, code, term.stderr)
		}
	}
}

// A login goes to the registry that asks for one, and to no other.
func TestComposeLockLogsInWhereItMust(t *testing.T) {
	t.Parallel()
	open, _, atOpen := newRegistry(t)
	private, _, atPrivate := newRegistry(t)
	term := newTerminal(t, nil)
	file := write(t, term.home, "compose.yml", "services: {a: {image: "+open+"/team/app:1.4}, b: {image: "+private+"/private/app:1.0}}")
	term.stdin = "hunter2\n"
	// With the login it gets in, and then there is no such image.
	if code := term.run(t.Context(), "compose", "lock", file, "--registry-user", "joe", "--registry-password-stdin"); code != exitNotFound {
		t.Errorf("%d: %s", code, term.stderr)
	}
	if len(atOpen()) > 0 || len(atPrivate()) == 0 {
		t.Errorf("logins: %v and %v", atOpen(), atPrivate())
	}
}

func TestDeployCompose(t *testing.T) {
	t.Parallel()
	host, sum, _ := newRegistry(t)
	f := newFakeAPI(t)
	term := newTerminal(t, f)
	term.stdin = "hunter2\n"
	file := write(t, term.home, "compose.yml", "services:\n  web: {image: "+host+"/team/app:1.4}\n  db: {image: 'x@"+digest+"', profiles: [all]}\n")
	write(t, term.home, ".env", "PORT=80\n")
	conf := write(t, term.home, "app.conf", "conf")
	req, p := deployed(t, "compose", term, f, "--compose-file", file, "--profile", "all", "--file", conf+":conf/app.conf",
		"-e", "MODE=x", "--keep-previous", "--release", "1.4", "--health-docker", "--registry-user", "joe", "--registry-password-stdin")
	no := false
	want := api.DeployPayload{
		Artifacts: []api.ArtifactReference{
			{Name: "conf/app.conf", Content: []byte("conf")},
			{Name: ".env", Type: "env_file", Content: []byte("PORT=80\n")},
			{Name: "compose.stella.lock.yml", Type: "compose_lock", Content: []byte(
				"services:\n  web: {image: " + host + "/team/app@" + sum + "}\n  db: {image: 'x@" + digest + "', profiles: [all]}\n")},
		},
		Config: api.DeployConfig{
			ReleaseID: "1.4", ReleaseName: "1.4", Environment: map[string]string{"MODE": "x"}, CleanupPrevious: &no,
			ExpectedDigests: map[string]string{"web": sum, "db": digest}, Profiles: []string{"all"},
			HealthCheck: &api.HealthCheck{Type: "docker"},
		},
	}
	if diff := cmp.Diff(want, p, ignorePadding); diff != "" {
		t.Error(diff)
	}
	if req.Credentials == nil || req.Credentials.Registry.Password != "hunter2" {
		t.Errorf("credentials %+v", req.Credentials)
	}
	if !strings.Contains(term.stderr, "resolved "+host+"/team/app:1.4 → "+sum) || !strings.Contains(term.stderr, ".env goes along") {
		t.Errorf("stderr: %s", term.stderr)
	}
}
