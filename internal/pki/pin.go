package pki

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// PinnedConfig returns a TLS configuration for a client that knows nothing of
// a server but the pin of its root: the chain that the server presents must
// contain a root with that pin, and be good for the server's name under it.
// The chain is checked in full; only where trust comes from is different.
//
// now is the clock to check it by; got, when not nil, is called with the root
// once the chain is verified.
func PinnedConfig(pin [sha256.Size]byte, serverName string, now func() time.Time, got func(root *x509.Certificate)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		Time:       now,
		// The verification is in VerifyConnection, which also runs on
		// resumed sessions.
		InsecureSkipVerify: true, //nolint:gosec // verified against the pin below
		VerifyConnection: func(cs tls.ConnectionState) error {
			root, err := verifyPinned(pin, serverName, now(), cs.PeerCertificates)
			if err == nil && got != nil {
				got(root)
			}
			return err
		},
	}
}

// NotPinnedError says that a server presented a chain without a root of the pin: it
// is another server, or something in between ends TLS.
type NotPinnedError struct {
	// Leaf is the certificate that was presented for the server. It is of no trust.
	Leaf *x509.Certificate
}

// Error says so, and what to look at.
func (*NotPinnedError) Error() string {
	return "the server is not the one that made the token: no certificate that it presented has the token's pin; check the address, and that nothing between here and there ends TLS"
}

func verifyPinned(pin [sha256.Size]byte, serverName string, now time.Time, chain []*x509.Certificate) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("the server presented no certificate")
	}
	if serverName == "" {
		return nil, errors.New("the server's address names no host") // Verify would check no name then
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	var root *x509.Certificate
	for _, c := range chain[1:] {
		have := PinOf(c)
		if c.IsCA && subtle.ConstantTimeCompare(have[:], pin[:]) == 1 {
			root = c
			roots.AddCert(c)
			continue
		}
		inter.AddCert(c)
	}
	if root == nil {
		return nil, &NotPinnedError{Leaf: chain[0]}
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: serverName, Roots: roots, Intermediates: inter, CurrentTime: now})
	if err != nil {
		return nil, fmt.Errorf("the server's certificate: %w", err)
	}
	return root, nil
}
