package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"stella-ops.org/stella/api"
)

// serveLocal answers at a socket, as an agent would.
func serveLocal(t *testing.T, handle http.HandlerFunc) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: handle}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) }) // until it is closed
	t.Cleanup(func() {
		_ = srv.Close()
		serving.Wait()
	})
	return socket
}

func TestLocal(t *testing.T) {
	t.Parallel()
	local := NewLocal(serveLocal(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET /v1/status":
			_, _ = io.WriteString(w, `{"agentId":"a1","connected":true}`)
		case "POST /v1/renew-certificate":
			var req api.RenewalRequest
			if err := json.NewDecoder(r.Body).Decode(&req); err != nil || !req.Force {
				w.WriteHeader(http.StatusBadGateway)
				_, _ = io.WriteString(w, `{"status":502,"code":"not_renewed","detail":"the server is away"}`)
				return
			}
			_, _ = io.WriteString(w, `{"renewed":true,"serial":"ab"}`)
		default:
			t.Errorf("%s %s", r.Method, r.URL.Path)
		}
	}))
	if s, err := local.Status(t.Context()); err != nil || s.AgentID != "a1" || !s.Connected {
		t.Errorf("%+v, %v", s, err)
	}
	if done, err := local.RenewCertificate(t.Context(), true); err != nil || !done.Renewed || done.Serial != "ab" {
		t.Errorf("%+v, %v", done, err)
	}
	_, err := local.RenewCertificate(t.Context(), false)
	if p, ok := errors.AsType[*api.Problem](err); !ok || p.Code != "not_renewed" || p.Detail != "the server is away" {
		t.Errorf("a refusal: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = local.Status(ended)
	if _, blamed := errors.AsType[*LocalError](err); blamed || !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has left: %v", err)
	}
}

// What keeps the agent from answering is told apart, by types and in words.
func TestLocalErrors(t *testing.T) {
	t.Parallel()
	left := filepath.Join(t.TempDir(), "left") // by an agent that was killed
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	says := func(status int, text string) string {
		return serveLocal(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		})
	}
	for name, tc := range map[string]struct{ socket, want string }{
		"no socket":      {filepath.Join(t.TempDir(), "none"), "no such file"},
		"killed":         {left, "refused"},
		"older":          {says(http.StatusNotFound, "404 page not found\n"), "update the agent"},
		"broken":         {says(http.StatusInternalServerError, ""), "500"},
		"something else": {says(http.StatusOK, "<html>"), "not that of an agent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := NewLocal(tc.socket).Status(t.Context())
			e, ok := errors.AsType[*LocalError](err)
			if !ok || e.Socket != tc.socket || e.Denied() || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "does not answer at "+tc.socket) {
				t.Errorf("%v", err)
			}
		})
	}
	denied := &LocalError{Socket: "/run/stella-agent/agent.sock", Err: &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}}
	if !denied.Denied() || !strings.Contains(denied.Error(), "/run/stella-agent/agent.sock may not be opened by this user") {
		t.Errorf("%v", denied)
	}
}
