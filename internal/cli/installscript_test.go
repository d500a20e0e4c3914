package cli

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInstallScript(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.answer("GET /install.sh", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("#!/bin/sh\nserver='https://s'\ntoken=''   # a token\nmain\n"))
	}))
	f.answer("GET /install.ps1", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("# windows\n")) }))
	term := newTerminal(t, f)
	term.must(t, "agent", "install-script")
	if !strings.Contains(term.stdout, "\ntoken=''   #") {
		t.Errorf("without a token: %s", term.stdout)
	}
	file := filepath.Join(t.TempDir(), "install.sh")
	for _, args := range [][]string{{"--token", "reg_abc_def"}, {"--token", "-"}} {
		term.stdin = "reg_abc_def\n"
		term.must(t, append([]string{"agent", "install-script", "--output", file}, args...)...)
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), "\ntoken='reg_abc_def'   # a token\n") {
			t.Errorf("%v: %s, %v", args, text, err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("a file with a secret in it: %v, %v", info.Mode(), err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	term.must(t, "agent", "install-script", "--platform", "windows")
	if term.stdout != "# windows\n" {
		t.Errorf("%s", term.stdout)
	}
	for args, want := range map[string]string{
		"--token reg_abc":                           "not whole",
		"--token reg_a_b';reboot;'":                 "not whole",
		"--platform windows --token reg_abc_def":    "takes no token",
		"--platform docker":                         "no installer for the platform",
		"--token reg_abc_def --output /nowhere/x.y": "could not be written",
	} {
		if code := term.run(t.Context(), append([]string{"agent", "install-script"}, strings.Fields(args)...)...); code == 0 || !strings.Contains(term.stderr, want) {
			t.Errorf("%s: %d %s", args, code, term.stderr)
		}
	}
}
