package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"stella-ops.org/stella/api"
)

// loginServer is a server with a root of its own, as the fake's certificate is
// its own root.
func loginServer(t *testing.T) (f *fakeAPI, term *terminal, pin string) {
	t.Helper()
	f = newFakeAPI(t)
	cert := f.server.Certificate()
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	f.answer("GET /api/v1/whoami", api.WhoAmI{Name: "joe", Role: api.RoleOperator, Tenant: "default", Server: "9"})
	term = newTerminal(t, f)
	delete(term.env, "STELLA_SERVER")
	delete(term.env, "STELLA_CA")
	delete(term.env, "STELLA_TOKEN")
	return f, term, hex.EncodeToString(sum[:])
}

func saved(t *testing.T, term *terminal) configuration {
	t.Helper()
	var c configuration
	text, err := os.ReadFile(term.env["STELLA_CLI_CONFIG"])
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Load(text, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoginWithCA(t *testing.T) {
	t.Parallel()
	f, term, _ := loginServer(t)
	term.stdin = "stl_secret\n"
	term.must(t, "login", f.server.URL, "--ca", f.ca, "--token-stdin", "--context", "prod")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
	want := configuration{Current: "prod", Contexts: []savedContext{{Name: "prod", Server: f.server.URL, Token: "stl_secret", CA: string(ca)}}}
	if diff := cmp.Diff(want.Contexts, saved(t, term).Contexts); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(term.env["STELLA_CLI_CONFIG"])
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info.Mode(), err)
	}
	if strings.Contains(term.stderr+term.stdout, "stl_secret") {
		t.Error("the token was shown")
	}
	// The context is used from now on.
	term.must(t, "whoami")
	if f.tokens[len(f.tokens)-1] != "Bearer stl_secret" {
		t.Errorf("tokens: %v", f.tokens)
	}
	term.must(t, "context", "list")
	if term.stdout != "   NAME  SERVER\n*  prod  "+f.server.URL+"\n" {
		t.Errorf("contexts: %q", term.stdout)
	}
	term.must(t, "context", "remove", "prod")
	if code := term.run(t.Context(), "whoami"); code != exitUsage || !strings.Contains(term.stderr, "stella login") {
		t.Errorf("without a context: %d, %s", code, term.stderr)
	}
}

// A root is trusted by its pin, or when somebody says so, and not otherwise.
func TestLoginAsksBeforeItTrusts(t *testing.T) {
	t.Parallel()
	f, term, pin := loginServer(t)
	term.stdin = "stl_secret\n"
	if code := term.run(t.Context(), "login", f.server.URL, "--token-stdin"); code != exitUsage || !strings.Contains(term.stderr, "nobody to ask") {
		t.Errorf("without a terminal: %d, %s", code, term.stderr)
	}
	if code := term.run(t.Context(), "login", f.server.URL, "--token-stdin", "--ca-pin", strings.Repeat("00", 32)); code != exitNotAllowed {
		t.Errorf("with a wrong pin: %d, %s", code, term.stderr)
	}
	term.tty = true
	term.stdin = "n\n"
	if code := term.run(t.Context(), "login", f.server.URL); code != exitNotAllowed || !strings.Contains(term.stderr, pin) {
		t.Errorf("told no: %d, %s", code, term.stderr)
	}
	if _, err := os.Stat(term.env["STELLA_CLI_CONFIG"]); err == nil {
		t.Error("something was saved")
	}
	term.stdin = "yes\nstl_secret\n"
	term.must(t, "login", f.server.URL)
	if s := saved(t, term).Contexts; len(s) != 1 || s[0].Token != "stl_secret" || s[0].Name != "127.0.0.1" {
		t.Errorf("saved: %+v", s)
	}
	term.tty, term.stdin = false, "stl_other"
	term.must(t, "login", f.server.URL, "--ca-pin", "sha256:"+pin, "--token-file", "-", "--context", "two")
	if s := saved(t, term); s.Current != "two" || len(s.Contexts) != 2 {
		t.Errorf("saved: %+v", s)
	}
}

// A token never goes to another server than its own.
func TestTokenStaysWithItsServer(t *testing.T) {
	t.Parallel()
	ours, term, _ := loginServer(t)
	term.stdin = "stl_ours\n"
	term.must(t, "login", ours.server.URL, "--ca", ours.ca, "--token-stdin")
	other := newFakeAPI(t)
	other.answer("GET /api/v1/whoami", api.WhoAmI{})
	term.must(t, "whoami", "--server", other.server.URL, "--ca", other.ca)
	if diff := cmp.Diff([]string{""}, other.tokens); diff != "" {
		t.Error(diff)
	}
	// With a slash at the end it is the same server.
	term.must(t, "whoami", "--server", ours.server.URL+"/")
}

func TestWhereTheServerComesFrom(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	config := filepath.Join(home, "config.yaml")
	text := "current: a\ncontexts:\n- {name: a, server: 'https://a', token: ta, ca: ca-a}\n- {name: b, server: 'https://b', token: tb}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(home, "token")
	if err := os.WriteFile(token, []byte(" tf\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		env  map[string]string
		set  func(a *app)
		want connection
	}{
		"the current context":      {nil, func(*app) {}, connection{"https://a", "ta", []byte("ca-a"), "context a"}},
		"one of the environment":   {map[string]string{"STELLA_CONTEXT": "b"}, func(*app) {}, connection{"https://b", "tb", []byte{}, "context b"}},
		"the flag goes before":     {map[string]string{"STELLA_CONTEXT": "x"}, func(a *app) { a.context = "b" }, connection{"https://b", "tb", []byte{}, "context b"}},
		"a token of the env":       {map[string]string{"STELLA_TOKEN": "te"}, func(*app) {}, connection{"https://a", "te", []byte("ca-a"), "context a"}},
		"a token file goes before": {map[string]string{"STELLA_TOKEN": "te"}, func(a *app) { a.tokenFile = token }, connection{"https://a", "tf", []byte("ca-a"), "context a"}},
		"another server":           {map[string]string{"STELLA_SERVER": "https://c"}, func(*app) {}, connection{"https://c", "", nil, "--server or STELLA_SERVER"}},
		"a CA file":                {map[string]string{"STELLA_CA": token}, func(*app) {}, connection{"https://a", "ta", []byte(" tf\n"), "context a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{"STELLA_CLI_CONFIG": config}
			maps.Copy(env, tc.env)
			a := newApp("", nil, func(n string) string { return env[n] })
			tc.set(a)
			have, err := a.connection()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tc.want, have); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A server on this machine is used without a login, and that is said.
func TestLocalServer(t *testing.T) {
	t.Parallel()
	term := newTerminal(t, nil)
	data := filepath.Join(term.home, "stella-data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"admin.token": "stl_x\n", "ca.pem": "no certificate"} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	code := term.run(t.Context(), "whoami")
	if code != exitUsage || !strings.Contains(term.stderr, "using the server on this machine, https://localhost:8443, with the admin token in "+data) ||
		!strings.Contains(term.stderr, "CA certificate is not PEM") {
		t.Errorf("%d: %s", code, term.stderr)
	}
}

func TestContextsFileIsReadStrictly(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"current: a\ncontext: []\n":    "context",
		"contexts:\n- {nme: a}\n":      "nme",
		"contexts: yes\n":              "config.yaml",
		"current: a\ncurrent: b\n":     "current",
		"contexts:\n- name: [\"a\"\n ": "config.yaml",
	} {
		term := newTerminal(t, nil)
		if err := os.WriteFile(term.env["STELLA_CLI_CONFIG"], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if code := term.run(t.Context(), "context", "list"); code != exitUsage || !strings.Contains(term.stderr, want) {
			t.Errorf("%q: %d, %s", text, code, term.stderr)
		}
	}
}
