// Command image makes the agent's container image of its static binary: an
// archive for `docker load` and for all else that reads docker's archives. It
// needs no engine, and the same binary makes the same bytes; an engine would
// write the time into every layer.
//
// It is part of the build (scripts/packages), and of no program.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// user is nobody whom a host knows.
const user = 65532

// Places in the image, the same as on a host.
const (
	data   = "/var/lib/stella-agent"
	socket = "/run/stella-agent/agent.sock"
)

type options struct {
	binary, arch, version, tag, revision, licences, out string
	epoch                                               int64
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "", "the agent, a static binary for Linux")
	flag.StringVar(&o.arch, "arch", "", "the binary's architecture, as Go names it")
	flag.StringVar(&o.version, "version", "", "its version")
	flag.StringVar(&o.tag, "tag", "", "the image's tag")
	flag.StringVar(&o.revision, "revision", "", "the commit that it is built from")
	flag.StringVar(&o.licences, "licences", "", "the licences of what is linked into it")
	flag.StringVar(&o.out, "out", "", "the archive to write (.tar.gz)")
	flag.Int64Var(&o.epoch, "epoch", 0, "the source's time, in seconds since 1970 (SOURCE_DATE_EPOCH)")
	flag.Parse()
	if err := write(o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// write makes the archive.
func write(o options) error {
	img, err := image(o)
	if err != nil {
		return err
	}
	// One name: who loads an archive does not want "latest" to become it.
	ref, err := name.NewTag("stella/agent:" + o.tag)
	if err != nil {
		return fmt.Errorf("the image's name: %w", err)
	}
	file, err := os.OpenFile(o.out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) //nolint:gosec // for everybody to read
	if err != nil {
		return err
	}
	defer file.Close()
	if err := tarball.Write(ref, img, file); err != nil {
		return fmt.Errorf("write %s: %w", o.out, err)
	}
	return file.Close()
}

// image is one layer and what runs in it.
func image(o options) (v1.Image, error) {
	at := time.Unix(o.epoch, 0).UTC()
	files, err := rootfs(o, at)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files)), nil
	}, tarball.WithCompressionLevel(gzip.DefaultCompression))
	if err != nil {
		return nil, err
	}
	img, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: at}, CreatedBy: "stella scripts/packages"},
	})
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", o.arch, v1.Time{Time: at}
	file.Config = config(o)
	return mutate.ConfigFile(img, file)
}

func config(o options) v1.Config {
	return v1.Config{
		User:       fmt.Sprintf("%d:%d", user, user),
		Entrypoint: []string{"/stella-agent"},
		Cmd:        []string{"--register"},
		Env:        []string{"PATH=/", "STELLA_DATA=" + data, "STELLA_SOCKET=" + socket},
		Volumes:    map[string]struct{}{data: {}},
		WorkingDir: data,
		StopSignal: "SIGTERM",
		Healthcheck: &v1.HealthConfig{
			Test: []string{"CMD", "/stella-agent", "health"},
			// An agent's first connection has a minute; later, one that is lost for a minute and a half is
			// worth a word.
			Interval: 30 * time.Second, Timeout: 10 * time.Second, StartPeriod: time.Minute, Retries: 3,
		},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "stella-agent",
			"org.opencontainers.image.description": "Deployment agent of Stella",
			"org.opencontainers.image.vendor":      "Stella",
			"org.opencontainers.image.url":         "https://stella-ops.org",
			"org.opencontainers.image.version":     o.version,
			"org.opencontainers.image.revision":    o.revision,
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	}
}

// rootfs is what the container sees: the agent, its user, and folders that are
// the user's. There is no shell, and no list of authorities: the agent trusts
// its server by the pin in the token.
func rootfs(o options, at time.Time) ([]byte, error) {
	agent, err := os.ReadFile(o.binary)
	if err != nil {
		return nil, err
	}
	licences, err := os.ReadFile(o.licences)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range []struct {
		name string
		mode int64
		own  int
		data []byte
	}{
		{"etc/", 0o755, 0, nil},
		{"etc/group", 0o644, 0, fmt.Appendf(nil, "root:x:0:\nstella-agent:x:%d:\n", user)},
		{"etc/passwd", 0o644, 0, fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nstella-agent:x:%d:%d:Stella:%s:/sbin/nologin\n", user, user, data)},
		{"licences.txt", 0o644, 0, licences},
		{"run/", 0o755, 0, nil},
		{"run/stella-agent/", 0o750, user, nil},
		{"stella-agent", 0o755, 0, agent},
		{"tmp/", 0o1777, 0, nil},
		{"var/", 0o755, 0, nil},
		{"var/lib/", 0o755, 0, nil},
		{"var/lib/stella-agent/", 0o700, user, nil},
	} {
		h := &tar.Header{Name: e.name, Mode: e.mode, Uid: e.own, Gid: e.own, ModTime: at, Size: int64(len(e.data)), Typeflag: tar.TypeReg}
		if e.data == nil {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
