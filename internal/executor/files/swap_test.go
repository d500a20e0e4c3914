package files_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"stella-ops.org/stella/internal/executor/files"
)

// TestTakeBack: whichever of the new files had come to their places, all is as
// it was afterwards, however often that is asked for.
func TestTakeBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		names := []string{"a", "a.back", "b/c", "b/d/e", "f/g"}
		subset := func(label string) []string {
			return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !rapid.Bool().Draw(rt, label+" "+n) })
		}
		put := func(name, text string, mode fs.FileMode) {
			p := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				rt.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(text), mode); err != nil {
				rt.Fatal(err)
			}
		}
		for _, name := range subset("there") {
			put(name, "old "+name, 0o640)
		}
		before := tree(rt, dir)
		s := &files.Swap{Directory: dir, Staging: ".new", Backup: ".old", Names: subset("new")}
		s.Gone = slices.DeleteFunc(subset("gone"), func(n string) bool { return slices.Contains(s.Names, n) })
		root, err := s.Root()
		if err != nil {
			rt.Fatal(err)
		}
		defer root.Close()
		must := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		must(s.Open(root))
		for _, name := range s.Names {
			put(s.New(name), "new "+name, 0o600)
		}
		must(s.Prepare())
		must(s.KeepOld(t.Context()))
		// A crash leaves the first few in their places.
		part := *s
		part.Names = s.Names[:rapid.IntRange(0, len(s.Names)).Draw(rt, "placed")]
		if len(part.Names) < len(s.Names) {
			part.Gone = nil
		}
		must(part.Place(t.Context()))
		for range rapid.IntRange(1, 3).Draw(rt, "undone") {
			must(s.TakeBack())
		}
		if !s.Restored() {
			rt.Error("it is not restored")
		}
		must(s.Drop())
		if diff := cmp.Diff(before, tree(rt, dir)); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func tree(t *rapid.T, dir string) map[string]string {
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if !entry.IsDir() {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			text += " " + string(data)
		}
		all[strings.TrimPrefix(p, dir)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
