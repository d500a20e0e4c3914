package atomicfile_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"stella-ops.org/stella/internal/atomicfile"
)

// left fails when there is anything in the folder but what is named.
func left(t *testing.T, dir string, names ...string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(names) {
		t.Errorf("the folder holds %v, want %v", files, names)
	}
}

func wantFile(t *testing.T, path, content string, perm os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil || string(data) != content {
		t.Errorf("%s holds %q, %v; want %q", path, data, err, content)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != perm {
		t.Errorf("%s has mode %v, %v; want %v", path, info.Mode(), err, perm)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, c := range []struct {
		content string
		perm    os.FileMode
	}{{"one", 0o600}, {"two", 0o644}, {"", 0o600}, {"three", 0o666}} {
		if err := atomicfile.Write(path, []byte(c.content), c.perm); err != nil {
			t.Fatal(err)
		}
		wantFile(t, path, c.content, c.perm)
	}
	left(t, dir, "file")
}

// What cannot be written leaves the old content and no rubbish.
func TestWriteThatFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := atomicfile.Write(filepath.Join(dir, "none", "file"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("into a folder that is not there: %v", err)
	}
	full := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(full, []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	left(t, dir, "folder")
}

// A reader finds the old content or the new, whole.
func TestReadersSeeWholeFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	contents := [][]byte{bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 50_000)}
	if err := atomicfile.Write(path, contents[0], 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := range 40 {
			if err := atomicfile.Write(path, contents[i%2], 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		data, err := os.ReadFile(path)
		if err != nil && runtime.GOOS == "windows" {
			continue // a file that is being replaced cannot be opened there
		}
		if err != nil || !bytes.Equal(data, contents[0]) && !bytes.Equal(data, contents[1]) {
			t.Fatalf("read %d bytes, %v", len(data), err)
		}
	}
	wg.Wait()
}

// Of many who make a file, one does; the others are told, and change nothing.
func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	made := make([]bool, 8)
	var wg sync.WaitGroup
	for i := range made {
		wg.Go(func() {
			err := atomicfile.Create(path, []byte{byte('a' + i)}, 0o600)
			if made[i] = err == nil; !made[i] && !errors.Is(err, os.ErrExist) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	winners := ""
	for i, ok := range made {
		if ok {
			winners += string(rune('a' + i))
		}
	}
	if len(winners) != 1 {
		t.Fatalf("made by %q", winners)
	}
	wantFile(t, path, winners, 0o600)
	left(t, dir, "file")
}
