package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/obs"
)

// options are the flags that are no part of the configuration.
type options struct {
	token, tokenFile string
	registerTimeout  time.Duration
	wait             time.Duration
	output           string
}

func (o *options) add(fs *pflag.FlagSet) {
	fs.StringVar(&o.token, "token", "", "the registration token, or - for standard input")
	fs.StringVar(&o.tokenFile, "token-file", "", "a file with the registration token")
	fs.DurationVar(&o.registerTimeout, "register-timeout", 30*time.Second, "register: how long to try")
	fs.DurationVar(&o.wait, "wait", 0, "status: wait until the agent is connected, so long at the most")
	fs.StringVarP(&o.output, "output", "o", "text", "status: text or json")
}

const fromWhere = "a token comes from --token-file, from --token=reg_…, or from $STELLA_BOOTSTRAP_TOKEN"

const registerHelp = `The token comes from --token-file, from standard input (--token -), from
$STELLA_BOOTSTRAP_TOKEN, or from --token=reg_…, which other users of this
machine can see in the process list. Registering again with the identity in
place does nothing and needs no token.
`

// registerAndRun is what the image of the container does.
func registerAndRun(ctx context.Context, c *call) error {
	if err := c.configure(); err != nil {
		return err
	}
	var err error
	if c.agent.Token, err = readToken(c.options.token, c.options.tokenFile); err != nil {
		return err
	}
	return serve(ctx, &c.agent)
}

// register registers and ends. What is told is one line: of the log, only what
// somebody who looks for a mistake asks for.
func register(ctx context.Context, c *call) error {
	if err := c.configure(); err != nil {
		return err
	}
	if c.options.registerTimeout <= 0 {
		return errors.New("--register-timeout is longer than nothing, as in 30s")
	}
	cfg := &c.agent.Config
	if cfg.LogLevel != "debug" {
		c.agent.Log = obs.NewLogger(os.Stderr, cfg.LogFormat, "error")
	}
	var err error
	if c.agent.Token, err = readToken(c.options.token, c.options.tokenFile); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.options.registerTimeout)
	defer cancel()
	server := cfg.Server
	done, err := c.agent.Register(ctx)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && err != nil:
		return fmt.Errorf("it was tried for %s: %w", c.options.registerTimeout, err)
	case err != nil:
		return err
	case !done.Already:
		fmt.Fprintf(c.out, "registered as %s with %s\n", who(done), done.Server)
		return nil
	}
	fmt.Fprintf(c.out, "registered already: as %s with %s\n", who(done), done.Server)
	if server != "" && strings.TrimRight(server, "/") != strings.TrimRight(done.Server, "/") {
		fmt.Fprintf(os.Stderr, "stella-agent: it stays with that server. To register with %s instead, stop the agent, remove %s, and register anew with a token of that server\n", server, cfg.Data)
	}
	return nil
}

func who(r *agent.Registration) string {
	if r.Name == "" {
		return "agent " + r.AgentID
	}
	return fmt.Sprintf("%s (agent %s)", r.Name, r.AgentID)
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
