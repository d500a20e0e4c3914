package atomicfile_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"stella-ops.org/stella/internal/atomicfile"
)

// Somebody has the file open for a while: it is replaced as soon as he lets go.
func TestWriteWaitsForReaders(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := atomicfile.Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, func() { _ = f.Close() })
	if err := atomicfile.Write(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "new", 0o600)
}
