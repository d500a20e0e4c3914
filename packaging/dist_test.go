//go:build linux

package packaging_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// dist is what scripts/packages has made for this machine's architecture.
type dist struct{ folder, version string }

// build builds a version from the tree.
func build(t *testing.T, version string) dist {
	t.Helper()
	d := dist{filepath.Join(t.TempDir(), "dist"), version}
	run(t, []string{"VERSION=" + version}, "../scripts/packages", "--out", d.folder)
	return d
}

// run runs a command for Linux on this machine's architecture and returns what
// it writes.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(append(os.Environ(), "PLATFORMS=linux/"+runtime.GOARCH), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// file finds the one file whose name begins and ends so.
func (d dist) file(t *testing.T, begin, end string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(d.folder, begin+d.version+"*"+end))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s…%s are %q: %v", begin, end, found, err)
	}
	return found[0]
}

// Two builds are slow, so all that looks at packages shares them.
func TestPackages(t *testing.T) {
	t.Parallel()
	older, newer := build(t, "1.0.0"), build(t, "1.0.1")
	t.Run("sums", func(t *testing.T) { t.Parallel(); testSums(t, older) })
	t.Run("image", func(t *testing.T) { t.Parallel(); testImage(t, older) })
	t.Run("deb of the agent", func(t *testing.T) { t.Parallel(); testAgentDeb(t, older, newer) })
	t.Run("the line where the agent is a deb", func(t *testing.T) { t.Parallel(); testLineOnDeb(t, older, newer) })
	t.Run("deb of the server", func(t *testing.T) { t.Parallel(); testServerDeb(t, older, newer) })
	t.Run("deb without systemd", func(t *testing.T) { t.Parallel(); testDebWithoutSystemd(t, older, newer) })
	t.Run("rpm of the agent", func(t *testing.T) { t.Parallel(); testAgentRPM(t, older, newer) })
}

// The checksums are of every file, and right.
func testSums(t *testing.T, d dist) {
	sums, err := os.ReadFile(filepath.Join(d.folder, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		listed[name] = sum
	}
	there := map[string]string{}
	entries, err := os.ReadDir(d.folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "SHA256SUMS" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(d.folder, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		there[e.Name()] = hex.EncodeToString(sum[:])
	}
	if diff := cmp.Diff(there, listed); diff != "" {
		t.Errorf("SHA256SUMS is not what is there (-there +listed):\n%s", diff)
	}
	if out := run(t, nil, d.file(t, "stella-agent_", "_linux_"+runtime.GOARCH), "version"); strings.TrimSpace(out) != d.version {
		t.Errorf("the program says that it is %q and not %s", out, d.version)
	}
}

// What is built twice, in two folders and by two users with other habits, is
// the same.
func TestBuildIsReproducible(t *testing.T) {
	t.Parallel()
	run(t, nil, "../scripts/packages", "--check")
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for described, want := range map[string]string{
		"v1.4.2":                       "1.4.2",
		"1.4.2":                        "1.4.2",
		"v1.5.0-rc.1":                  "1.5.0~rc.1",
		"v1.4.2-14-gabc1234":           "1.4.2+14.gabc1234",
		"v1.4.2-14-gabc1234-dirty":     "1.4.2+14.gabc1234.dirty",
		"v1.5.0-rc.1-3-gabc1234-dirty": "1.5.0~rc.1+3.gabc1234.dirty",
		"v1.4.2-dirty":                 "1.4.2+dirty",
		"abc1234":                      "0.0.0+20260921141320.gabc1234",
		"1.5.0~rc.1+3.gabc1234.dirty":  "1.5.0~rc.1+3.gabc1234.dirty",
	} {
		got := run(t, []string{"VERSION=" + described, "SOURCE_DATE_EPOCH=1790000000"}, "../scripts/packages", "--version")
		if strings.TrimSpace(got) != want {
			t.Errorf("%s is the version %q, not %s", described, got, want)
		}
	}
	for _, bad := range []string{"main", "1.0 beta", "v1.0/2", "1.0;id"} {
		cmd := exec.CommandContext(t.Context(), "../scripts/packages", "--version")
		cmd.Env = append(os.Environ(), "VERSION="+bad)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "VERSION") {
			t.Errorf("%q is taken for a version: %s", bad, out)
		}
	}
}
