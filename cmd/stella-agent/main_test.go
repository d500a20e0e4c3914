package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// A token that stands where a word is expected is not repeated: what the agent
// says goes into logs.
func TestNoTokenIsRepeated(t *testing.T) {
	t.Chdir(t.TempDir()) // where an agent would keep its data
	const token = "reg_secret_pin"
	for _, args := range [][]string{{"run", token}, {token}, {"--register", token}, {"run", "--register", token}, {"register", token}, {"status", token}, {"version", token}} {
		if err := execute(args, io.Discard); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if left, err := os.ReadDir("."); err != nil || len(left) > 0 {
		t.Errorf("an agent was started: %v, %v", left, err)
	}
}

// Each verb takes its own flags and those of the configuration; a flag that belongs
// to no verb would be taken by all, and one that nobody defines by none.
func TestFlagsOfVerbs(t *testing.T) {
	t.Parallel()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(options).add(fs)
	of := map[string]bool{"register": true} // main's own
	for _, v := range verbs {
		for _, name := range v.flags {
			of[name] = true
			if name != "register" && fs.Lookup(name) == nil {
				t.Errorf("%q takes --%s, which there is not", v.name, name)
			}
		}
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if !of[f.Name] {
			t.Errorf("--%s belongs to no verb", f.Name)
		}
	})
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"version", "--wait", "1s"}, `"version" takes no --wait`},
		{[]string{"run", "--token=reg_secret_pin"}, `"run" takes no --token`},
		{[]string{"--register", "--register-timeout", "1s"}, "takes no --register-timeout"},
		{[]string{"status", "-o", "yaml"}, "text or json"},
		{[]string{"register", "--register-timeout", "-1s"}, "longer than nothing"},
		{[]string{"upgrade"}, "is no command"},
		{nil, "say what to do: register, run, status, health"},
	} {
		if err := execute(tc.args, io.Discard); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", tc.args, err)
		}
	}
	var out strings.Builder
	if err := execute([]string{"version"}, &out); err != nil || out.Len() < 2 {
		t.Errorf("version: %q, %v", out.String(), err)
	}
}
