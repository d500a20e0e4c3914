package privatedir_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"stella-ops.org/stella/internal/privatedir"
)

// A folder that was made is nobody else's, also when it is asked for twice, and
// also where those above it had to be made.
func TestMake(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "above", "folder")
	for range 2 {
		if err := privatedir.Make(path); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		t.Fatalf("%v, %v", info, err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o700 {
		t.Errorf("it has mode %v", info.Mode())
	}
	if others, err := privatedir.Others(path); err != nil || len(others) > 0 {
		t.Errorf("others may enter it: %q, %v", others, err)
	}
	if err := os.WriteFile(filepath.Join(path, "file"), []byte("x"), 0o600); err != nil {
		t.Errorf("it is of no use to who made it: %v", err)
	}
}

// Where a file stands in the way, there is no folder.
func TestMakeOverAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, filepath.Join(path, "below")} {
		if err := privatedir.Make(p); err == nil {
			t.Errorf("%s was made", p)
		}
	}
}
