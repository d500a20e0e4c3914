package cli

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

func (a *app) loginCommand() *cobra.Command {
	var pin string
	var stdin bool
	cmd := &cobra.Command{
		Use:   "login [URL]",
		Short: "Save a server, and as whom to talk to it, as a context",
		Long: `Save a server, and as whom to talk to it, as a context. The context is named by
--context, or after the server's host.

A server has its own certificate authority. Its root is trusted by --ca (the
server's ca.pem), by --ca-pin (the SHA-256 of the root's public key, which
"stella whoami" shows on the server's own machine), or after you have looked at
its pin. A root that the system trusts anyway needs none of them.

The token is asked for, or comes from --token-stdin, --token-file or
STELLA_TOKEN; never from an argument, which everybody on the machine can read.`,
		Example: `  stella login https://stella.example.com:8443
  stella login https://stella.example.com:8443 --ca ca.pem --token-file admin.token
  pass stella | stella login https://stella.example.com:8443 --ca-pin 9f86d0… --token-stdin`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, urls []string) error {
			conn := &connection{Server: first(append(urls, a.server, a.getenv("STELLA_SERVER"))...)}
			if conn.Server == "" {
				conn.Server = localServer
			}
			if !strings.Contains(conn.Server, "://") {
				conn.Server = "https://" + conn.Server
			}
			if err := a.trust(cmd.Context(), conn, pin); err != nil {
				return err
			}
			if stdin {
				a.tokenFile = "-"
			}
			who, err := a.authenticate(cmd.Context(), conn)
			if err != nil {
				return err
			}
			saved := savedContext{Name: first(a.context, hostOf(conn.Server)), Server: conn.Server, Token: conn.Token, CA: string(conn.CA)}
			if err := a.saveContext(saved); err != nil {
				return err
			}
			a.io.Notef("logged in to %s as %s (%s); context %s is current", conn.Server, who.Name, who.Role, saved.Name)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&stdin, "token-stdin", false, "read the API token from stdin")
	flags.StringVar(&pin, "ca-pin", "", "the SHA-256 of the root's public key, in `hex`")
	return cmd
}

func (a *app) saveContext(s savedContext) error {
	config, err := a.loadConfig()
	if err != nil {
		return err
	}
	config.put(s)
	return config.save()
}

// trust finds out which root to trust.
func (a *app) trust(ctx context.Context, conn *connection, pin string) error {
	if file := first(a.caFile, a.getenv("STELLA_CA")); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return wrongUse("give the file of the server's root, its ca.pem", "the CA certificate: %v", err)
		}
		conn.CA = text
		return nil
	}
	if pin == "" {
		trusted, err := a.trustedAnyway(ctx, conn)
		if err != nil || trusted {
			return err
		}
	}
	root, err := client.FetchRoot(ctx, conn.Server)
	if err != nil {
		return err
	}
	have := hex.EncodeToString(root.Pin[:])
	if pin != "" {
		want, err := parsePin(pin)
		if err != nil {
			return err
		}
		if !root.HasPin(want) {
			return &Error{
				Code: exitNotAllowed, What: "the server's root is not the one of the pin: it has " + have,
				Next: "check the address; if it is right, somebody stands between you and the server",
			}
		}
		conn.CA = root.PEM
		return nil
	}
	if !a.io.InTTY {
		return wrongUse("give --ca FILE or --ca-pin "+have[:8]+"… once you have compared the pin with the server's own",
			"the root of %s is not trusted yet, and there is nobody to ask", conn.Server)
	}
	a.io.Notef("%s has a root of its own:\n  %s\n  valid until %s\n  pin (SHA-256 of its public key): %s",
		conn.Server, root.Subject, root.NotAfter.UTC().Format("2006-01-02"), have)
	a.io.Notef("Compare the pin with the one that `stella whoami` shows on the server's own machine.")
	yes, err := a.io.Ask("Trust it?")
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if !yes {
		return &Error{Code: exitNotAllowed, What: "the root is not trusted; nothing was saved"}
	}
	conn.CA = root.PEM
	return nil
}

// trustedAnyway reports whether the system trusts the server.
func (a *app) trustedAnyway(ctx context.Context, conn *connection) (bool, error) {
	c, err := a.dial(conn)
	if err != nil {
		return false, err
	}
	defer c.Close()
	err = c.Health(ctx)
	if e, ok := errors.AsType[*client.ConnectError](err); ok && e.Untrusted {
		return false, nil
	}
	return err == nil, err
}

// parsePin reads a pin as the server shows it (hex, perhaps with colons and
// its algorithm), or as a registration token carries it.
func parsePin(text string) (pin [sha256.Size]byte, err error) {
	clean := strings.ToLower(strings.TrimSpace(text))
	clean = strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(clean, "sha256:"), "sha-256:"), ":", "")
	raw, err := hex.DecodeString(clean)
	if err != nil {
		raw, err = base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(clean))
	}
	if err != nil || len(raw) != len(pin) {
		return pin, wrongUse("it is the 64 hexadecimal digits that `stella whoami` shows on the server's own machine", "%q is no pin", text)
	}
	return [sha256.Size]byte(raw), nil
}

// authenticate gets the token and tries it.
func (a *app) authenticate(ctx context.Context, conn *connection) (*api.WhoAmI, error) {
	token, err := a.givenToken()
	if err != nil {
		return nil, err
	}
	if token == "" {
		if !a.io.InTTY {
			return nil, wrongUse("give it by --token-stdin, --token-file or STELLA_TOKEN", "there is no API token")
		}
		if token, err = a.io.ReadSecret("API token: "); err != nil {
			return nil, fmt.Errorf("read the token: %w", err)
		}
	}
	conn.Token = token
	c, err := a.dial(conn)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.WhoAmI(ctx)
}
