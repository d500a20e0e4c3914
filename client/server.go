package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"stella-ops.org/stella/api"
)

// Health asks whether the server runs; nil means yes.
func (c *Client) Health(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodGet, path: "/healthz"})
}

// Ready asks whether the server takes requests now; nil means yes. It asks
// once: who waits for a server asks again.
func (c *Client) Ready(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodGet, path: "/readyz"})
}

// WhoAmI returns whose token the client has.
func (c *Client) WhoAmI(ctx context.Context) (*api.WhoAmI, error) {
	return get[api.WhoAmI](ctx, c, "/api/v1/whoami", nil)
}

// Root is the root certificate of a server's own authority.
type Root struct {
	PEM []byte
	// Pin is the SHA-256 of the certificate's public key
	// (SubjectPublicKeyInfo), which registration tokens carry too.
	Pin [sha256.Size]byte
	// Subject and NotAfter are for people.
	Subject  string
	NotAfter time.Time
}

// FetchRoot asks a server that is not trusted yet for the root certificate of
// its own authority, and checks that the server's certificate is signed under
// it. What it returns is only a claim: compare its pin with one that came by
// another way before you trust it. No token is sent.
func FetchRoot(ctx context.Context, serverURL string) (*Root, error) {
	base, err := baseURL(serverURL)
	if err != nil {
		return nil, err
	}
	c := &Client{base: base, userAgent: "stella-go-client", http: newHTTPClient(&tls.Config{
		MinVersion: tls.VersionTLS13,
		// Checked below, against the root that the answer brings.
		InsecureSkipVerify: true, //nolint:gosec // see above
	})}
	defer c.Close()
	var root *Root
	err = retry(ctx, true, func() error {
		res, err := c.send(ctx, call{method: http.MethodGet, path: "/pki/ca.pem"}, nil, "application/x-pem-file")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		if err != nil {
			return c.connectError(ctx, err)
		}
		root, err = checkRoot(base, text, res.TLS)
		return err
	})
	return root, err
}

// CRL returns the list of revoked certificates (RFC 5280), in DER, signed by the
// intermediate of an authority; of the one that issues when none is named.
func (c *Client) CRL(ctx context.Context, authority string) ([]byte, error) {
	query := url.Values{}
	if authority != "" {
		query.Set("authority", authority)
	}
	return c.bytes(ctx, call{method: http.MethodGet, path: "/pki/crl", query: query}, "application/pkix-crl")
}

// Metrics returns the server's metrics, in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.bytes(ctx, call{method: http.MethodGet, path: "/metrics"}, "text/plain")
}

// bytes makes a call that may be repeated and whose answer is no JSON.
func (c *Client) bytes(ctx context.Context, k call, kind string) (body []byte, err error) {
	err = retry(ctx, true, func() error {
		res, err := c.send(ctx, k, nil, kind)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer)); err != nil {
			return c.connectError(ctx, err)
		}
		return nil
	})
	return body, err
}

// ParseRoot reads a root certificate in PEM.
func ParseRoot(text []byte) (*Root, error) {
	block, _ := pem.Decode(bytes.TrimSpace(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("there is no certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, errors.New("the certificate is not that of an authority")
	}
	return &Root{
		PEM:     pem.EncodeToMemory(block),
		Pin:     sha256.Sum256(cert.RawSubjectPublicKeyInfo),
		Subject: cert.Subject.String(), NotAfter: cert.NotAfter,
	}, nil
}

// HasPin compares in constant time.
func (r *Root) HasPin(pin [sha256.Size]byte) bool {
	return subtle.ConstantTimeCompare(r.Pin[:], pin[:]) == 1
}

func checkRoot(base string, text []byte, state *tls.ConnectionState) (*Root, error) {
	root, err := ParseRoot(text)
	if err != nil {
		return nil, fmt.Errorf("what %s/pki/ca.pem answers is no root certificate: %w", base, err)
	}
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil, fmt.Errorf("%s presented no certificate", base)
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(root.PEM)
	for _, cert := range state.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: u.Hostname(), Roots: roots, Intermediates: between})
	if err != nil {
		return nil, explain(base, err)
	}
	return root, nil
}
