package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"stella-ops.org/stella/client"
)

// localServer is where a server with the default address is reached from its
// own machine.
const localServer = "https://localhost:8443"

// connection is what is needed to talk to a server.
type connection struct {
	Server string
	Token  string
	CA     []byte
	// From says where it was found, for whoever asks why.
	From string
}

// connect returns a client for the server that flags, environment, contexts
// and this machine say, in that order.
func (a *app) connect() (*client.Client, error) {
	conn, err := a.connection()
	if err != nil {
		return nil, err
	}
	return a.dial(conn)
}

func (a *app) dial(conn *connection) (*client.Client, error) {
	c, err := client.New(client.Options{
		URL: conn.Server, Token: conn.Token, CACert: conn.CA, UserAgent: "stella/" + a.version,
	})
	if err != nil {
		return nil, wrongUse("", "%v", err)
	}
	return c, nil
}

func (a *app) connection() (*connection, error) {
	conn, err := a.savedConnection()
	if err != nil {
		return nil, err
	}
	if server := first(a.server, a.getenv("STELLA_SERVER")); server != "" && !sameServer(server, conn.Server) {
		// A token and a root belong to their server: another never gets them.
		conn = &connection{Server: server, From: "--server or STELLA_SERVER"}
	}
	if token, err := a.givenToken(); err != nil {
		return nil, err
	} else if token != "" {
		conn.Token = token
	}
	if file := first(a.caFile, a.getenv("STELLA_CA")); file != "" {
		if conn.CA, err = os.ReadFile(file); err != nil {
			return nil, wrongUse("give the file of the server's root, its ca.pem", "the CA certificate: %v", err)
		}
	}
	if conn.Server == "" {
		if err := a.localConnection(conn); err != nil {
			return nil, err
		}
	}
	return conn, nil
}

// savedConnection is that of the context; one without a server when there is
// none.
func (a *app) savedConnection() (*connection, error) {
	config, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	name := first(a.context, a.getenv("STELLA_CONTEXT"))
	asked := name != ""
	if !asked {
		name = config.Current
	}
	if name == "" {
		return &connection{}, nil
	}
	saved := config.find(name)
	if saved == nil {
		if !asked {
			return &connection{}, nil
		}
		next := "`stella login` saves one"
		if names := config.names(); len(names) > 0 {
			next = "there are: " + strings.Join(names, ", ")
		}
		return nil, &Error{Code: exitNotFound, What: fmt.Sprintf("there is no context %q", name), Next: next}
	}
	return &connection{Server: saved.Server, Token: saved.Token, CA: []byte(saved.CA), From: "context " + name}, nil
}

// givenToken is that of a flag or the environment, never of an argument, which
// everybody on the machine could read.
func (a *app) givenToken() (string, error) {
	if a.tokenFile != "" {
		return a.readSecretFile(a.tokenFile)
	}
	return strings.TrimSpace(a.getenv("STELLA_TOKEN")), nil
}

func (a *app) readSecretFile(path string) (string, error) {
	if path == "-" {
		line, err := a.io.ReadLine()
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the token from stdin: %w", err)
		}
		if line == "" {
			return "", wrongUse("write the token to stdin, on one line", "stdin held no token")
		}
		return line, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", wrongUse("", "the token: %v", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", wrongUse("", "the token file %s is empty", path)
	}
	return token, nil
}

// localConnection uses the admin token of a server on this machine.
func (a *app) localConnection(conn *connection) error {
	for _, dir := range a.dataDirs {
		token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
		if errors.Is(err, fs.ErrPermission) {
			return wrongUse("log in with `stella login`, or run this as the server's user",
				"the server's data in %s is not for this user to read", dir)
		}
		if err != nil {
			continue
		}
		ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
		if err != nil {
			continue
		}
		conn.Server, conn.From = localServer, dir
		if conn.Token == "" {
			conn.Token = strings.TrimSpace(string(token))
		}
		if len(conn.CA) == 0 {
			conn.CA = ca
		}
		a.io.Notef("%s", a.io.ErrStyle.Faint(fmt.Sprintf("using the server on this machine, %s, with the admin token in %s", localServer, dir)))
		return nil
	}
	none := wrongUse("log in with `stella login https://HOST:8443`, or start a server here with `stella up`",
		"no server is known")
	none.Err = errNoServer
	return none
}

// errNoServer is in the error of connect when nothing says which server to talk to.
var errNoServer = errors.New("no server is known")

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func sameServer(a, b string) bool { return strings.TrimRight(a, "/") == strings.TrimRight(b, "/") }
