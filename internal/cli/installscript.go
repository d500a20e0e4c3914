package cli

import (
	"bytes"
	"context"
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/atomicfile"
)

func (a *app) agentInstallScriptCommand() *cobra.Command {
	var token, output, platform string
	cmd := &cobra.Command{
		Use:   "install-script",
		Short: "Get the installer as a file, with a token in it",
		Long: `Get the installer as a file, with a token in it, for a host that it is carried to
by other means than its own line. Whoever can read the file can use the token.

The token is the one that ` + "`stella agent bootstrap`" + ` has made. Give it by
$STELLA_BOOTSTRAP_TOKEN, or by --token - on standard input; with --token reg_…,
other users of this machine can see it in the list of processes. The installer for
Windows comes without: set $env:STELLA_BOOTSTRAP_TOKEN there.`,
		Example: `  stella agent install-script --token - --output install.sh <token
  scp install.sh root@prod-01: && ssh root@prod-01 sh install.sh`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			text, err := installer(cmd.Context(), c, platform)
			if err != nil {
				return err
			}
			if token == "-" {
				said, err := io.ReadAll(io.LimitReader(a.io.In, 4<<10))
				if err != nil {
					return failed("", "the token could not be read: %v", err)
				}
				token = string(said)
			}
			if text, err = withToken(text, strings.TrimSpace(first(token, a.getenv("STELLA_BOOTSTRAP_TOKEN"))), platform); err != nil {
				return err
			}
			if output == "" || output == "-" {
				a.io.Printf("%s", text)
				return nil
			}
			if err := atomicfile.Write(output, text, 0o600); err != nil {
				return failed("", "the installer could not be written: %v", err)
			}
			run := "sh " + output + ", as root or where there is sudo"
			if platform == "windows" {
				run = output + ", in PowerShell as administrator"
			}
			a.io.Notef("%s has the installer; on the host, run %s", output, run)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&token, "token", "", "the registration `token`, or - for standard input")
	flags.StringVar(&output, "output", "", "the `file` to write; standard output when left out")
	flags.StringVar(&platform, "platform", "linux", "linux or windows")
	complete(cmd, "platform", fixed("linux", "windows"))
	return cmd
}

func installer(ctx context.Context, c *client.Client, platform string) ([]byte, error) {
	switch platform {
	case "linux":
		return c.LinuxInstaller(ctx)
	case "windows":
		return c.WindowsInstaller(ctx)
	}
	return nil, wrongUse("give linux or windows; for docker, `stella agent bootstrap --platform docker` has the line", "there is no installer for the platform %q", platform)
}

var tokenForm = regexp.MustCompile(`^reg_[a-z2-7]+_[a-z2-7]+$`)

// withToken puts a token into an installer's own place for it.
func withToken(text []byte, token, platform string) ([]byte, error) {
	switch {
	case token == "":
		return text, nil
	case platform == "windows":
		return nil, wrongUse("set $env:STELLA_BOOTSTRAP_TOKEN where it runs", "the installer for Windows takes no token with it")
	case !tokenForm.MatchString(token):
		return nil, wrongUse("copy the whole of it, from `stella agent bootstrap`", "the token is not whole: it reads reg_…_…")
	}
	const place = "\ntoken=''"
	if bytes.Count(text, []byte(place)) != 1 {
		return nil, failed("is this program as new as its server?", "the server's installer has no place for a token")
	}
	return bytes.Replace(text, []byte(place), []byte("\ntoken='"+token+"'"), 1), nil
}
