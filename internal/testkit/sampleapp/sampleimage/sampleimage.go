// Package sampleimage builds the sample application and puts it into images
// for tests, without a docker build: one layer with one static binary, pushed
// straight to a registry.
//
// It is for tests alone.
package sampleimage

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

var build = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "stella-sampleapp-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	out := filepath.Join(dir, "sampleapp")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "stella-ops.org/stella/internal/testkit/sampleapp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return stderr.Bytes(), err
	}
	return os.ReadFile(out)
})

// Binary builds the sample application once for the test's process and
// returns it.
func Binary(t testing.TB) []byte {
	t.Helper()
	data, err := build()
	if err != nil {
		t.Fatalf("build the sample application: %v\n%s", err, data)
	}
	return data
}

// Options choose what an image is like.
type Options struct {
	Version string
	// Mode is the image's APP_MODE.
	Mode string
	// HealthCheck gives the image a HEALTHCHECK of its own.
	HealthCheck bool
	// Label makes the image one of its own, which no other test removes.
	Label string
	// Username and Password log in to the registry.
	Username, Password string
}

// Push builds an image, pushes it to the repository (registry/path, without a
// tag) and returns its digest.
func Push(t testing.TB, repository string, o Options) (digest string) {
	t.Helper()
	img := Image(t, o)
	ref, err := name.NewTag(repository+":"+o.Version, name.Insecure)
	if err != nil {
		t.Fatalf("push %s: %v", repository, err)
	}
	auth := authn.Anonymous
	if o.Username != "" {
		auth = &authn.Basic{Username: o.Username, Password: o.Password}
	}
	if err := remote.Write(ref, img, remote.WithAuth(auth), remote.WithContext(t.Context())); err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
	hash, err := img.Digest()
	if err != nil {
		t.Fatalf("digest of %s: %v", ref, err)
	}
	return hash.String()
}

// Image builds an image of the sample application.
func Image(t testing.TB, o Options) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	binary := Binary(t)
	for _, entry := range []struct {
		header tar.Header
		data   []byte
	}{
		{tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil},
		{tar.Header{Name: "app", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(binary))}, binary},
	} {
		if err := w.WriteHeader(&entry.header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(entry.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{
		Entrypoint: []string{"/app"}, Cmd: []string{"serve"},
		Env:        []string{"APP_VERSION=" + o.Version, "APP_MODE=" + o.Mode},
		Labels:     map[string]string{"stella.test": "1" + o.Label},
		WorkingDir: "/",
	}
	if o.HealthCheck {
		file.Config.Healthcheck = &v1.HealthConfig{
			Test: []string{"CMD", "/app", "health"}, Interval: time.Second, Timeout: 3 * time.Second, Retries: 2,
		}
	}
	img, err = mutate.ConfigFile(img, file)
	if err != nil {
		t.Fatal(err)
	}
	return img
}
