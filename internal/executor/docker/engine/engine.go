// Package engine reaches Docker engines by their API, for the executors that
// work with one: a connection for each address, and questions whose answers
// need no type of the API's library.
//
// It works with engines from 20.10 (API 1.41) on, and talks the newest version
// of the API that both sides know.
package engine

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/cli/cli/connhelper"
	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

// Engines are the engines that were asked for, each with its connections. Its
// methods may be called at the same time.
type Engines struct {
	usual string

	mu      sync.Mutex
	clients map[string]*client.Client // by address; "" is the environment's
}

// New makes Engines whose usual one is at an address; without one it is
// $DOCKER_HOST or the usual socket. It connects to nothing yet.
func New(usual string) *Engines {
	if usual == "" {
		usual = os.Getenv("DOCKER_HOST")
	}
	return &Engines{usual: usual, clients: map[string]*client.Client{}}
}

// Close drops all connections.
func (e *Engines) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []error
	for addr, c := range e.clients {
		all = append(all, c.Close())
		delete(e.clients, addr)
	}
	return errors.Join(all...)
}

// At returns the client for an address, as in unix:///var/run/docker.sock,
// tcp://host:2376 or ssh://user@host; for the usual engine when it is empty. It
// is made once, and connects at the first request. With ssh:// the agent's
// host needs the ssh program, and the other one docker, as for the docker
// program itself.
func (e *Engines) At(addr string) (*client.Client, error) {
	if addr == "" {
		addr = e.usual
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.clients[addr]; c != nil {
		return c, nil
	}
	c, err := dial(addr)
	if err != nil {
		return nil, deploy.Fail(api.ErrInvalidPayload, "the engine's address %q cannot be used: %w", withoutPassword(addr), err)
	}
	e.clients[addr] = c
	return c, nil
}

// schemes are the ways to an engine.
var schemes = []string{"unix", "npipe", "tcp", "http", "https", "ssh"}

func dial(addr string) (*client.Client, error) {
	if addr == "" {
		return client.New(client.FromEnv)
	}
	u, err := url.Parse(addr)
	var unreadable *url.Error
	switch {
	case errors.As(err, &unreadable):
		return nil, unreadable.Err // which is without the address, and a password in it
	case err != nil:
		return nil, err
	case !slices.Contains(schemes, u.Scheme):
		return nil, fmt.Errorf("it must begin with one of %s and ://", strings.Join(schemes, ", "))
	case u.Scheme != "ssh" && u.User != nil:
		return nil, errors.New("only ssh:// takes a user")
	}
	opts := []client.Opt{client.FromEnv}
	if u.Scheme != "ssh" {
		return client.New(append(opts, client.WithHost(addr))...)
	}
	helper, err := connhelper.GetConnectionHelper(addr)
	if err != nil {
		return nil, err
	}
	return client.New(append(opts, client.WithHost(helper.Host), client.WithDialContext(helper.Dialer))...)
}

// withoutPassword is an address that may be shown.
func withoutPassword(addr string) string {
	if u, err := url.Parse(addr); err == nil {
		return u.Redacted()
	}
	scheme, _, _ := strings.Cut(addr, ":")
	return scheme + ":…"
}

// Error gives an error of an engine its type: target_unreachable when the
// engine did not answer, otherwise the given one. An error that has a type
// keeps it.
func Error(errType string, err error) error {
	var typed *deploy.Error
	switch {
	case err == nil, errors.As(err, &typed):
		return err
	case client.IsErrConnectionFailed(err), cerrdefs.IsUnavailable(err):
		return deploy.Fail(api.ErrTargetUnreachable, "the Docker engine does not answer (%w); is it running, and may the agent use it?", err).Retry()
	}
	return deploy.Fail(errType, "%w", err)
}
