// Command stella-agent runs on a host, or beside the hosts that it reaches,
// and does there what its server says.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/config"
	"stella-ops.org/stella/internal/daemon"
	"stella-ops.org/stella/internal/obs"
)

const usage = `Stella's agent.

  stella-agent --register --token-file FILE --server URL [flags]   register this host, then run
  stella-agent run [flags]                                          run from what is registered
  stella-agent version

The token comes from --token-file, from standard input (--token -), from
$STELLA_BOOTSTRAP_TOKEN, or from --token=reg_…, which other users of this
machine can see in the process list. Registering again with the identity in
place does nothing and needs no token.

`

// words is said of words that stand where none is expected. They may be a token,
// and are not repeated.
const words = ": use --register, run or version, one of them; a token comes from --token-file, from --token=reg_…, or from $STELLA_BOOTSTRAP_TOKEN"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stella-agent:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var a agent.Agent
	fs := pflag.NewFlagSet("stella-agent", pflag.ContinueOnError)
	config.Flags(fs, &a.Config)
	register := fs.Bool("register", false, "register this host first, unless it is registered")
	token := fs.String("token", "", "the registration token, or - for standard input")
	tokenFile := fs.String("token-file", "", "a file with the registration token")
	fs.Usage = func() { fmt.Fprint(os.Stderr, usage+fs.FlagUsages()) }
	if err := fs.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	switch verb := fs.Arg(0); {
	case fs.NArg() > 1:
		return errors.New("there are words behind the command" + words)
	case verb == "version":
		fmt.Println(obs.BuildVersion())
		return nil
	case verb == "run" && !*register, verb == "" && *register:
	case verb == "":
		fs.Usage()
		return errors.New("say what to do: --register, or run")
	default:
		return errors.New("the word given is no command, or does not go with --register" + words)
	}
	if err := config.Load(fs, &a.Config, os.Getenv); err != nil {
		return err
	}
	if *register {
		var err error
		if a.Token, err = readToken(*token, *tokenFile); err != nil {
			return err
		}
	}
	a.Log = obs.NewLogger(os.Stderr, a.Config.LogFormat, a.Config.LogLevel)
	ctx, stop := daemon.SignalContext(context.Background())
	defer stop()
	return a.Run(ctx)
}

// readToken takes the token from where the user put it.
func readToken(flag, file string) (string, error) {
	var text []byte
	var err error
	switch {
	case file != "":
		text, err = os.ReadFile(file)
	case flag == "-":
		text, err = io.ReadAll(io.LimitReader(os.Stdin, 4096))
	case flag != "":
		text = []byte(flag)
	default:
		text = []byte(os.Getenv("STELLA_BOOTSTRAP_TOKEN"))
	}
	if err != nil {
		return "", fmt.Errorf("registration token: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}
