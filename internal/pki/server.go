package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

type serverCert struct {
	cert  tls.Certificate
	renew time.Time
}

// serverKey is the key of all servers' certificates under an authority: it is
// derived from the intermediate's (HKDF, RFC 5869), so that all servers of an
// installation have it, over restarts and renewals, and who fetches something
// before it has any certificate (by curl, as installers are) can pin it. Who has
// the intermediate's key can make any certificate anyway.
func serverKey(intermediateKey []byte) (*ecdsa.PrivateKey, error) {
	for try := range 64 {
		raw, err := hkdf.Key(sha256.New, intermediateKey, nil, fmt.Sprintf("stella server key %d", try), 32)
		if err != nil {
			return nil, fmt.Errorf("server key: %w", err)
		}
		// One of four thousand million is no number below the curve's order.
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw); err == nil {
			return key, nil
		}
	}
	return nil, errors.New("server key: none can be derived")
}

// ServerPins are the SHA-256 of the servers' public keys (SubjectPublicKeyInfo),
// in base64, as curl's --pinnedpubkey takes them: of the key that is in use, and
// of the next one while a rotation is prepared.
func (a *Authority) ServerPins() []string {
	state := a.state.Load()
	pins := []string{pinOfKey(&state.active.serverKey.PublicKey)}
	for _, g := range state.all {
		if g != state.active && g.madeAt.After(state.active.madeAt) {
			pins = append(pins, pinOfKey(&g.serverKey.PublicKey))
		}
	}
	return pins
}

func pinOfKey(key *ecdsa.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "" // a key on P-256 can always be encoded
	}
	sum := sha256.Sum256(der)
	return base64.StdEncoding.EncodeToString(sum[:])
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
	priv := state.active.serverKey
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
