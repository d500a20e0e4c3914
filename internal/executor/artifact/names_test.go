package artifact

import (
	"path/filepath"
	"strings"
	"testing"
)

// FuzzCheckName: a name that is taken is that of a file below the target's folder,
// on every system, and none of Stella's own.
func FuzzCheckName(f *testing.F) {
	for _, name := range []string{
		"", ".", "..", "a", "a/b.sh", "a/../b", "../a", "/a", "a//b", "a/", "./a", `a\b`, `..\a`, "C:/a", "c:", "a:b", "a\x00b", ".stella-backup", "a/.stella/x", ".Stella", "a/.", "\xff", "a\nb", "CON", "…/a",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckName(name) != nil {
			return
		}
		folder := filepath.Join(string(filepath.Separator), "target")
		path := filepath.Join(folder, filepath.FromSlash(name))
		if !filepath.IsLocal(filepath.FromSlash(name)) || !strings.HasPrefix(path, folder+string(filepath.Separator)) {
			t.Fatalf("%q is taken, and leads to %q", name, path)
		}
		for part := range strings.SplitSeq(name, "/") {
			if part == "" || part == "." || part == ".." || strings.HasPrefix(part, ".stella") || strings.ContainsAny(part, "\\\x00") {
				t.Fatalf("%q is taken", name)
			}
		}
	})
}
