package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/pki"
)

// root is an authority whose servers present it, as a Stella server does.
type root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pin  [sha256.Size]byte
}

func newRoot(t *testing.T, name string) *root {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-10, 0, 0), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	r := &root{key: key}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err == nil {
		r.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.pin = pki.PinOf(r.cert)
	return r
}

// serve starts a server with a certificate for a name, good from and to then. It
// speaks TLS up to a version.
func (r *root) serve(t *testing.T, name string, from, to time.Time, most uint16) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to, DNSNames: []string{name}}
	if ip := net.ParseIP(name); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, key.Public(), r.key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusGone)
		_, _ = io.WriteString(w, `{"title":"Gone","status":410,"code":"token_used","detail":"the token was used"}`)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der, r.cert.Raw}, PrivateKey: key}}, MaxVersion: most}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// listen starts a listener whose connections get to a function each.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().String()
}

// closedPort is where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// answers is a listener that says a text to whatever comes, and closes.
func answers(t *testing.T, text string) string {
	t.Helper()
	return listen(t, func(c net.Conn) {
		defer c.Close()
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, text)
	})
}

// Every way in which a server is not reached is told in words of its own, by the
// errors that real sockets make.
func TestDiagnoses(t *testing.T) {
	t.Parallel()
	ours, others := newRoot(t, "Ours"), newRoot(t, "Middlebox CA")
	now := time.Now()
	day := 24 * time.Hour
	good := ours.serve(t, "127.0.0.1", now.Add(-day), now.Add(day), tls.VersionTLS13)
	ended := ours.serve(t, "127.0.0.1", now.Add(-20*day), now.Add(-10*day), tls.VersionTLS13)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	silent := listen(t, func(c net.Conn) { // until the other end has gone
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
	closed := closedPort(t)
	proxy := func(at string) *url.URL {
		return &url.URL{Scheme: "http", Host: at, User: url.UserPassword("me", "geheim")}
	}
	for name, tc := range map[string]struct {
		server     string
		proxy      *url.URL
		serverTime time.Time
		byRoots    bool
		want       []string
		untrusted  bool
	}{
		"DNS":                {server: "https://stella.invalid:8443", want: []string{`"stella.invalid"`, "DNS"}},
		"closed port":        {server: "https://" + closed, want: []string{"connection to " + closed + " is refused", "firewall"}},
		"no route":           {server: "https://255.255.255.255:8443", want: []string{"there is no connection to 255.255.255.255:8443", "routes"}},
		"silence":            {server: "https://" + silent, want: []string{silent + " did not answer in time", "firewall"}},
		"closed at once":     {server: "https://" + answers(t, ""), want: []string{"was closed by the other end"}},
		"HTTP":               {server: strings.Replace(plain.URL, "http:", "https:", 1), want: []string{"does not speak TLS:", "8443"}, untrusted: true},
		"SSH":                {server: "https://" + answers(t, "SSH-2.0-OpenSSH_9.9\r\n"), want: []string{"does not speak TLS:"}, untrusted: true},
		"TLS 1.2":            {server: ours.serve(t, "127.0.0.1", now.Add(-day), now.Add(day), tls.VersionTLS12), want: []string{"does not speak TLS 1.3", "ends TLS"}, untrusted: true},
		"another pin":        {server: others.serve(t, "127.0.0.1", now.Add(-day), now.Add(day), tls.VersionTLS13), want: []string{"not the server that made the token", "CN=Middlebox CA", "ends TLS"}, untrusted: true},
		"another root":       {server: others.serve(t, "127.0.0.1", now.Add(-day), now.Add(day), tls.VersionTLS13), byRoots: true, want: []string{"not the server that this agent knows", "CN=Middlebox CA", "anew"}, untrusted: true},
		"another name":       {server: ours.serve(t, "stella.example.com", now.Add(-day), now.Add(day), tls.VersionTLS13), want: []string{"for other names", `"stella.example.com"`, "--advertise"}, untrusted: true},
		"ended":              {server: ended, want: []string{"is good from", "this machine's clock says " + now.UTC().Format("2006-01-02"), "set this machine's clock right (`timedatectl", "or the server's"}},
		"clock ahead":        {server: ended, serverTime: now.Add(-15 * day), want: []string{"this machine's clock is 15 days ahead of the server's", "set this machine's clock right (`timedatectl"}},
		"clock behind":       {server: ours.serve(t, "127.0.0.1", now.Add(time.Hour), now.Add(day), tls.VersionTLS13), serverTime: now.Add(90 * time.Minute), byRoots: true, want: []string{"clock is 1h30m0s behind the server's"}},
		"the server's":       {server: ended, serverTime: now, want: []string{"by the server's own clock it is", "set the server's clock right"}},
		"no proxy there":     {server: good, proxy: proxy(closed), want: []string{"the proxy http://" + closed, "cannot be reached (connection refused)", "NO_PROXY=127.0.0.1"}},
		"proxy wants a user": {server: good, proxy: proxy(answers(t, "HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n")), want: []string{"lets nobody through to " + strings.TrimPrefix(good, "https://"), "(it answered 407 Proxy Authentication Required)", "a user and a password"}},
		"proxy forbids":      {server: good, proxy: proxy(answers(t, "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")), want: []string{"it answered 403", "let the agent through"}},
		"behind a proxy":     {server: "https://127.0.0.1:1", proxy: proxy(answers(t, "HTTP/1.1 200 OK\r\n\r\nno TLS")), want: []string{"was closed by the other end", "through the proxy http://"}},
		"the server's word":  {server: good, want: []string{"the token was used"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := pki.PinnedConfig(ours.pin, "127.0.0.1", time.Now, nil)
			if tc.byRoots {
				cfg = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool()}
				cfg.RootCAs.AddCert(ours.cert)
			}
			tr := newTransport(cfg, 500*time.Millisecond, false)
			tr.Proxy = http.ProxyURL(tc.proxy) // the environment's is never for loopback addresses
			defer tr.CloseIdleConnections()
			err := postRegistration(t.Context(), &http.Client{Transport: tr}, tc.server, "reg_secret_pin", &api.RegisterRequest{}, &api.RegisterResponse{})
			if err == nil {
				t.Fatal("it worked")
			}
			by := approach{server: tc.server, proxy: tc.proxy, now: now, serverTime: tc.serverTime}
			why := by.explain(err)
			for _, want := range tc.want {
				if !strings.Contains(why.Error(), want) {
					t.Errorf("%q is not in: %v\n(of %v)", want, why, err)
				}
			}
			for _, secret := range []string{"geheim", "reg_secret"} {
				if strings.Contains(why.Error(), secret) {
					t.Errorf("a secret is in: %v", why)
				}
			}
			d, _ := errors.AsType[*diagnosis](why)
			if (d != nil && d.untrusted) != tc.untrusted {
				t.Errorf("untrusted: %t, want %t: %v", !tc.untrusted, tc.untrusted, why)
			}
			if !errors.Is(by.explain(why), why) {
				t.Error("what is explained is explained again")
			}
		})
	}
}

// What says all by itself stays as it is.
func TestWhatIsNotExplained(t *testing.T) {
	t.Parallel()
	by := toward("https://stella.example.com", time.Now())
	for _, err := range []error{nil, context.Canceled, errMissed, &api.Problem{Status: 503, Detail: "the database is away"}} {
		if got := by.explain(err); !errors.Is(got, err) || got != nil && got.Error() != err.Error() {
			t.Errorf("%v became %v", err, got)
		}
	}
	if got := by.at(); got != "stella.example.com:443" {
		t.Errorf("without a port: %s", got)
	}
	if !refused(&api.Problem{Status: 410}) || refused(&api.Problem{Status: 429}) || refused(&api.Problem{Status: 503}) || refused(errMissed) {
		t.Error("what is final is not told from what may pass")
	}
}
