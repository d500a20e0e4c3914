package agent

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func begin(t *testing.T, dir string) *boot {
	t.Helper()
	b, err := beginBoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Each start has a count above the one before, which is on disk before anything
// is signed, and a name of its own.
func TestBootGrows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	seen := map[string]bool{}
	for want := int64(1); want <= 3; want++ {
		b := begin(t, dir)
		if data, err := os.ReadFile(filepath.Join(dir, bootFile)); err != nil || string(data) != strconv.FormatInt(want, 10)+"\n" {
			t.Errorf("on disk: %q, %v", data, err)
		}
		for number := int64(1); number <= 3; number++ {
			if c, n := b.Next(); c != want || n != number {
				t.Errorf("boot %d number %d, want %d and %d", c, n, want, number)
			}
		}
		if seen[b.Instance] || len(b.Instance) != 36 {
			t.Errorf("instance %q", b.Instance)
		}
		seen[b.Instance] = true
	}
	if info, err := os.Stat(filepath.Join(dir, bootFile)); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}

// When the server knows a later boot, the next one is above it, also after a
// restart; when it knows an earlier one, nothing changes.
func TestBootIsRaised(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := begin(t, dir)
	b.Next()
	if err := b.Raise(0); err != nil {
		t.Error(err)
	}
	if c, n := b.Next(); c != 1 || n != 2 {
		t.Errorf("boot %d number %d", c, n)
	}
	for _, known := range []int64{1, 57} { // 1: a copy of this very start has gone on
		if err := b.Raise(known); err != nil {
			t.Fatal(err)
		}
		if c, n := b.Next(); c != known+1 || n != 1 {
			t.Errorf("above boot %d: boot %d number %d", known, c, n)
		}
	}
	if c, _ := begin(t, dir).Next(); c != 59 {
		t.Errorf("after a restart: boot %d", c)
	}
}

// Nobody who plays the server can leave the agent without a number to count to.
func TestBootHasRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := begin(t, dir)
	for _, known := range []int64{1 << 62, 1<<63 - 1} {
		if err := b.Raise(known); err == nil {
			t.Errorf("raised above %d", known)
		}
	}
	if c, _ := b.Next(); c != 1 {
		t.Errorf("boot %d", c)
	}
	if err := b.Raise(1<<62 - 1); err != nil {
		t.Error(err)
	}
}

func TestBootFileIsDamaged(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x", "-1", "1 2", "4611686018427387904", "9223372036854775808"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, bootFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := beginBoot(dir); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, bootFile)) {
			t.Errorf("%q: %v", text, err)
		}
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, bootFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := beginBoot(dir); err == nil {
		t.Error("a folder is a count")
	}
	// One that cannot be kept is not used.
	dir = t.TempDir()
	b := begin(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := b.Raise(5); err == nil {
		t.Error("raised, and not on disk")
	}
	if c, _ := b.Next(); c != 1 {
		t.Errorf("boot %d is used, and not on disk", c)
	}
}

// No two that sign at the same time have one number.
func TestNumbersDiffer(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir())
	var mu sync.Mutex
	seen := map[[2]int64]bool{}
	var all sync.WaitGroup
	for i := range int64(8) {
		all.Go(func() {
			for range 100 {
				c, n := b.Next()
				mu.Lock()
				seen[[2]int64{c, n}] = true
				mu.Unlock()
			}
			if err := b.Raise(i); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(seen) != 800 {
		t.Errorf("%d numbers for 800", len(seen))
	}
}
