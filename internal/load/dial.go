package load

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"

	"stella-ops.org/stella/api"
)

// Patience of an agent with a server that does not answer: as a real one has.
const (
	handshakeTimeout = 10 * time.Second
	welcomeTimeout   = 20 * time.Second
	writeTimeout     = 10 * time.Second
)

// dialer makes the agents' connections. One configuration serves all: which
// certificate a handshake shows is found by its context, so that thousands of
// agents need no configuration each.
type dialer struct {
	url       *url.URL
	http1     *tls.Config
	http2     *tls.Config
	transport *http.Transport
}

type (
	identityKey struct{}
	underKey    struct{} // of where the TLS connection of a dial is left
)

func newDialer(server string, ca []byte) (*dialer, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is no server URL: give one as in https://stella.example.com:8443", server)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "443")
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/" // what is joined to no path at all would be relative
	d := &dialer{url: u}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the server's root is no certificate in PEM")
	}
	conf := func(protocol string) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: u.Hostname(), NextProtos: []string{protocol},
			GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
				id, ok := info.Context().Value(identityKey{}).(*Identity)
				if !ok {
					return nil, errors.New("load: a handshake without an identity")
				}
				return &id.cert, nil
			},
		}
	}
	d.http1, d.http2 = conf("http/1.1"), conf("h2")
	d.transport = &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.tls(ctx, d.http2) },
		// As real agents have it, for the server answers these pings.
		HTTP2:             &http.HTTP2Config{SendPingTimeout: 20 * time.Second, PingTimeout: 15 * time.Second},
		ForceAttemptHTTP2: true,
	}
	return d, nil
}

// tls opens the connection of the identity in ctx.
func (d *dialer) tls(ctx context.Context, conf *tls.Config) (*tls.Conn, error) {
	raw, err := (&net.Dialer{Timeout: handshakeTimeout}).DialContext(ctx, "tcp", d.url.Host)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, conf)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	if under, ok := ctx.Value(underKey{}).(**tls.Conn); ok {
		*under = conn
	}
	return conn, nil
}

// dialHTTP2 opens a connection for requests and streams of one agent, and returns
// the TLS connection under it.
func (d *dialer) dialHTTP2(ctx context.Context, id *Identity) (cc *http.ClientConn, under *tls.Conn, err error) {
	ctx = context.WithValue(context.WithValue(ctx, identityKey{}, id), underKey{}, &under)
	cc, err = d.transport.NewClientConn(ctx, "https", d.url.Host)
	if err == nil && under == nil {
		_ = cc.Close()
		return nil, nil, errors.New("load: net/http has made a connection without us")
	}
	return cc, under, err
}

// hangUp ends a connection without a word, as a lost one ends. So the ports of
// this machine, which a goodbye would keep busy for a minute, are free at once.
func hangUp(conn *tls.Conn) {
	if tcp, ok := conn.NetConn().(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // closed already otherwise
	}
	_ = conn.NetConn().Close()
}

// hopeless reports whether an agent's connection fails in a way that trying
// again does not mend.
func hopeless(err error) bool {
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return p.Status >= 400 && p.Status < 500 && p.Status != http.StatusRequestTimeout && p.Status != http.StatusConflict && p.Status != http.StatusTooManyRequests
	}
	switch connect.CodeOf(err) {
	case connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeFailedPrecondition, connect.CodeUnimplemented, connect.CodeInvalidArgument:
		return true
	default:
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	_, alert := errors.AsType[tls.AlertError](err)
	return alert
}
