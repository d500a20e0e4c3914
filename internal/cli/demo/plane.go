package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

// plane is a control plane on this machine and an agent of its own.
type plane struct {
	stella, agent string // the programs
	dir           string // the server's data; the agent's is agent/ in it
	listen        string
	url           string
}

// The server and its agent need a moment to be there; after this long they
// will not come any more.
const patience = 30 * time.Second

func (p *plane) serverArgs() []string {
	return []string{"server", "--data", p.dir, "--listen", p.listen}
}

func (p *plane) agentDir() string { return filepath.Join(p.dir, "agent") }

func (p *plane) agentArgs(name string) []string {
	return []string{"--register", "--server", p.url, "--data", p.agentDir(), "--name", name}
}

func (p *plane) startServer(log string, more ...string) (*process, error) {
	return start("stella server", log, environment(), p.stella, append(p.serverArgs(), more...)...)
}

// startAgent registers the agent with a token, which goes by the environment:
// arguments are for everybody on the machine to read.
func (p *plane) startAgent(log, name, token string, more ...string) (*process, error) {
	return start("stella-agent", log, environment("STELLA_BOOTSTRAP_TOKEN="+token), p.agent, append(p.agentArgs(name), more...)...)
}

// token and ca are what the server has left for its own machine.
func (p *plane) token() (string, error) {
	text, err := os.ReadFile(filepath.Join(p.dir, "admin.token"))
	return strings.TrimSpace(string(text)), err
}

func (p *plane) caFile() string { return filepath.Join(p.dir, "ca.pem") }

func (p *plane) client() (*client.Client, error) {
	token, err := p.token()
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(p.caFile())
	if err != nil {
		return nil, err
	}
	return client.New(client.Options{URL: p.url, Token: token, CACert: ca, UserAgent: "stella-demo"})
}

// awaitServer waits until the server takes requests.
func (p *plane) awaitServer(ctx context.Context, server *process) (*client.Client, error) {
	var c *client.Client
	err := await(ctx, server, func(ctx context.Context) (err error) {
		if c == nil {
			if c, err = p.client(); err != nil {
				return err
			}
		}
		return c.Ready(ctx)
	})
	return c, err
}

// awaitAgent waits until an agent is online.
func awaitAgent(ctx context.Context, c *client.Client, agent *process, name string) (*api.Agent, error) {
	var found *api.Agent
	err := await(ctx, agent, func(ctx context.Context) error {
		a, err := c.Agent(ctx, name)
		if err != nil {
			return err
		}
		found = a
		if a.Status != api.StatusOnline || a.Transport == "" {
			return fmt.Errorf("agent %s is %s", name, a.Status)
		}
		return nil
	})
	return found, err
}

// await looks again and again, as long as the process lives that is waited
// for.
func await(ctx context.Context, p *process, look func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look(ctx)
		if err == nil {
			return nil
		}
		if p != nil && !p.running() {
			return &processError{process: p, err: fmt.Errorf("%s ended instead of starting", p.name)}
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return &processError{process: p, err: fmt.Errorf("it was not there after %s: %w", patience, err)}
		case <-tick.C:
		}
	}
}

// processError is one whose cause is in a process's log.
type processError struct {
	process *process
	err     error
}

// Error returns what happened.
func (e *processError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *processError) Unwrap() error { return e.err }

func can(a *api.Agent, capability string) bool { return slices.Contains(a.Capabilities, capability) }
