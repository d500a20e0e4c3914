// Package configtest tests a program's configuration struct against the
// promises of package config. It is for tests alone.
package configtest

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"stella-ops.org/stella/internal/config"
)

var (
	kebab = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	// dotted is a key that stands in a section at least.
	dotted = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$`)
)

// Complete checks that every field of C is reachable by flag, environment and
// file, says what it is for, and has a default, and that the defaults together
// are valid.
func Complete[C any](t *testing.T, validate func(*C) error) {
	t.Helper()
	read := func(env map[string]string, args ...string) C {
		t.Helper()
		var c C
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		config.Flags(fs, &c)
		if err := fs.Parse(args); err != nil {
			t.Fatal(err)
		}
		if err := config.Load(fs, &c, func(name string) string { return env[name] }); err != nil {
			t.Fatal(err)
		}
		return c
	}
	defaults := read(nil)
	if err := validate(&defaults); err != nil {
		t.Errorf("the defaults do not work together: %v", err)
	}
	typ := reflect.TypeFor[C]()
	seen := map[string]bool{"config": true} // the file's own flag
	for i := range typ.NumField() {
		f := typ.Field(i)
		if !f.IsExported() {
			t.Errorf("%s cannot be set: give it a capital", f.Name)
			continue
		}
		name, help := f.Tag.Get("name"), f.Tag.Get("help")
		if !kebab.MatchString(name) || help == "" || strings.HasSuffix(help, ".") {
			t.Errorf("%s: name %q and help %q", f.Name, name, help)
		}
		if seen[name] {
			t.Errorf("%s: there are two %s", f.Name, name)
		}
		seen[name] = true

		// Something that no default is.
		text, yaml := "anything", "anything"
		want := reflect.ValueOf(text)
		switch f.Type {
		case reflect.TypeFor[time.Duration]():
			text, yaml, want = "77m", "77m", reflect.ValueOf(77*time.Minute)
		case reflect.TypeFor[int]():
			text, yaml, want = "77", "77", reflect.ValueOf(77)
		case reflect.TypeFor[bool]():
			on := !reflect.ValueOf(defaults).Field(i).Bool()
			want = reflect.ValueOf(on)
			text = map[bool]string{true: "true", false: "false"}[on]
			yaml = text
		case reflect.TypeFor[[]string]():
			text, yaml, want = "a,b", "[a, b]", reflect.ValueOf([]string{"a", "b"})
		case reflect.TypeFor[map[string]string]():
			text, yaml, want = "a=b", "{a: b}", reflect.ValueOf(map[string]string{"a": "b"})
		}
		expected := defaults
		reflect.ValueOf(&expected).Elem().Field(i).Set(want)
		key := strings.ReplaceAll(name, "-", "_")
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(key+": "+yaml+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		by := map[string]C{
			"the flag":        read(nil, "--"+name+"="+text),
			"the environment": read(map[string]string{"STELLA_" + strings.ToUpper(key): text}),
			"the file":        read(nil, "--config", file),
		}
		if path, ok := f.Tag.Lookup("key"); ok {
			if !dotted.MatchString(path) || seen[path] {
				t.Errorf("%s: the key %q is of the wrong form, or another field's", f.Name, path)
			}
			seen[path] = true
			if err := os.WriteFile(file, []byte(nested(path, yaml)), 0o600); err != nil {
				t.Fatal(err)
			}
			by["the file's section"] = read(nil, "--config", file)
		}
		for by, got := range by {
			if diff := cmp.Diff(expected, got); diff != "" {
				t.Errorf("%s set by %s (-want +got):\n%s", f.Name, by, diff)
			}
		}
	}
}

// nested is the file in which a value stands under a dotted key.
func nested(path, yaml string) string {
	var b strings.Builder
	for depth, part := range strings.Split(path, ".") {
		b.WriteString("\n" + strings.Repeat("  ", depth) + part + ":")
	}
	return b.String() + " " + yaml + "\n"
}
