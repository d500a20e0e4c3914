package agent

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// What belongs together goes on with one certificate, over the connections that
// it has, while everything else is renewed; and they are closed some time.
func TestClientsThroughARenewal(t *testing.T) {
	t.Parallel()
	opened, closed := make(chan net.Conn, 10), make(chan net.Conn, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
		_, _ = io.WriteString(w, base64.RawURLEncoding.EncodeToString(sum[:]))
	}))
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.Config.ConnState = func(c net.Conn, s http.ConnState) {
		switch s { //nolint:exhaustive // the others are of no interest
		case http.StateNew:
			opened <- c
		case http.StateClosed:
			closed <- c
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	shown := func(c *http.Client) string {
		t.Helper()
		res, err := c.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}

	dir := t.TempDir()
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, caFile), root, 0o600); err != nil {
		t.Fatal(err)
	}
	newCredential(t, dir)
	c, err := newClients(dir, time.Minute, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.plain.CloseIdleConnections)
	first := c.present()
	if shown(first.client) != first.certificate || shown(c.plain) != first.certificate {
		t.Error("another certificate is presented than is said")
	}
	over := <-opened
	renew := func() {
		t.Helper()
		newCredential(t, dir)
		if err := c.renew(); err != nil {
			t.Fatal(err)
		}
	}
	renew()
	second := c.present()
	if second.certificate == first.certificate || shown(c.plain) != second.certificate || shown(c.upgrading) != second.certificate {
		t.Error("the old certificate is presented after the renewal")
	}
	if shown(first.client) != first.certificate {
		t.Error("what was begun with one certificate goes on with another")
	}
	if n := len(opened); n != 2 { // plain and upgrading
		t.Errorf("%d connections were opened after the renewal, want 2", n)
	}
	if len(closed) != 0 {
		t.Error("a connection was closed that somebody uses")
	}
	renew()
	if <-closed != over {
		t.Error("another connection was closed than the first")
	}
}

// A link that polls keeps to the certificate that its token is bound to, also
// when the agent has the next one already.
func TestPollingLinkKeepsItsCertificate(t *testing.T) {
	t.Parallel()
	logs := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
		certificate := base64.RawURLEncoding.EncodeToString(sum[:])
		switch path.Base(r.URL.Path) {
		case "token":
			_ = json.NewEncoder(w).Encode(api.AgentToken{Token: certificate, ExpiresIn: 3600})
		case "logs":
			logs++
			if r.Header.Get("Authorization") != "Bearer "+certificate {
				t.Errorf("request %d: the token belongs to another certificate", logs)
			}
			_ = json.NewEncoder(w).Encode(api.LogResponse{LastSeq: int64(logs)})
		default:
			_ = json.NewEncoder(w).Encode(api.HeartbeatResponse{IntervalMs: 1000})
		}
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	dir := t.TempDir()
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, caFile), root, 0o600); err != nil {
		t.Fatal(err)
	}
	newCredential(t, dir)
	clients, err := newClients(dir, time.Minute, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(clients.plain.CloseIdleConnections)
	a := &Agent{Config: Config{Transport: "poll", PollInterval: time.Hour}}
	if a.boot, err = beginBoot(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	c, err := newConnector(a, &identity{ServerURL: server.URL, AgentID: "a"}, clients, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for links := range 2 { // the second one has the next certificate
		conn, err := c.carriers[0].Dial(t.Context(), &stellav1.Hello{})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 2 {
			chunk := &stellav1.LogChunk{Ref: &stellav1.TaskRef{TaskId: "t", Attempt: 1}}
			if err := conn.Send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_LogChunk{LogChunk: chunk}}); err != nil {
				t.Fatal(err)
			}
			newCredential(t, dir)
			if err := clients.renew(); err != nil {
				t.Fatal(err)
			}
		}
		if logs != 2*(links+1) {
			t.Errorf("%d requests came, over %d links", logs, links+1)
		}
	}
}

// newCredential puts a new key and a certificate for it into a data folder.
func newCredential(t *testing.T, dir string) {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := storeCredential(dir, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))); err != nil {
		t.Fatal(err)
	}
}
