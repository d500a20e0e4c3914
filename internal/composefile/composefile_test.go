package composefile_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"stella-ops.org/stella/internal/composefile"
)

const (
	a = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	b = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func parse(t *testing.T, text string) *composefile.File {
	t.Helper()
	f, err := composefile.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return f
}

func images(t *testing.T, f *composefile.File) map[string]string {
	t.Helper()
	services, err := f.Services()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, s := range services {
		all[s.Name] = s.Image
	}
	return all
}

// TestPin: only the image's text is changed, wherever and however it is
// written.
func TestPin(t *testing.T) {
	t.Parallel()
	pin := "nginx@" + a
	for name, c := range map[string]struct{ text, want string }{
		"plain":     {"services:\n  web:\n    image: nginx:1 # why\n    x: nginx:1\n", "services:\n  web:\n    image: PIN # why\n    x: nginx:1\n"},
		"quoted":    {"services: {web: {image: \"nginx:1\", y: 'ü'}}\n", "services: {web: {image: \"PIN\", y: 'ü'}}\n"},
		"single":    {"services:\n  web: {k: é, image: 'nginx:1'}\n", "services:\n  web: {k: é, image: 'PIN'}\n"},
		"anchor":    {"services:\n  web:\n    image: &img nginx:1\n  two:\n    image: *img\n", "services:\n  web:\n    image: &img PIN\n  two:\n    image: *img\n"},
		"alias":     {"x-i: &img nginx:1\nservices:\n  web:\n    image: *img\n    k: v\n", "x-i: &img nginx:1\nservices:\n  web:\n    image: PIN\n    k: v\n"},
		"tag":       {"services:\n  web:\n    image: !!str nginx:1\n", "services:\n  web:\n    image: !!str PIN\n"},
		"merge":     {"x-b: &b\n  image: nginx:1\nservices:\n  web:\n    <<: *b\n", "x-b: &b\n  image: PIN\nservices:\n  web:\n    <<: *b\n"},
		"merges":    {"x-a: &a {k: v}\nx-b: &b {image: nginx:1}\nservices:\n  web:\n    <<: [*a, *b]\n", "x-a: &a {k: v}\nx-b: &b {image: PIN}\nservices:\n  web:\n    <<: [*a, *b]\n"},
		"variable":  {"services:\n  web:\n    image: nginx:${TAG:-1}\n", "services:\n  web:\n    image: PIN\n"},
		"windows":   {"services:\r\n  web:\r\n    image: nginx:1\r\n    k: v\r\n", "services:\r\n  web:\r\n    image: PIN\r\n    k: v\r\n"},
		"no end":    {"services:\n  web:\n    image: nginx:1", "services:\n  web:\n    image: PIN"},
		"key first": {"services:\n  web:\n    \"image\":   nginx:1\n", "services:\n  web:\n    \"image\":   PIN\n"},
	} {
		f := parse(t, c.text)
		if err := f.Pin("web", pin); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(strings.ReplaceAll(c.want, "PIN", pin), f.Text()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got := images(t, f)["web"]; got != pin {
			t.Errorf("%s: the image is %q", name, got)
		}
	}
	for name, text := range map[string]string{
		"folded":   "services:\n  web:\n    image: >-\n      nginx:1\n",
		"no image": "services:\n  web: {build: .}\n",
	} {
		f := parse(t, text)
		if err := f.Pin("web", pin); err == nil || f.Text() != text {
			t.Errorf("%s: %v\n%s", name, err, f.Text())
		}
	}
}

func TestServices(t *testing.T) {
	t.Parallel()
	f := parse(t, `
include: [other.yml, {path: [third.yml, fourth.yml]}]
services:
  web: {image: nginx, build: .}
  job: {extends: web}
  far: {extends: {file: base.yml, service: base}}
  none:
`)
	services, err := f.Services()
	if err != nil {
		t.Fatal(err)
	}
	want := []composefile.Service{
		{Name: "web", Image: "nginx", Builds: true},
		{Name: "job", Extends: "web"},
		{Name: "far", Extends: "base", ExtendsFile: "base.yml"},
		{Name: "none"},
	}
	ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".image" }, cmp.Ignore())
	if diff := cmp.Diff(want, services, ignore); diff != "" {
		t.Error(diff)
	}
	others, err := f.Others()
	if diff := cmp.Diff([]string{"other.yml", "third.yml", "fourth.yml", "base.yml"}, others); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, text := range []string{"", "a", "[]", "a: b", "services: []", "services: {}", "services: {a: {image: [x]}}", "a: b\n---\nservices: {}", "\t"} {
		f, err := composefile.Parse([]byte(text))
		if err == nil {
			_, err = f.Services()
		}
		if err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if _, err := parse(t, "include: [a.yml]").Services(); !errors.Is(err, composefile.ErrNoServices) {
		t.Error(err)
	}
	if _, err := parse(t, "include: [{path: a.yml, project_directory: b}]").Others(); err == nil {
		t.Error("an include with a project directory was taken")
	}
}

func TestPinned(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]bool{
		"nginx@" + a: true, "localhost:5000/x:1@" + b: true, "nginx": false, "nginx:1": false, "nginx@sha256:12": false,
		"$X@" + a: false, "@" + a: false, "nginx@" + a + "0": false, "nginx@" + strings.ToUpper(a): false, "a@" + a + "@" + b: false,
	} {
		if _, _, ok := composefile.Pinned(image); ok != want {
			t.Errorf("%q: %v", image, ok)
		}
	}
}

// TestEnvFile: what is written is read back, whatever it is.
func TestEnvFile(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		env := rapid.MapOf(rapid.StringMatching(`[A-Z_][A-Z0-9_]{0,5}`), rapid.OneOf(
			rapid.StringMatching(`[\\"'$${}#=a \n\r\t:nr0]{0,12}`), rapid.String().Filter(func(s string) bool { return !strings.ContainsAny(s, "\x00") }),
		)).Draw(t, "env")
		have, err := composefile.ReadEnv(composefile.EnvFile(env), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(env, have); diff != "" {
			t.Fatalf("%s\n%s", diff, composefile.EnvFile(env))
		}
	})
}

// TestEnvErrors have nothing of the file in them.
func TestEnvErrors(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"A=1\nhunter2 %=x\n", "A=\"hunter2", "hunter2!"} {
		_, err := composefile.ReadEnv([]byte(text), nil)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	set := map[string]string{"TAG": "2"}
	look := func(name string) (string, bool) { v, ok := set[name]; return v, ok }
	for image, want := range map[string]string{
		"nginx:${TAG}": "nginx:2", "nginx:$TAG": "nginx:2", "nginx:${NONE:-1}": "nginx:1", "nginx:${NONE}": "nginx:", "nginx": "nginx",
	} {
		if have, err := composefile.Resolve(image, look); err != nil || have != want {
			t.Errorf("%q: %q, %v", image, have, err)
		}
	}
	if _, err := composefile.Resolve("nginx:${NONE:?say which}", look); err == nil || !strings.Contains(err.Error(), "say which") {
		t.Error(err)
	}
}

// FuzzPin: no file makes it panic, and what it changes is the image alone.
func FuzzPin(f *testing.F) {
	for _, seed := range []string{
		"services: {a: {image: b}}", "x: &a [*a]\nservices: *a", "services:\n  a: &a\n    <<: *a\n    image: &i !!str 'x'",
		"x: &a {image: b}\nservices:\n  a:\n    <<: [*a, *a]", "include: [*a]", "services: {a: {image: |\n b}}",
		"services:\n : image: !0 ",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := composefile.Parse([]byte(text))
		if err != nil {
			return
		}
		_, _ = file.Others()
		services, err := file.Services()
		if err != nil {
			return
		}
		for _, s := range services {
			if err := file.Pin(s.Name, "nginx@"+a); err != nil {
				continue
			}
			if now, err := file.Services(); err == nil && len(now) != len(services) {
				t.Errorf("%q became %q", text, file.Text())
			}
		}
	})
}

// FuzzEnv: an env file of anybody's is read or refused, without a word of what is
// in it; and one of our own is read as it was written.
func FuzzEnv(f *testing.F) {
	for _, seed := range []string{
		"", "A=1", "export A=b\n# c\nB='$A'\n", `A="\n${B:-c}"`, "A=\"two\nlines\"", "A=${A}", "A=$${A:?no}", "A.B-C=1", "=", "A", "A=\"", "A='", "\ufeffA=1", "A=1\r\nB=2", "A=${B:-${C:-${D}}}", "\xff=\x00",
	} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		env, err := composefile.ReadEnv([]byte(text), func(string) (string, bool) { return "", false })
		if err != nil && (env != nil || len(err.Error()) > 120) {
			t.Errorf("%q: %v, %v", text, env, err)
		}
		if strings.ContainsRune(value, 0) || !utf8.ValidString(value) {
			return // no program's environment has it
		}
		have, err := composefile.ReadEnv(composefile.EnvFile(map[string]string{"A": value}), nil)
		if err != nil || len(have) != 1 || have["A"] != value {
			t.Errorf("%q was read back as %q, %v", value, have, err)
		}
	})
}
