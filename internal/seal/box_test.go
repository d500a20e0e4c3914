package seal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"stella-ops.org/stella/internal/seal"
)

func newBox(t testing.TB, first byte) *seal.Box {
	t.Helper()
	key := make([]byte, seal.KeySize)
	key[0] = first
	b, err := seal.NewBox(key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBox(t *testing.T) {
	t.Parallel()
	mine, other := newBox(t, 1), newBox(t, 2)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Draw(t, "name")
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		sealed, err := mine.Seal(name, plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(plain) > 8 && bytes.Contains(sealed, plain) {
			t.Fatal("it is not encrypted")
		}
		if again, _ := mine.Seal(name, plain); bytes.Equal(again, sealed) {
			t.Fatal("the same text twice looks the same")
		}
		if got, err := mine.Open(name, sealed); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("opened %x, %v", got, err)
		}
		if _, err := mine.Open(name+"x", sealed); err == nil {
			t.Fatal("it opens under another name")
		}
		if _, err := other.Open(name, sealed); err == nil {
			t.Fatal("it opens under another key")
		}
		altered := bytes.Clone(sealed)
		altered[rapid.IntRange(0, len(altered)-1).Draw(t, "at")] ^= byte(1) << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := mine.Open(name, altered); err == nil {
			t.Fatal("it opens although it was altered")
		}
		if _, err := mine.Open(name, sealed[:rapid.IntRange(0, len(sealed)-1).Draw(t, "cut")]); err == nil {
			t.Fatal("it opens although it was cut")
		}
	})
}

func TestBoxWantsAWholeKey(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 16, 31, 33, 64} {
		if _, err := seal.NewBox(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is taken", n)
		}
	}
}

func TestLoadKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	// Several servers that start at once make one key.
	got := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = seal.LoadKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range got {
		if len(k) != seal.KeySize || !bytes.Equal(k, got[0]) || bytes.Equal(k, make([]byte, seal.KeySize)) {
			t.Fatalf("keys %x and %x", got[0], k)
		}
	}
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("files left: %v, %v", files, err)
	}
	for _, n := range []int{0, 31, 33} {
		if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.LoadKey(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("a file of %d bytes: %v", n, err)
		}
	}
	if _, err := seal.LoadKey(filepath.Join(t.TempDir(), "none", "master.key")); err == nil {
		t.Error("a key that is nowhere kept is used")
	}
}
