package load

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindingTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	saved := file("config.yaml", "current: home\ncontexts:\n- {name: home, server: 'https://home:8443', token: stl_home, ca: HOME-CA}\n- {name: work, server: 'https://work:8443', token: stl_work}\n")
	broken := file("broken.yaml", "token: stl_secret: [\n")
	token, ca := file("token", "stl_file\n"), file("ca.pem", "FILE-CA")
	none := filepath.Join(dir, "none.yaml")
	for _, c := range []struct {
		name  string
		asked Asked
		env   map[string]string
		want  Connection
		wrong string
	}{
		{"the current context", Asked{}, map[string]string{"STELLA_CLI_CONFIG": saved}, Connection{"https://home:8443", "stl_home", []byte("HOME-CA")}, ""},
		{"a named context", Asked{}, map[string]string{"STELLA_CLI_CONFIG": saved, "STELLA_CONTEXT": "work"}, Connection{"https://work:8443", "stl_work", []byte{}}, ""},
		{"the context's server", Asked{Server: "https://home:8443/"}, map[string]string{"STELLA_CLI_CONFIG": saved}, Connection{"https://home:8443", "stl_home", []byte("HOME-CA")}, ""},
		{"the environment", Asked{}, map[string]string{"STELLA_CLI_CONFIG": none, "STELLA_SERVER": "https://env:1", "STELLA_TOKEN": "stl_env", "STELLA_CA": ca}, Connection{"https://env:1", "stl_env", []byte("FILE-CA")}, ""},
		{"flags win", Asked{Server: "https://flag:1", TokenFile: token, CAFile: ca}, map[string]string{"STELLA_CLI_CONFIG": saved, "STELLA_SERVER": "https://env:1", "STELLA_TOKEN": "stl_env"}, Connection{"https://flag:1", "stl_file", []byte("FILE-CA")}, ""},
		{"another server gets no saved token", Asked{Server: "https://evil:1"}, map[string]string{"STELLA_CLI_CONFIG": saved}, Connection{}, "no API token for https://evil:1"},
		{"nothing", Asked{}, map[string]string{"STELLA_CLI_CONFIG": none}, Connection{}, "no server is known"},
		{"no such context", Asked{}, map[string]string{"STELLA_CLI_CONFIG": saved, "STELLA_CONTEXT": "x"}, Connection{}, `no context "x"`},
		{"no such token file", Asked{Server: "https://s", TokenFile: none}, map[string]string{"STELLA_CLI_CONFIG": none}, Connection{}, "none.yaml"},
		{"broken", Asked{}, map[string]string{"STELLA_CLI_CONFIG": broken}, Connection{}, "no file of contexts"},
	} {
		have, err := c.asked.Find(func(key string) string { return c.env[key] })
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "stl_") {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || have.URL != c.want.URL || have.Token != c.want.Token || string(have.CA) != string(c.want.CA) {
			t.Errorf("%s: %+v, %v", c.name, have, err)
		}
	}
}
