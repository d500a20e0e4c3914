package load

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Connection is a server, and as whom to talk to it.
type Connection struct {
	// URL is the server's, as in https://stella.example.com:8443.
	URL string
	// Token is an API token of an admin.
	Token string
	// CA holds the certificates to trust, in PEM; nil stands for the system's.
	CA []byte
}

func (c *Connection) validate() error {
	if c.URL == "" {
		return errors.New("no server is known: name one with --server, or log in with `stella login`")
	}
	if c.Token == "" {
		return fmt.Errorf("there is no API token for %s: set STELLA_TOKEN, give --token-file, or log in with `stella login`", c.URL)
	}
	return nil
}

// Asked is what a user said of the server; what is empty is looked up in the
// environment, and then in the contexts that `stella login` has saved.
type Asked struct {
	Server    string
	Token     string
	TokenFile string
	CAFile    string
}

// Find returns the server that was asked for. A saved token and root belong to
// their server: another never gets them.
func (a Asked) Find(getenv func(string) string) (Connection, error) {
	conn, err := savedConnection(getenv)
	if err != nil {
		return conn, err
	}
	server := first(a.Server, getenv("STELLA_SERVER"))
	if server != "" && strings.TrimRight(server, "/") != strings.TrimRight(conn.URL, "/") {
		conn = Connection{URL: server}
	}
	switch {
	case a.TokenFile != "":
		text, err := readFile("the token", a.TokenFile)
		if err != nil {
			return conn, err
		}
		conn.Token = strings.TrimSpace(string(text))
	case a.Token != "" || getenv("STELLA_TOKEN") != "":
		conn.Token = strings.TrimSpace(first(a.Token, getenv("STELLA_TOKEN")))
	}
	if file := first(a.CAFile, getenv("STELLA_CA")); file != "" {
		if conn.CA, err = readFile("the CA certificate", file); err != nil {
			return conn, err
		}
	}
	return conn, conn.validate()
}

// savedContexts is what matters here of the file that the command line keeps.
type savedContexts struct {
	Current  string `yaml:"current"`
	Contexts []struct {
		Name   string `yaml:"name"`
		Server string `yaml:"server"`
		Token  string `yaml:"token"`
		CA     string `yaml:"ca"`
	} `yaml:"contexts"`
}

func savedConnection(getenv func(string) string) (Connection, error) {
	path := getenv("STELLA_CLI_CONFIG")
	if path == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return Connection{}, nil // a user without a home has saved nothing
		}
		path = filepath.Join(dir, "stella", "config.yaml")
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Connection{}, nil
	} else if err != nil {
		return Connection{}, fmt.Errorf("read the saved contexts: %w", err)
	}
	var saved savedContexts
	if len(strings.TrimSpace(string(text))) > 0 {
		// The parser's own words may quote the file, which holds tokens.
		if yaml.Load(text, &saved) != nil {
			return Connection{}, fmt.Errorf("%s is no file of contexts: mend it, or remove it and log in again", path)
		}
	}
	asked := getenv("STELLA_CONTEXT")
	name := first(asked, saved.Current)
	for _, c := range slices.Backward(saved.Contexts) {
		if c.Name == name {
			return Connection{URL: c.Server, Token: c.Token, CA: []byte(c.CA)}, nil
		}
	}
	if asked != "" {
		return Connection{}, fmt.Errorf("there is no context %q: `stella context list` shows those that are", asked)
	}
	return Connection{}, nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
