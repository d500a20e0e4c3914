package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"strings"
	"time"
)

type serverCert struct {
	cert  tls.Certificate
	renew time.Time
}

// ServerCertificate returns a certificate for a server of the given names (DNS
// names and IP addresses), made when it is first asked for and renewed at two
// thirds of its life. Its chain has the roots in it, so that an agent that
// knows nothing but a root's pin can check it.
func (a *Authority) ServerCertificate(names []string) (*tls.Certificate, error) {
	now := a.now()
	key := strings.Join(names, ",")
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.servers[key]; c != nil && now.Before(c.renew) {
		return &c.cert, nil
	}
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "Stella server"},
		NotBefore:    now.Add(-serverBackdate), NotAfter: now.Add(serverLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	state := a.state.Load()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, state.active.intermediate, priv.Public(), state.active.key)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	c := &serverCert{
		cert:  tls.Certificate{Certificate: [][]byte{der}, PrivateKey: priv, Leaf: leaf},
		renew: now.Add(serverLife * 2 / 3),
	}
	for _, above := range state.presented() {
		c.cert.Certificate = append(c.cert.Certificate, above.Raw)
	}
	a.servers[key] = c
	return &c.cert, nil
}
