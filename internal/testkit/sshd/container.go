//go:build linux

package sshd

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"stella-ops.org/stella/internal/testkit/peers"
)

// The users of a container, beside root. Password is what they log in with.
const (
	// App may do everything by sudo, without a password.
	App = "app"
	// Careful may do everything by sudo, with her password.
	Careful = "careful"
	// Nobody may do nothing by sudo.
	Nobody = "guest"

	Password = "stella-test-password"
)

// hashed is Password, as `openssl passwd -6` makes it.
const hashed = "$6$stellatest$0XgTQRcGKBBirSscKNNiyA3mHQp7KJN2Db3EdjJXQKFt7PyRPdvePw/DMpjRlExCL3ZbgIxslkCY5CgXgU3Pz."

// Contain starts a server in a container: as root, with the users above, and
// with busybox for all programs. It shares the host's network, so that what is
// deployed there can be asked from outside. It ends with the test.
func Contain(t testing.TB, o Options) *Server {
	t.Helper()
	address, program := peers.Docker(t), peers.SSHD(t)
	image, err := build(program, address)
	if err != nil {
		t.Fatalf("make the image of an SSH server: %v", err)
	}
	s := prepare(t, o, App, "UsePAM yes\nPasswordAuthentication yes\nKbdInteractiveAuthentication yes\n")
	s.Container = fmt.Sprintf("stella-test-sshd-%d", s.Port)
	args := append([]string{
		"run", "--detach", "--rm", "--name", s.Container, "--label", "stella.test=1", "--network", "host",
		"--volume", s.Folder + ":" + s.Folder,
	}, o.Docker...)
	args = append(args, image, "/usr/sbin/sshd", "-D", "-e", "-f", s.config)
	t.Cleanup(func() { _, _ = docker(context.WithoutCancel(t.Context()), "rm", "--force", s.Container) })
	if out, err := docker(t.Context(), args...); err != nil {
		t.Fatalf("start an SSH server in a container: %v: %s", err, out)
	}
	s.await()
	return s
}

// engine is the address of the Docker engine.
var engine string

func docker(ctx context.Context, args ...string) ([]byte, error) {
	return exec.CommandContext(ctx, "docker", append([]string{"--host", engine}, args...)...).CombinedOutput()
}

var (
	buildOnce sync.Once
	built     string
	errBuild  error
)

// build makes the image once for all tests, and finds it again in later runs:
// its tag is the digest of what is in it.
func build(program, address string) (string, error) {
	buildOnce.Do(func() {
		engine = address
		built, errBuild = buildImage(program)
	})
	return built, errBuild
}

func buildImage(program string) (string, error) {
	content, err := rootfs(program)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	name := "stella-test-sshd:" + hex.EncodeToString(sum[:8])
	ctx := context.Background()
	if _, err := docker(ctx, "image", "inspect", name); err == nil {
		return name, nil
	}
	cmd := exec.CommandContext(ctx, "docker", "--host", engine, "import", "--change", "ENV PATH=/usr/bin:/bin:/usr/sbin", "-", name)
	cmd.Stdin = bytes.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return name, nil
}

// files of the image that are no programs.
var etc = map[string]struct {
	mode int64
	text string
}{
	"etc/passwd": {0o644, `root:x:0:0:root:/root:/bin/sh
sshd:x:74:74::/run/sshd:/bin/false
app:x:1000:1000::/home/app:/bin/sh
careful:x:1001:1001::/home/careful:/bin/sh
guest:x:1002:1002::/home/guest:/bin/sh
`},
	"etc/group":  {0o644, "root:x:0:\nsshd:x:74:\napp:x:1000:\ncareful:x:1001:\nguest:x:1002:\n"},
	"etc/shadow": {0o600, "root:*:19000::::::\nsshd:*:19000::::::\napp:" + hashed + ":19000::::::\ncareful:" + hashed + ":19000::::::\nguest:" + hashed + ":19000::::::\n"},
	"etc/sudoers": {0o440, `Defaults !lecture, passwd_tries=1
app ALL=(ALL) NOPASSWD: ALL
careful ALL=(ALL) ALL
`},
	"etc/nsswitch.conf": {0o644, "passwd: files\ngroup: files\nshadow: files\nhosts: files\n"},
	"etc/hosts":         {0o644, "127.0.0.1 localhost\n"},
	"etc/pam.d/sshd":    {0o644, pam},
	"etc/pam.d/sudo":    {0o644, pam},
}

const pam = `auth required pam_unix.so nodelay
account required pam_unix.so
session required pam_permit.so
`

// rootfs is what the image is made of: programs of the host with the libraries
// that they need.
func rootfs(program string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(h *tar.Header, data []byte) error {
		h.Size = int64(len(data))
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	// In order everywhere, so that the same content has the same digest.
	dirs := map[string]int64{"tmp/": 0o1777, "run/sshd/": 0o755, "root/": 0o700, "proc/": 0o555, "var/empty/": 0o755, "etc/sudoers.d/": 0o750, "usr/bin/": 0o755}
	for _, name := range slices.Sorted(maps.Keys(dirs)) {
		if err := add(&tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: dirs[name]}, nil); err != nil {
			return nil, err
		}
	}
	for i, name := range []string{App, Careful, Nobody} {
		h := &tar.Header{Name: "home/" + name + "/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 1000 + i, Gid: 1000 + i}
		if err := add(h, nil); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(etc)) {
		if err := add(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: etc[name].mode}, []byte(etc[name].text)); err != nil {
			return nil, err
		}
	}
	needed, err := programs(program)
	if err != nil {
		return nil, err
	}
	for _, to := range slices.Sorted(maps.Keys(needed)) {
		data, err := os.ReadFile(needed[to])
		if err != nil {
			return nil, err
		}
		mode := int64(0o755)
		if to == "/usr/bin/sudo" {
			mode = 0o4755
		}
		if err := add(&tar.Header{Name: strings.TrimPrefix(to, "/"), Typeflag: tar.TypeReg, Mode: mode}, data); err != nil {
			return nil, err
		}
	}
	applets, err := exec.Command("busybox", "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("what busybox can do: %w", err)
	}
	for name := range strings.FieldsSeq(string(applets)) {
		if name == "busybox" {
			continue
		}
		if err := add(&tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

var library = regexp.MustCompile(`(?m)(/\S+) \(0x`)

// programs are the files of the host that are needed, by where they go.
func programs(sshd string) (map[string]string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	sudo, err := exec.LookPath("sudo")
	if err != nil {
		return nil, err
	}
	all := map[string]string{"/bin/busybox": busybox, "/usr/sbin/sshd": sshd, "/usr/bin/sudo": sudo}
	dynamic := []string{sshd, sudo}
	for _, pattern := range []string{"/usr/libexec/sudo/*.so", "/usr/libexec/sudo/*.so.0", "/lib/*/security/pam_unix.so", "/lib/*/security/pam_permit.so", "/usr/lib/*/libnss_files.so.2"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		dynamic = append(dynamic, found...)
		for _, file := range found {
			all[file] = file
		}
	}
	for _, file := range dynamic {
		out, err := exec.Command("ldd", file).Output()
		if err != nil {
			return nil, fmt.Errorf("the libraries of %s: %w", file, err)
		}
		for _, m := range library.FindAllSubmatch(out, -1) {
			all[string(m[1])] = string(m[1])
		}
	}
	return all, nil
}
