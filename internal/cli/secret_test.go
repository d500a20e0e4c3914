package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stella-ops.org/stella/api"
)

func TestSecretSetValue(t *testing.T) {
	t.Parallel()
	const key = "-----BEGIN KEY-----\nabc\n-----END KEY-----\n"
	for _, tc := range []struct{ name, stdin, file, want string }{
		{"a line", "hunter22\n", "", "hunter22"},
		{"a line of Windows", "hunter22\r\n", "", "hunter22"},
		{"without an end", "hunter22", "", "hunter22"},
		{"spaces stay", "  a b \n", "", "  a b "},
		{"a key", key, "", key},
		{"a file", "not this", key, key},
		{"a file of one line", "", "word\n", "word"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFakeAPI(t)
			term := newTerminal(t, f)
			f.answer("PUT /api/v1/secrets/db", api.Secret{Name: "db", Version: 1})
			args := []string{"secret", "set", "secret://db"}
			if tc.file != "" {
				file := filepath.Join(term.home, "value")
				if err := os.WriteFile(file, []byte(tc.file), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--file", file)
			}
			term.stdin = tc.stdin
			term.must(t, args...)
			if got := taken[api.SecretRequest](t, f, "PUT /api/v1/secrets/db"); got.Value != tc.want {
				t.Errorf("%q was sent, want %q", got.Value, tc.want)
			}
			if !strings.Contains(term.stderr, "refer to it as secret://db") || strings.Contains(term.stdout+term.stderr, "hunter") {
				t.Errorf("%s%s", term.stdout, term.stderr)
			}
		})
	}
}

func TestSecretSetRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ args, stdin, want string }{
		{"db", "", "the value is empty"},
		{"db", "\n", "the value is empty"},
		{"db", strings.Repeat("x", maxSecret+1), "larger than the 64.0 KiB that a secret holds"},
		{"db --file /does/not/exist", "", "no such file"},
		{"", "x", "does not take 0 arguments"},
		{"db hunter22", "", "does not take 2 arguments"},
	} {
		f := newFakeAPI(t)
		term := newTerminal(t, f)
		term.stdin = tc.stdin
		if code := term.run(t.Context(), append([]string{"secret", "set"}, strings.Fields(tc.args)...)...); code != exitUsage || !strings.Contains(term.stderr, tc.want) {
			t.Errorf("%q: code %d, %s", tc.args, code, term.stderr)
		}
		if len(f.asked()) > 0 {
			t.Errorf("%q: %v", tc.args, f.asked())
		}
	}
}

func TestSecretNextVersion(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{2: "its 2nd", 3: "its 3rd", 11: "its 11th", 13: "its 13th", 21: "its 21st", 112: "its 112th"} {
		f := newFakeAPI(t)
		term := newTerminal(t, f)
		f.answer("PUT /api/v1/secrets/db", api.Secret{Name: "db", Version: n})
		term.stdin = "hunter22"
		term.must(t, "secret", "set", "db")
		if !strings.Contains(term.stderr, "secret db has a new value, "+want+"\n") {
			t.Errorf("%s", term.stderr)
		}
	}
}

func TestSecretShows(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	term := newTerminal(t, f)
	s := api.Secret{Name: "key", Version: 3, CreatedBy: "ann", UpdatedBy: "bob", CreatedAt: at.Add(-48 * 60 * 60e9), UpdatedAt: at.Add(-60e9), UsedBy: []string{"web-1", "web-2"}}
	f.answer("GET /api/v1/secrets", api.SecretList{Items: []api.Secret{s}})
	f.answer("GET /api/v1/secrets/key", s)
	f.answer("DELETE /api/v1/secrets/key", api.Deleted{Deleted: true})
	term.must(t, "secret", "list", "--filter", "version > 1")
	for _, want := range []string{"NAME", "key", "3", "bob", "ann"} {
		if !strings.Contains(term.stdout, want) {
			t.Errorf("no %q in\n%s", want, term.stdout)
		}
	}
	term.must(t, "secret", "show", "key")
	for _, want := range []string{"secret://key", "by bob", "web-1, web-2"} {
		if !strings.Contains(term.stdout, want) {
			t.Errorf("no %q in\n%s", want, term.stdout)
		}
	}
	term.must(t, "secret", "remove", "key", "--yes", "--force")
	asked := f.asked()
	if last := asked[len(asked)-1]; last != "DELETE /api/v1/secrets/key?force=true" {
		t.Error(last)
	}
}
