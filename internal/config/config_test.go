package config_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"stella-ops.org/stella/internal/config"
)

// settings has a field of every kind.
type settings struct {
	Text    string            `name:"text" key:"top.text" default:"by default" help:"a text"`
	On      bool              `name:"on-or-off" default:"true" help:"a switch"`
	Number  int               `name:"number" default:"7" help:"a number"`
	Wait    time.Duration     `name:"wait-time" key:"top.waits.long_time" default:"30s" help:"a duration"`
	List    []string          `name:"item" help:"a list"`
	Map     map[string]string `name:"label" key:"top.labels" help:"a map"`
	Private string            // has no name: it is not to be set
}

// load loads with a file, variables and flags.
func load(t *testing.T, file string, env map[string]string, args ...string) (settings, error) {
	t.Helper()
	var s settings
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Flags(fs, &s)
	if file != "" {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	err := config.Load(fs, &s, func(name string) string { return env[name] })
	return s, err
}

var defaults = settings{Text: "by default", On: true, Number: 7, Wait: 30 * time.Second}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	file := "text: file\non_or_off: false\nnumber: 1\nwait_time: 1m\nitem: [f1, f2]\nlabel: {k: f}\n"
	env := map[string]string{
		"STELLA_TEXT": "env", "STELLA_ON_OR_OFF": "true", "STELLA_NUMBER": "2", "STELLA_WAIT_TIME": "2m", "STELLA_ITEM": "e1,e2", "STELLA_LABEL": "k=e",
	}
	flags := []string{"--text", "flag", "--on-or-off=false", "--number", "3", "--wait-time", "3m", "--item", "a1", "--item", "a2,a3", "--label", "k=a"}
	inFile := settings{Text: "file", Number: 1, Wait: time.Minute, List: []string{"f1", "f2"}, Map: map[string]string{"k": "f"}}
	inEnv := settings{Text: "env", On: true, Number: 2, Wait: 2 * time.Minute, List: []string{"e1", "e2"}, Map: map[string]string{"k": "e"}}
	inFlags := settings{Text: "flag", Number: 3, Wait: 3 * time.Minute, List: []string{"a1", "a2", "a3"}, Map: map[string]string{"k": "a"}}
	for _, c := range []struct {
		name string
		file string
		env  map[string]string
		args []string
		want settings
	}{
		{"nothing", "", nil, nil, defaults},
		{"an empty file", "\n", nil, nil, defaults},
		{"a file of comments", "# nothing\n", nil, nil, defaults},
		{"the file over the default", file, nil, nil, inFile},
		{"the environment over the file", file, env, nil, inEnv},
		{"flags over all", file, env, flags, inFlags},
		{"a flag that says the default, over all", file, env, []string{"--text", "by default"}, func() settings { s := inEnv; s.Text = "by default"; return s }()},
		{"an empty flag", file, env, []string{"--text="}, func() settings { s := inEnv; s.Text = ""; return s }()},
		{"an empty variable is none", file, map[string]string{"STELLA_TEXT": ""}, nil, inFile},
		{
			"a part of each", "text: file\n",
			map[string]string{"STELLA_NUMBER": "2"},
			[]string{"--item", "a"},
			settings{Text: "file", On: true, Number: 2, Wait: 30 * time.Second, List: []string{"a"}},
		},
		{"a list in one text", "item: 'a, b,, '\n", nil, nil, func() settings { s := defaults; s.List = []string{"a", "b"}; return s }()},
		{"a map in one text", "label: a=b,c=d=e\n", nil, nil, func() settings { s := defaults; s.Map = map[string]string{"a": "b", "c": "d=e"}; return s }()},
		{"a number in quotes", "number: '5'\n", nil, nil, func() settings { s := defaults; s.Number = 5; return s }()},
		{
			"in sections", "top:\n  text: file\n  waits:\n    long_time: 7d\n  labels: {a: b}\nnumber: 1\n", nil, nil,
			settings{Text: "file", On: true, Number: 1, Wait: 7 * 24 * time.Hour, Map: map[string]string{"a": "b"}},
		},
		{"sections of which all is commented out", "top:\n  waits:\n  # long_time: 7d\n", nil, nil, defaults},
		{"an empty section", "top: {}\n", nil, nil, defaults},
		{"sections in one key", "top.waits.long_time: 5s\n", nil, nil, func() settings { s := defaults; s.Wait = 5 * time.Second; return s }()},
		{"the environment over a section", "top: {text: file}\n", map[string]string{"STELLA_TEXT": "env"}, nil, func() settings { s := defaults; s.Text = "env"; return s }()},
		{"days and hours", "wait_time: 1d12h\n", nil, nil, func() settings { s := defaults; s.Wait = 36 * time.Hour; return s }()},
		{"days by a flag", "", nil, []string{"--wait-time", "2d"}, func() settings { s := defaults; s.Wait = 48 * time.Hour; return s }()},
	} {
		got, err := load(t, c.file, c.env, c.args...)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestFileNamedByTheEnvironment(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("text: file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := load(t, "", map[string]string{"STELLA_CONFIG": path})
	if err != nil || got.Text != "file" {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = load(t, "number: 1\n", map[string]string{"STELLA_CONFIG": path})
	if err != nil || got.Text != "by default" || got.Number != 1 {
		t.Errorf("--config does not win: %+v, %v", got, err)
	}
	if _, err := load(t, "", map[string]string{"STELLA_CONFIG": path + ".none"}); err == nil {
		t.Error("a file that is not there is passed over")
	}
}

// Whatever is wrong is named: where it stands, and what was probably meant.
func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		file string
		env  map[string]string
		args []string
		want []string
	}{
		{"unknown key", "text: a\n\nnubmer: 1\n", nil, nil, []string{"c.yaml:3", `"nubmer"`, "did you mean number?"}},
		{"key as the flag", "wait-time: 1m\n", nil, nil, []string{"c.yaml:1", "did you mean wait_time?"}},
		{"key like no other", "certificate_source: 1m\n", nil, nil, []string{"c.yaml:1", `there is no key "certificate_source"`}},
		{"field without a name", "Private: x\n", nil, nil, []string{`"Private"`}},
		{"no number", "text: a\nnumber: many\n", nil, nil, []string{"c.yaml:2", "number", `"many" is no whole number`}},
		{"half a number", "number: 1.5\n", nil, nil, []string{"c.yaml:1", "number"}},
		{"no duration", "wait_time: 30\n", nil, nil, []string{"c.yaml:1", "wait_time", "30s"}},
		{"negative duration", "wait_time: -5s\n", nil, nil, []string{"c.yaml:1", "wait_time"}},
		{"no switch", "on_or_off: maybe\n", nil, nil, []string{"c.yaml:1", "on_or_off", "true"}},
		{"list for a text", "text: [a]\n", nil, nil, []string{"c.yaml:1", "text"}},
		{"mapping for a list", "item: {a: b}\n", nil, nil, []string{"c.yaml:1", "item"}},
		{"list for a mapping", "label: [a]\n", nil, nil, []string{"c.yaml:1", "label"}},
		{"list in a list", "item: [[a]]\n", nil, nil, []string{"c.yaml:1", "item"}},
		{"list in a mapping", "label: {a: [b]}\n", nil, nil, []string{"c.yaml:1", "label"}},
		{"label without a value", "label: [a=b]\n", nil, nil, []string{"c.yaml:1", "label"}},
		{"no mapping at all", "- a\n", nil, nil, []string{"c.yaml:1", "mapping"}},
		{"no YAML", "text: [\n", nil, nil, []string{"c.yaml"}},
		{"a key twice", "text: a\ntext: b\n", nil, nil, []string{"c.yaml:2", "text"}},
		{"unknown key in a section", "top:\n  waits:\n    log_time: 1m\n", nil, nil, []string{"c.yaml:3", `"top.waits.log_time"`, "did you mean top.waits.long_time?"}},
		{"unknown section", "topp:\n  text: a\n", nil, nil, []string{"c.yaml:1", `no key "topp"`}},
		{"unknown section in a section", "top:\n  text: a\n  wait: {long_time: 1m}\n", nil, nil, []string{"c.yaml:3", `no key "top.wait"`}},
		{"key outside of its section", "long_time: 1m\n", nil, nil, []string{"c.yaml:1", "did you mean top.waits.long_time?"}},
		{"key in a section that has it not", "top:\n  number: 1\n", nil, nil, []string{"c.yaml:2", `"top.number"`, "did you mean number?"}},
		{"both forms", "text: a\nnumber: 1\ntop:\n  text: a\n", nil, nil, []string{"c.yaml:4", "top.text is the same setting as text in line 1", "keep one"}},
		{"both forms, the other way", "top:\n  text: a\ntext: a\n", nil, nil, []string{"c.yaml:3", "text is the same setting as top.text in line 2"}},
		{"a section twice", "top:\n  text: a\ntop:\n  waits: {}\n", nil, nil, []string{"c.yaml:3", `"top" is in line 1 already`}},
		{"a key of a section twice", "top:\n  text: a\n  text: b\n", nil, nil, []string{"c.yaml:3", `"top.text" is in line 2 already`}},
		{"a section in two ways", "top:\n  text: a\ntop.text: b\n", nil, nil, []string{"c.yaml:3", `"top.text" is in line 2 already`}},
		{"a section that is a text", "top: a\n", nil, nil, []string{"c.yaml:1", "top must be a mapping"}},
		{"a section that is a list", "top:\n- text: a\n", nil, nil, []string{"c.yaml:2", "top must be a mapping"}},
		{"a wrong value in a section", "top:\n  waits:\n    long_time: soon\n", nil, nil, []string{"c.yaml:3", "top.waits.long_time", `"soon" is no duration`, "7d"}},
		{"half a day", "wait_time: 1.5d\n", nil, nil, []string{"c.yaml:1", "wait_time"}},
		{"days of nothing", "wait_time: d\n", nil, nil, []string{"c.yaml:1", "wait_time"}},
		{"hours before days", "wait_time: 1h7d\n", nil, nil, []string{"c.yaml:1", "wait_time"}},
		{"negative days", "wait_time: -7d\n", nil, nil, []string{"c.yaml:1", "wait_time"}},
		{"days less hours", "wait_time: 7d-1h\n", nil, nil, []string{"c.yaml:1", "wait_time"}},
		{"more days than can be", "wait_time: 106752d\n", nil, nil, []string{"c.yaml:1", "wait_time"}},
		{"variable", "", map[string]string{"STELLA_WAIT_TIME": "soon"}, nil, []string{"STELLA_WAIT_TIME", `"soon"`}},
		{"variable without a key", "", map[string]string{"STELLA_LABEL": "=x"}, nil, []string{"STELLA_LABEL", "key=value"}},
		{"flag", "", nil, []string{"--number", "x"}, []string{"--number", `"x"`}},
		{"repeated flag", "", nil, []string{"--label", "a=b", "--label", "c"}, []string{"--label", `"c" is not key=value`}},
	} {
		_, err := load(t, c.file, c.env, c.args...)
		if err == nil {
			t.Errorf("%s: it is taken", c.name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %s", c.name, err, want)
			}
		}
	}
}

func TestNoSuggestionForWhatIsFar(t *testing.T) {
	t.Parallel()
	_, err := load(t, "certificate_source: x\n", nil)
	if err == nil || strings.Contains(err.Error(), "did you mean") {
		t.Errorf("%v", err)
	}
}

// FuzzFile: whatever is in a file, it is read, or refused with its name and a
// line; and what was read is said again by flags.
func FuzzFile(f *testing.F) {
	for _, text := range []string{
		"", "text: a\non_or_off: false\nnumber: 12\nwait_time: 5m\nitem: [a, b]\nlabel: {a: b, c: d}\n", "item:\n- a\n-\n", "label:\n  a: b\n  <<: {c: d}\n",
		"texts: a\n", "text: a\ntext: b\n", "number: 1e3\n", "wait_time: -1s\n", "- a\n", "a", "text: &a x\nitem: [*a, *a]\n", "text: !!binary aGk=\n", "---\ntext: a\n---\ntext: b\n",
		"text: [[a]]\n", "label: a\n", "\t", "text: |\n  a\n  b\n", "? {a: b}\n: c\n", "\xff\xfe", "a: &a [*a]\n", "number: 99999999999999999999\n", "item: [a",
		"top:\n  text: a\n  waits:\n    long_time: 1d2h\n  labels: {a: b}\n", "top:\n", "top: {text: a}\ntext: b\n", "top: &a {waits: *a}\n", "top: {top: {top: {}}}\n",
		"wait_time: 106751d23h\n", "top.waits: {long_time: 7d}\n", "top: {<<: {text: a}}\n", "text: 'a", "text: a: b",
	} {
		f.Add(text)
	}
	path := filepath.Join(f.TempDir(), "c.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := load(t, "", nil, "--config", path)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Fatalf("%q: it does not say where: %v", text, err)
			}
			return
		}
		again, err := load(t, "", nil, "--text="+s.Text, "--on-or-off="+strconv.FormatBool(s.On), "--number="+strconv.Itoa(s.Number), "--wait-time="+s.Wait.String())
		if err != nil {
			t.Fatalf("%q was read as %+v, which flags refuse: %v", text, s, err)
		}
		if again.Text != s.Text || again.On != s.On || again.Number != s.Number || again.Wait != s.Wait || s.Private != "" {
			t.Fatalf("%q was read as %+v, which is %+v by flags", text, s, again)
		}
	})
}
