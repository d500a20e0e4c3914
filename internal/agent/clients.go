package agent

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// clients are the HTTP clients by which the agent reaches its server: they
// present its certificate and trust its server's authority alone. They have no
// timeout, for they carry streams. They are safe for concurrent use.
type clients struct {
	dir       string
	handshake time.Duration
	now       func() time.Time

	plain     *http.Client // HTTP/2
	upgrading *http.Client // HTTP/1.1, which a WebSocket needs
}

func newClients(dir string, handshake time.Duration, now func() time.Time) (*clients, error) {
	c := &clients{dir: dir, handshake: handshake, now: now}
	plain, upgrading := &renewable{}, &renewable{}
	c.plain, c.upgrading = &http.Client{Transport: plain}, &http.Client{Transport: upgrading}
	return c, c.renew()
}

// renew has new connections made with the key, the certificate and the roots
// that the data folder has now. What is under way goes on over the old ones.
func (c *clients) renew() error {
	cfg, cert, err := c.tlsConfig()
	if err != nil {
		return err
	}
	for client, http2 := range map[*http.Client]bool{c.plain: true, c.upgrading: false} {
		next := &presented{client: &http.Client{Transport: newTransport(cfg.Clone(), c.handshake, http2)}, cert: cert, certificate: thumbprint(cert)}
		client.Transport.(*renewable).use(next) //nolint:errcheck // newClients has made it
	}
	return nil
}

// current returns what gives one of the clients as it is now, with the certificate
// that its connections show, whatever is renewed meanwhile.
func (*clients) current(client *http.Client) func() (*http.Client, *tls.Certificate) {
	return func() (*http.Client, *tls.Certificate) {
		now := client.Transport.(*renewable).current.Load() //nolint:errcheck // newClients has made it
		return now.client, now.cert
	}
}

// present returns what plain is now, for good: requests that belong together,
// because of a token that is bound to a certificate, must not be parted by a
// renewal.
func (c *clients) present() *presented {
	return c.plain.Transport.(*renewable).current.Load() //nolint:errcheck // newClients has made it
}

// presented is a client whose requests all present the same certificate.
type presented struct {
	client *http.Client
	cert   *tls.Certificate
	// certificate is its thumbprint as tokens have it (RFC 8705, x5t#S256).
	certificate string
}

func (c *clients) tlsConfig() (*tls.Config, *tls.Certificate, error) {
	ca, err := os.ReadFile(filepath.Join(c.dir, caFile))
	if err != nil {
		return nil, nil, fmt.Errorf("identity: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, nil, fmt.Errorf("identity: %s holds no certificate", filepath.Join(c.dir, caFile))
	}
	credential, err := loadCredential(c.dir)
	if err != nil {
		return nil, nil, err
	}
	// The server knows the issuer, which would cost it memory for each agent
	// that is connected.
	credential.Certificate = credential.Certificate[:1]
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Time: c.now,
		// Given even when the server does not name its issuer.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return credential, nil },
	}, credential, nil
}

// newTransport makes connections by a TLS configuration, which is its own from then
// on. Each step until one stands may take as long as the handshake.
func newTransport(cfg *tls.Config, handshake time.Duration, http2 bool) *http.Transport {
	if !http2 {
		cfg.NextProtos = []string{"http/1.1"}
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		OnProxyConnectResponse: throughProxy,
		DialContext:            (&net.Dialer{Timeout: handshake}).DialContext,
		ForceAttemptHTTP2:      http2,
		TLSHandshakeTimeout:    handshake,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           2,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 20 * time.Second, PingTimeout: 15 * time.Second},
		TLSClientConfig:        cfg,
	}
}

// thumbprint is a certificate's, as tokens have it (RFC 8705, x5t#S256).
func thumbprint(cert *tls.Certificate) string {
	sum := sha256.Sum256(cert.Certificate[0])
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// renewable is a transport that can be replaced while it is in use.
type renewable struct {
	current, before atomic.Pointer[presented]
}

// RoundTrip implements http.RoundTripper.
func (r *renewable) RoundTrip(req *http.Request) (*http.Response, error) {
	return r.current.Load().client.Transport.RoundTrip(req)
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (r *renewable) CloseIdleConnections() {
	for _, p := range []*presented{r.current.Load(), r.before.Load()} {
		if p != nil {
			p.client.CloseIdleConnections()
		}
	}
}

// use takes another transport. The one before keeps its connections for a
// little longer: a link that polls goes on over them until it is handed over.
// They are closed when they have been idle for their time, or by the next one.
func (r *renewable) use(next *presented) {
	if done := r.before.Swap(r.current.Swap(next)); done != nil {
		done.client.CloseIdleConnections()
	}
}
