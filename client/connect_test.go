package client

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// Each way in which a server is not reached says what happened and what to do.
func TestConnectErrors(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t), newAuthority(t)
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })

	free, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := "https://" + free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewServer(ok)
	t.Cleanup(plain.Close)
	old := httptest.NewUnstartedServer(ok)
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ours.issue(t, "127.0.0.1", time.Now().Add(time.Hour))}}
	old.StartTLS()
	t.Cleanup(old.Close)

	for name, tc := range map[string]struct {
		url        string
		what, hint string
		untrusted  bool
	}{
		"refused":   {refused, "nothing listens at " + refused, "stella server", false},
		"authority": {others.serve(t, ok).URL, "signed by an authority that is not trusted", "stella login", true},
		"name":      {ours.serveWith(t, ours.issue(t, "10.1.2.3", time.Now().Add(time.Hour)), ok).URL, "for other names", "10.1.2.3", true},
		"expired":   {ours.serveWith(t, ours.issue(t, "127.0.0.1", time.Now().Add(-time.Hour)), ok).URL, "not valid now", "clock", true},
		"no TLS":    {strings.Replace(plain.URL, "http:", "https:", 1), "does not speak TLS", "8443", true},
		"old TLS":   {old.URL, "no TLS 1.3", "ends TLS", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := New(Options{URL: tc.url, Token: "stl_secret", CACert: ours.pem})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			// Ready asks once, so that this does not wait for retries.
			err = c.Ready(t.Context())
			e, ok := errors.AsType[*ConnectError](err)
			if !ok {
				t.Fatalf("%T: %v", err, err)
			}
			if !strings.Contains(e.What, tc.what) || !strings.Contains(e.Hint, tc.hint) || e.Untrusted != tc.untrusted {
				t.Errorf("what: %s\nhint: %s\nuntrusted: %v", e.What, e.Hint, e.Untrusted)
			}
			if strings.Contains(err.Error(), "stl_secret") {
				t.Error("the error shows the token")
			}
		})
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want string
	}{
		{&net.DNSError{Err: "no such host", Name: "host", IsNotFound: true}, "the name of the server https://host cannot be resolved"},
		{&net.DNSError{Err: "i/o timeout", Name: "host", IsTimeout: true}, "DNS does not answer"},
		{os.ErrDeadlineExceeded, "did not answer in time"},
		{context.DeadlineExceeded, "did not answer in time"},
		{errors.New("network is unreachable"), "cannot be reached (network is unreachable)"},
	} {
		if have := explain("https://host", tc.err).Error(); !strings.Contains(have, tc.want) {
			t.Errorf("%v: %s", tc.err, have)
		}
	}
}

func TestFetchRoot(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t), newAuthority(t)
	serving := func(pem []byte) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Error("a token was sent to a server that is not trusted")
			}
			if r.URL.Path != "/pki/ca.pem" {
				t.Errorf("path: %s", r.URL.Path)
			}
			_, _ = w.Write(pem)
		})
	}
	root, err := FetchRoot(t.Context(), ours.serve(t, serving(ours.pem)).URL)
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(ours.cert.RawSubjectPublicKeyInfo); !root.HasPin(want) || root.HasPin([32]byte{}) {
		t.Errorf("pin: %x", root.Pin)
	}
	if root.Subject != "CN=Test root" || string(root.PEM) != string(ours.pem) {
		t.Errorf("root: %+v", root)
	}

	// A root under which the server's own certificate is not signed would be
	// trusted for nothing.
	_, err = FetchRoot(t.Context(), ours.serve(t, serving(others.pem)).URL)
	if e, ok := errors.AsType[*ConnectError](err); !ok || !e.Untrusted {
		t.Errorf("another's root: %v", err)
	}
	if _, err = FetchRoot(t.Context(), ours.serve(t, serving([]byte("hello"))).URL); err == nil || !strings.Contains(err.Error(), "no root certificate") {
		t.Errorf("no root: %v", err)
	}
}
