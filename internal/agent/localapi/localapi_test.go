package localapi_test

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
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent/localapi"
)

func serve(t *testing.T, path string, a localapi.Agent) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- localapi.Serve(ctx, path, a) }()
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("unix", path)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
	return func() error {
		cancel()
		return <-done
	}
}

func ask(t *testing.T, path, body string) (int, string) {
	t.Helper()
	return over(t, path, func(c *http.Client) (*http.Response, error) {
		return c.Post("http://agent/v1/renew-certificate", "application/json", strings.NewReader(body))
	})
}

// over makes a request over a socket.
func over(t *testing.T, path string, do func(*http.Client) (*http.Response, error)) (int, string) {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	defer tr.CloseIdleConnections()
	res, err := do(&http.Client{Transport: tr})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func TestServe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	agent := localapi.Agent{Renew: func(_ context.Context, force bool) (*api.CertificateRenewal, error) {
		if !force {
			return nil, errors.New("the server is away")
		}
		return &api.CertificateRenewal{Renewed: true, Serial: "ab"}, nil
	}}
	stop := serve(t, path, agent)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	status, body := ask(t, path, `{"force":true}`)
	var done api.CertificateRenewal
	if err := json.Unmarshal([]byte(body), &done); status != http.StatusOK || err != nil || !done.Renewed || done.Serial != "ab" {
		t.Errorf("%d %s", status, body)
	}
	for body, want := range map[string]string{"{}": "the server is away", "": "no JSON", "[": "no JSON", `{"force":"yes"}`: "no JSON", strings.Repeat(" ", 1<<20): "no JSON"} {
		if status, said := ask(t, path, body); status < 400 || !strings.Contains(said, want) {
			t.Errorf("%.20q: %d %s", body, status, said)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket was left: %v", err)
	}
}

// Who asks how the agent is gets an answer while something else takes its time.
func TestStatusWhileARenewalHangs(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	renewing, goOn := make(chan struct{}), make(chan struct{})
	stop := serve(t, path, localapi.Agent{
		Renew: func(context.Context, bool) (*api.CertificateRenewal, error) {
			close(renewing)
			<-goOn
			return &api.CertificateRenewal{}, nil
		},
		Status: func() *api.LocalStatus { return &api.LocalStatus{AgentID: "a1", Connected: true} },
	})
	renewed := make(chan int, 1)
	go func() {
		status, _ := ask(t, path, "{}")
		renewed <- status
	}()
	<-renewing
	status, body := over(t, path, func(c *http.Client) (*http.Response, error) { return c.Get("http://agent/v1/status") })
	var s api.LocalStatus
	if err := json.Unmarshal([]byte(body), &s); status != http.StatusOK || err != nil || s.AgentID != "a1" || !s.Connected {
		t.Errorf("%d %s, %v", status, body, err)
	}
	close(goOn)
	if status := <-renewed; status != http.StatusOK {
		t.Errorf("the renewal: %d", status)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// What an agent that was killed has left is replaced; what is no socket is not.
func TestWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	left := filepath.Join(dir, "left")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	stop := serve(t, left, localapi.Agent{})
	if err := stop(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := localapi.Serve(t.Context(), file, localapi.Agent{}); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file is in the way: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "mine" {
		t.Errorf("the file is %q, %v", text, err)
	}
	if err := localapi.Serve(t.Context(), filepath.Join(dir, strings.Repeat("x", 200)), localapi.Agent{}); err == nil {
		t.Error("a path that is too long is taken")
	}
}
