package cli

import (
	"encoding/hex"
	"runtime"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) contextCommand() *cobra.Command {
	return noun("context", "Contexts: the servers that are saved here",
		a.contextListCommand(), a.contextUseCommand(), a.contextRemoveCommand())
}

// contextEntry is a context as it is listed: without its token.
type contextEntry struct {
	Name    string `json:"name"`
	Server  string `json:"server"`
	Current bool   `json:"current"`
}

func (a *app) contextListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the contexts",
		Args:  args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			config, err := a.loadConfig()
			if err != nil {
				return err
			}
			list := make([]contextEntry, len(config.Contexts))
			for i, s := range config.Contexts {
				list[i] = contextEntry{Name: s.Name, Server: s.Server, Current: s.Name == config.Current}
			}
			return a.io.Write(a.format, list, func() {
				t := out.NewTable("", "NAME", "SERVER")
				for _, e := range list {
					mark := ""
					if e.Current {
						mark = "*"
					}
					t.Row(mark, e.Name, e.Server)
				}
				a.io.Table(t, "There are no contexts: `stella login` saves one.")
			})
		},
	}
}

func (a *app) contextUseCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "use NAME",
		Short:             "Make a context the current one",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeContexts,
		RunE: func(_ *cobra.Command, names []string) error {
			config, err := a.loadConfig()
			if err != nil {
				return err
			}
			s := config.find(names[0])
			if s == nil {
				return noContext(names[0])
			}
			config.Current = s.Name
			if err := config.save(); err != nil {
				return err
			}
			a.io.Notef("context %s (%s) is current", s.Name, s.Server)
			return nil
		},
	}
}

func (a *app) contextRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "remove NAME",
		Short:             "Forget a context and its token; the token itself stays usable",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeContexts,
		RunE: func(_ *cobra.Command, names []string) error {
			config, err := a.loadConfig()
			if err != nil {
				return err
			}
			if !config.remove(names[0]) {
				return noContext(names[0])
			}
			if err := config.save(); err != nil {
				return err
			}
			a.io.Notef("context %s is forgotten; `stella token revoke` ends a token", names[0])
			return nil
		},
	}
}

func noContext(name string) *Error {
	return &Error{Code: exitNotFound, What: "there is no context " + name, Next: "`stella context list` shows those that are"}
}

// saver lets the demo save the context of the server that it started.
type saver struct{ app *app }

// SaveContext saves a context and makes it current.
func (s saver) SaveContext(name, server, token, ca string) error {
	return s.app.saveContext(savedContext{Name: name, Server: server, Token: token, CA: ca})
}

// RemoveContext forgets a context, if it is there.
func (s saver) RemoveContext(name string) error {
	config, err := s.app.loadConfig()
	if err != nil || !config.remove(name) {
		return err
	}
	return config.save()
}

func (a *app) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Say which server is talked to, and as whom",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := a.connection()
			if err != nil {
				return err
			}
			c, err := a.dial(conn)
			if err != nil {
				return err
			}
			who, err := c.WhoAmI(cmd.Context())
			if err != nil {
				return err
			}
			return a.io.Write(a.format, who, func() {
				a.io.Pairs(
					[2]string{"Name", who.Name},
					[2]string{"Role", string(who.Role)},
					[2]string{"Tenant", who.Tenant},
					[2]string{"Server", c.URL() + ", version " + who.Server},
					[2]string{"Known by", conn.From},
					[2]string{"Root pin", pinOf(conn.CA)},
				)
			})
		},
	}
}

// pinOf is the pin of the root that is trusted, for `stella login --ca-pin` on
// other machines.
func pinOf(ca []byte) string {
	root, err := client.ParseRoot(ca)
	if err != nil {
		return ""
	}
	return hex.EncodeToString(root.Pin[:])
}

// versionInfo is what `stella version` prints.
type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which version this is",
		Args:  args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo{Version: a.version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			return a.io.Write(a.format, v, func() { a.io.Printf("stella %s (%s, %s)\n", v.Version, v.Platform, v.Go) })
		},
	}
}
