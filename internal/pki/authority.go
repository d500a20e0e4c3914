// Package pki is the installation's certificate authority: a root, which every
// agent trusts and a registration token pins, and an intermediate, which signs
// the certificates of servers and agents.
//
// All key material is kept as one sealed bundle in the store, so that several
// servers share it and none can see half of it. The package knows no store:
// it asks for two small functions of one.
package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"
)

// Lives of certificates. Validity begins a little in the past, for clocks
// that differ.
const (
	rootLife         = 20 * 365 * 24 * time.Hour
	intermediateLife = 5 * 365 * 24 * time.Hour
	serverLife       = 90 * 24 * time.Hour
	backdate         = time.Minute
)

// KeyStore keeps sealed key material by name.
type KeyStore interface {
	// Key returns nil when there is none of that name.
	Key(ctx context.Context, name string) ([]byte, error)
	// PutKeyIfAbsent stores sealed unless there is one of that name already,
	// and returns what is stored: the first writer wins.
	PutKeyIfAbsent(ctx context.Context, name string, sealed []byte) ([]byte, error)
}

// Sealer encrypts under the master key.
type Sealer interface {
	Seal(name string, plain []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// Authority signs certificates. It is safe for concurrent use.
type Authority struct {
	trustDomain string
	now         func() time.Time

	root         *x509.Certificate
	intermediate *x509.Certificate
	key          crypto.Signer // the intermediate's
	signing      ed25519.PrivateKey

	rootPEM, intermediatePEM string
	clients                  *x509.CertPool

	mu      sync.Mutex
	servers map[string]*serverCert // by the names that a certificate is for
}

// bundle is what is sealed.
type bundle struct {
	TrustDomain     string `json:"trustDomain"`
	RootCert        []byte `json:"rootCert"`
	RootKey         []byte `json:"rootKey"`
	IntermediateCrt []byte `json:"intermediateCert"`
	IntermediateKey []byte `json:"intermediateKey"`
	SigningKey      []byte `json:"signingKey"`
}

const bundleName = "pki/authority"

// Options are what an installation may set.
type Options struct {
	// TrustDomain is the domain of the agents' SPIFFE ids; it is fixed when
	// the authority is made.
	TrustDomain string
}

// Load opens the installation's authority, and makes it when there is none.
// Any number of servers may do so at once; all get the same.
func Load(ctx context.Context, keys KeyStore, box Sealer, opts Options, now func() time.Time) (*Authority, error) {
	sealed, err := keys.Key(ctx, bundleName)
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	if sealed == nil {
		b, err := create(opts.TrustDomain, now())
		if err != nil {
			return nil, fmt.Errorf("make certificate authority: %w", err)
		}
		plain, err := json.Marshal(b)
		if err != nil {
			return nil, fmt.Errorf("make certificate authority: %w", err)
		}
		if sealed, err = box.Seal(bundleName, plain); err != nil {
			return nil, fmt.Errorf("make certificate authority: %w", err)
		}
		if sealed, err = keys.PutKeyIfAbsent(ctx, bundleName, sealed); err != nil {
			return nil, fmt.Errorf("store certificate authority: %w", err)
		}
	}
	plain, err := box.Open(bundleName, sealed)
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	var b bundle
	if err := json.Unmarshal(plain, &b); err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	return open(&b, now)
}

func open(b *bundle, now func() time.Time) (*Authority, error) {
	a := &Authority{trustDomain: b.TrustDomain, now: now, servers: map[string]*serverCert{}}
	var err error
	if a.root, err = x509.ParseCertificate(b.RootCert); err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	if a.intermediate, err = x509.ParseCertificate(b.IntermediateCrt); err != nil {
		return nil, fmt.Errorf("intermediate certificate: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(b.IntermediateKey)
	if err != nil {
		return nil, fmt.Errorf("intermediate key: %w", err)
	}
	sign, err := x509.ParsePKCS8PrivateKey(b.SigningKey)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	var ok1, ok2 bool
	a.key, ok1 = key.(crypto.Signer)
	a.signing, ok2 = sign.(ed25519.PrivateKey)
	if !ok1 || !ok2 {
		return nil, errors.New("the key bundle holds keys of another kind")
	}
	a.rootPEM, a.intermediatePEM = certPEM(b.RootCert), certPEM(b.IntermediateCrt)
	a.clients = a.Roots()
	a.clients.AddCert(a.intermediate)
	return a, nil
}

func create(trustDomain string, now time.Time) (*bundle, error) {
	if trustDomain == "" {
		trustDomain = "stella.local"
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	interKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	_, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := func(name string, life time.Duration, pathLen int) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: serial(), Subject: pkix.Name{CommonName: name, Organization: []string{"Stella"}},
			NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
			MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0,
		}
	}
	rootTmpl := ca("Stella Root CA", rootLife, 1)
	rootDER, err := x509.CreateCertificate(rand.Reader, rootTmpl, rootTmpl, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(rootDER)
	if err != nil {
		return nil, err
	}
	interDER, err := x509.CreateCertificate(rand.Reader, ca("Stella Issuing CA", intermediateLife, 0), root, interKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	b := &bundle{TrustDomain: trustDomain, RootCert: rootDER, IntermediateCrt: interDER}
	for _, k := range []struct {
		into *[]byte
		key  any
	}{{&b.RootKey, rootKey}, {&b.IntermediateKey, interKey}, {&b.SigningKey, signing}} {
		if *k.into, err = x509.MarshalPKCS8PrivateKey(k.key); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// TrustDomain is the domain of the agents' SPIFFE ids.
func (a *Authority) TrustDomain() string { return a.trustDomain }

// RootPEM is the certificate to trust.
func (a *Authority) RootPEM() string { return a.rootPEM }

// SigningKey signs what the server sends to agents.
func (a *Authority) SigningKey() ed25519.PrivateKey { return a.signing }

// Pin is the SHA-256 of the root's public key (SubjectPublicKeyInfo).
func (a *Authority) Pin() [sha256.Size]byte { return PinOf(a.root) }

// PinOf is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo).
func PinOf(c *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// Roots is the pool that holds the root.
func (a *Authority) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return pool
}

// ClientCAs is the pool by which a server knows agents: the root, and the
// intermediate, for clients that send their leaf alone. It must not be changed.
func (a *Authority) ClientCAs() *x509.CertPool { return a.clients }

// serial returns a random serial number of 127 bits.
func serial() *big.Int {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails: crypto/rand ends the process instead
	raw[0] &= 0x7f
	raw[15] |= 1
	return new(big.Int).SetBytes(raw)
}

func certPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
