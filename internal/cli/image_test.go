package cli

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"stella-ops.org/stella/api"
)

// A tag is resolved against a registry that speaks the real protocol.
func TestTagIsResolved(t *testing.T) {
	t.Parallel()
	heads := true
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case strings.Contains(r.URL.Path, "/private/") && (user != "joe" || password != "hunter2"):
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodHead && !heads:
			w.WriteHeader(http.StatusMethodNotAllowed)
		default:
			images.ServeHTTP(w, r)
		}
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	push, err := name.NewTag(host + "/team/app:1.4")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(push, empty.Image, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	want, err := empty.Image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	f := newFakeAPI(t)
	term := newTerminal(t, f)
	_, p := deployed(t, "docker", term, f, "--image", host+"/team/app:1.4")
	if p.Image != host+"/team/app" || p.Digest != want.String() {
		t.Errorf("payload: %+v", p)
	}
	if !strings.Contains(term.stderr, "resolved "+host+"/team/app:1.4 → "+want.String()) {
		t.Errorf("stderr: %s", term.stderr)
	}
	heads = false
	if _, p := deployed(t, "docker", term, f, "--image", host+"/team/app:1.4"); p.Digest != want.String() {
		t.Errorf("without HEAD: %+v", p)
	}
	heads = true

	for image, tc := range map[string]struct {
		code int
		want string
	}{
		host + "/team/app:none":   {exitNotFound, "has no " + host + "/team/app:none"},
		host + "/private/app:1.0": {exitNotAllowed, "--registry-user"},
		"127.0.0.1:1/app:1.0":     {exitUnavailable, "could not be asked"},
	} {
		if code := term.run(t.Context(), "deploy", "web", "--image", image); code != tc.code || !strings.Contains(term.stderr, tc.want) {
			t.Errorf("%s: %d, %s", image, code, term.stderr)
		}
	}
	// With the login it gets in, and then there is no such image.
	term.stdin = "hunter2\n"
	if code := term.run(t.Context(), "deploy", "web", "--image", host+"/private/app:1.0", "--registry-user", "joe", "--registry-password-stdin"); code != exitNotFound {
		t.Errorf("with a login: %d, %s", code, term.stderr)
	}
}

// Many small files that are too much together are refused before they are read.
func TestTooManyBytes(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.answer("GET /api/v1/targets/web", api.Target{Name: "web", Kind: "host"})
	term := newTerminal(t, f)
	dir := filepath.Join(term.home, "many")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range maxContent/inlineContent + 1 {
		file, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			t.Fatal(err)
		}
		if err := file.Truncate(inlineContent); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if code := term.run(t.Context(), "deploy", "web", "--file", dir); code != exitUsage || !strings.Contains(term.stderr, "11.0 MiB") {
		t.Errorf("%d: %s", code, term.stderr)
	}
}
