// Package localapi is how programs on the agent's own host talk to it: a small
// API by HTTP over a Unix socket. Who may open the socket may use it; its file is
// for the agent's user and group alone.
//
// It knows nothing of the server and of tasks: what it does is given to it.
package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"stella-ops.org/stella/api"
)

// Agent is what can be asked of an agent.
type Agent struct {
	// Renew renews the certificate if it is due, or forced.
	Renew func(ctx context.Context, force bool) (*api.CertificateRenewal, error)
	// Status says how the agent is, without asking anybody else.
	Status func() *api.LocalStatus
}

// Serve answers at the socket until ctx ends. It replaces a socket that an agent
// has left behind; the caller sees to it that no other agent uses it. An error
// means that there is no socket.
func Serve(ctx context.Context, path string, a Agent) error {
	if err := removeSocket(path); err != nil {
		return fmt.Errorf("the local socket: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("the local socket: %w", err)
	}
	// On Windows the folder's access list says who may use it.
	if err := os.Chmod(path, 0o660); err != nil && runtime.GOOS != "windows" { //nolint:gosec // the agent's group may use it
		_ = l.Close() // it is of no use
		return fmt.Errorf("the local socket: %w", err)
	}
	srv := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("the local socket: %w", err)
	}
	return nil
}

// removeSocket removes a socket, and nothing else.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&os.ModeSocket == 0:
		return fmt.Errorf("%s is there and is no socket: it is left alone; give another path", path)
	}
	return os.Remove(path)
}

func (a Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "application/json", a.Status())
	})
	mux.HandleFunc("POST /v1/renew-certificate", func(w http.ResponseWriter, r *http.Request) {
		var req api.RenewalRequest
		if err := json.NewDecoder(io.LimitReader(r.Body, 4<<10)).Decode(&req); err != nil {
			refuse(w, http.StatusBadRequest, "malformed", "the body is no JSON object with an optional force, true or false")
			return
		}
		done, err := a.Renew(r.Context(), req.Force)
		if err != nil {
			refuse(w, http.StatusBadGateway, "not_renewed", err.Error())
			return
		}
		answer(w, http.StatusOK, "application/json", done)
	})
	return mux
}

func refuse(w http.ResponseWriter, status int, code, detail string) {
	answer(w, status, "application/problem+json", api.Problem{Status: status, Title: http.StatusText(status), Code: code, Detail: detail})
}

func answer(w http.ResponseWriter, status int, contentType string, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // whoever has left hears nothing
}
