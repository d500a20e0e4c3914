package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"stella-ops.org/stella/api"
)

// localPatience is how long the agent of this host may take; a renewal waits for
// its server.
const localPatience = time.Minute

// Local talks to the agent of this host, by its local socket (AF_UNIX, on Windows
// too). No token is needed: who may open the socket may use it. It is safe for
// concurrent use, and keeps no connection.
type Local struct {
	socket string
	http   *http.Client
}

// NewLocal returns a client for the agent whose socket is at a path. It does not
// connect; an agent that does not run is found out by the first call.
func NewLocal(socket string) *Local {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	return &Local{socket: socket, http: &http.Client{Transport: tr, Timeout: localPatience}}
}

// LocalSockets lists where agents have their socket unless they are told another
// place, the most usual first.
func LocalSockets() []string {
	if runtime.GOOS == "windows" {
		return []string{filepath.Join(os.Getenv("ProgramData"), "stella-agent", "agent.sock"), filepath.Join("stella-agent-data", "agent.sock")}
	}
	return []string{"/run/stella-agent/agent.sock", "/var/lib/stella-agent/agent.sock", "stella-agent-data/agent.sock"}
}

// FindLocal returns the first of LocalSockets that is there, and whether there is
// one. One that may not be looked at is there.
func FindLocal() (socket string, found bool) {
	for _, path := range LocalSockets() {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, true
		}
	}
	return "", false
}

// LocalError says that the agent of this host could not be asked. It wraps
// fs.ErrPermission when the socket may not be opened by this user.
type LocalError struct {
	// Socket is the path that was tried.
	Socket string
	Err    error
}

// Error says so, and why.
func (e *LocalError) Error() string {
	if e.Denied() {
		return fmt.Sprintf("the agent's socket %s may not be opened by this user", e.Socket)
	}
	return fmt.Sprintf("the agent does not answer at %s: %v", e.Socket, e.Err)
}

// Unwrap returns the cause.
func (e *LocalError) Unwrap() error { return e.Err }

// Denied reports whether the socket is there and may not be opened by this user:
// it is for the agent's group.
func (e *LocalError) Denied() bool { return errors.Is(e.Err, fs.ErrPermission) }

// Status returns how the agent is, as it knows itself. The agent answers at once,
// whatever it does and whether or not its server can be reached. The error is a
// *LocalError when the agent could not be asked, and an *api.Problem when it
// answered with one.
func (l *Local) Status(ctx context.Context) (*api.LocalStatus, error) {
	var s api.LocalStatus
	if err := l.ask(ctx, http.MethodGet, "/v1/status", nil, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// RenewCertificate has the agent get its next certificate now, if it is due or
// forced. It blocks until the agent's server has answered, a minute at the most.
// The errors are as those of Status.
func (l *Local) RenewCertificate(ctx context.Context, force bool) (*api.CertificateRenewal, error) {
	var done api.CertificateRenewal
	if err := l.ask(ctx, http.MethodPost, "/v1/renew-certificate", api.RenewalRequest{Force: force}, &done); err != nil {
		return nil, err
	}
	return &done, nil
}

func (l *Local) ask(ctx context.Context, method, path string, in, into any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := l.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if outer, ok := errors.AsType[*url.Error](err); ok {
			err = outer.Err // without an address that means nothing
		}
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err // the path is said already
		}
		return &LocalError{Socket: l.socket, Err: err}
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return &LocalError{Socket: l.socket, Err: fmt.Errorf("read its answer: %w", err)}
	}
	if res.StatusCode < http.StatusMultipleChoices {
		if err := json.Unmarshal(data, into); err != nil {
			return &LocalError{Socket: l.socket, Err: fmt.Errorf("its answer is not that of an agent: %w", err)}
		}
		return nil
	}
	var p api.Problem
	switch {
	case json.Unmarshal(data, &p) == nil && p.Detail != "":
		return &p
	case res.StatusCode == http.StatusNotFound:
		return &LocalError{Socket: l.socket, Err: errors.New("it is of an older version, which cannot answer this: update the agent")}
	}
	return &LocalError{Socket: l.socket, Err: fmt.Errorf("it answered %s", res.Status)}
}
