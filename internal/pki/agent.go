package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/url"
	"strings"
	"time"

	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/seal"
)

var _ enroll.Issuer = (*Authority)(nil)

// ParseCSR checks a certificate request (RFC 2986, in PEM): that it is one,
// that its key is strong enough, and that whoever made it holds the key. Names
// and extensions that it asks for are ignored.
func (a *Authority) ParseCSR(text string) (*enroll.Request, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || strings.TrimSpace(string(rest)) != "" {
		return nil, fault.InvalidField("body.csr", "give one PKCS#10 request in PEM, as `openssl req -new` makes it")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fault.InvalidField("body.csr", "it does not parse as a PKCS#10 request")
	}
	if err := goodKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fault.InvalidField("body.csr", "its signature does not fit its key")
	}
	return &enroll.Request{DER: block.Bytes, PublicKeyHash: keyHash(csr.RawSubjectPublicKeyInfo)}, nil
}

// KeyHash is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo),
// in hex.
func KeyHash(c *x509.Certificate) string { return keyHash(c.RawSubjectPublicKeyInfo) }

func keyHash(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

func goodKey(key any) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 3072 || n > 8192 {
			return fault.InvalidField("body.csr", "an RSA key of %d bits is not taken: use 3072 to 8192 bits, or better ECDSA P-256", n)
		}
		return nil
	}
	return fault.InvalidField("body.csr", "its kind of key is not taken: use ECDSA P-256 or P-384, Ed25519, or RSA of 3072 bits and more")
}

// CheckEncryptionKey checks a public key in base64 that tasks are to be sealed
// to (RFC 9180): that it is one of a KEM that is spoken.
func (a *Authority) CheckEncryptionKey(text string) error {
	if err := seal.CheckPublicKey(text); err != nil {
		return fault.InvalidField("body.encryptionPublicKey",
			"%v: give a public key of MLKEM768-X25519 or X25519 as RFC 9180 serializes it, in base64, or leave it out", err)
	}
	return nil
}

// IssueAgent signs a client certificate for an agent, good for a time. The
// subject and the SPIFFE id are the server's alone. It begins a little in the
// past, for clocks that differ; a short one by a tenth of its life, so that an
// agent can tell from it when two thirds of its life are over.
func (a *Authority) IssueAgent(req *enroll.Request, tenant, agentID string, life time.Duration) (*enroll.Issued, error) {
	csr, err := x509.ParseCertificateRequest(req.DER)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for agent %s: %w", agentID, err)
	}
	now := a.now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: agentID},
		URIs:         []*url.URL{a.spiffeID(tenant, agentID)},
		NotBefore:    now.Add(-min(backdate, life/10)), NotAfter: now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	state := a.state.Load()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, state.active.intermediate, csr.PublicKey, state.active.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for agent %s: %w", agentID, err)
	}
	return &enroll.Issued{
		ChainPEM: certPEM(der) + certPEM(state.active.intermediate.Raw), Trust: state.trust, Fingerprint: Fingerprint(der), Serial: tmpl.SerialNumber.Text(16), PublicKeyHash: req.PublicKeyHash,
		NotBefore: tmpl.NotBefore, NotAfter: tmpl.NotAfter,
	}, nil
}

func (a *Authority) spiffeID(tenant, agentID string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: a.trustDomain, Path: "/tenant/" + tenant + "/agent/" + agentID}
}

// AgentOf returns which agent a verified client certificate names.
func (a *Authority) AgentOf(cert *x509.Certificate) (tenant, agentID string, ok bool) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" || cert.URIs[0].Host != a.trustDomain {
		return "", "", false
	}
	parts := strings.Split(cert.URIs[0].Path, "/")
	if len(parts) != 5 || parts[1] != "tenant" || parts[3] != "agent" {
		return "", "", false
	}
	return parts[2], parts[4], true
}

// VerifyAgent checks a client's certificate as the handshake would: that this
// authority issued it to an agent. One that has ended passes, so that the agent
// is told so in words, and may recover; whoever lets an agent in must look at
// the time himself.
func (a *Authority) VerifyAgent(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return nil
	}
	leaf, at := cs.PeerCertificates[0], a.now()
	if at.After(leaf.NotAfter) {
		at = leaf.NotAfter
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: a.ClientCAs(), Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	return nil
}

// Issued is what is known of an agent's certificate from itself alone. Under which
// trust it was issued, nobody knows.
func Issued(cert *x509.Certificate) *enroll.Issued {
	return &enroll.Issued{
		Fingerprint: Fingerprint(cert.Raw), Serial: cert.SerialNumber.Text(16), PublicKeyHash: KeyHash(cert),
		NotBefore: cert.NotBefore, NotAfter: cert.NotAfter,
	}
}

// Fingerprint is the SHA-256 of a certificate's DER, in hex.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
