package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// bundle is all key material of an installation, as it is sealed: one text, so
// that no server ever sees half of a change.
type bundle struct {
	TrustDomain string `json:"trustDomain"`
	// Generations are the authorities that are trusted, the oldest first: one,
	// or two while a rotation is under way.
	Generations []sealedGeneration `json:"generations"`
	// Active is the index of the one that issues.
	Active int `json:"active"`
	// ChangedAt is when the last step of a rotation was taken.
	ChangedAt time.Time `json:"changedAt"`
}

// sealedGeneration is a root and its intermediate, with their keys.
type sealedGeneration struct {
	RootCert         []byte `json:"rootCert"`
	RootKey          []byte `json:"rootKey"`
	IntermediateCert []byte `json:"intermediateCert"`
	IntermediateKey  []byte `json:"intermediateKey"`
	// CrossCert is the intermediate again, signed by the root before this one:
	// by it, those who know only that root believe what this one issues.
	CrossCert []byte    `json:"crossCert,omitempty"`
	MadeAt    time.Time `json:"madeAt"`
}

// generation is one that is read.
type generation struct {
	id                        string
	root, intermediate, cross *x509.Certificate
	key                       crypto.Signer // the intermediate's
	serverKey                 *ecdsa.PrivateKey
	madeAt                    time.Time
}

func readBundle(plain []byte) (*bundle, error) {
	var b bundle
	if err := json.Unmarshal(plain, &b); err != nil {
		return nil, err
	}
	if len(b.Generations) == 0 || b.Active < 0 || b.Active >= len(b.Generations) {
		return nil, errors.New("the key bundle names no authority that issues")
	}
	return &b, nil
}

// create makes the bundle of a new installation.
func create(trustDomain string, now time.Time) (*bundle, error) {
	if trustDomain == "" {
		trustDomain = "stella.local"
	}
	b := &bundle{TrustDomain: trustDomain, ChangedAt: now}
	first, err := newGeneration(nil, now)
	if err != nil {
		return nil, err
	}
	b.Generations = []sealedGeneration{*first}
	return b, nil
}

// newGeneration makes a root and an intermediate, which the root before, if
// there is one, signs too.
func newGeneration(before *sealedGeneration, now time.Time) (*sealedGeneration, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	interKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	g := &sealedGeneration{MadeAt: now}
	rootTmpl := caTemplate("Stella Root CA", now, rootLife, 1)
	if g.RootCert, err = x509.CreateCertificate(rand.Reader, rootTmpl, rootTmpl, rootKey.Public(), rootKey); err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(g.RootCert)
	if err != nil {
		return nil, err
	}
	interTmpl := caTemplate("Stella Issuing CA", now, intermediateLife, 0)
	if g.IntermediateCert, err = x509.CreateCertificate(rand.Reader, interTmpl, root, interKey.Public(), rootKey); err != nil {
		return nil, err
	}
	if g.RootKey, err = x509.MarshalPKCS8PrivateKey(rootKey); err != nil {
		return nil, err
	}
	if g.IntermediateKey, err = x509.MarshalPKCS8PrivateKey(interKey); err != nil {
		return nil, err
	}
	if before == nil {
		return g, nil
	}
	oldRoot, err := x509.ParseCertificate(before.RootCert)
	if err != nil {
		return nil, err
	}
	oldKey, err := x509.ParsePKCS8PrivateKey(before.RootKey)
	if err != nil {
		return nil, err
	}
	interTmpl.SerialNumber = serial()
	g.CrossCert, err = x509.CreateCertificate(rand.Reader, interTmpl, oldRoot, interKey.Public(), oldKey)
	return g, err
}

func caTemplate(name string, now time.Time, life time.Duration, pathLen int) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name, Organization: []string{"Stella"}},
		NotBefore: now.Add(-serverBackdate), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
		MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0,
	}
}

func (g *sealedGeneration) open() (*generation, error) {
	out := &generation{madeAt: g.MadeAt}
	var err error
	if out.root, err = x509.ParseCertificate(g.RootCert); err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	if out.intermediate, err = x509.ParseCertificate(g.IntermediateCert); err != nil {
		return nil, fmt.Errorf("intermediate certificate: %w", err)
	}
	if g.CrossCert != nil {
		if out.cross, err = x509.ParseCertificate(g.CrossCert); err != nil {
			return nil, fmt.Errorf("cross certificate: %w", err)
		}
	}
	key, err := x509.ParsePKCS8PrivateKey(g.IntermediateKey)
	if err != nil {
		return nil, fmt.Errorf("intermediate key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the intermediate key cannot sign")
	}
	out.key = signer
	if out.serverKey, err = serverKey(g.IntermediateKey); err != nil {
		return nil, err
	}
	pin := PinOf(out.root)
	out.id = hex.EncodeToString(pin[:8])
	return out, nil
}

// trust names what agents are to trust and who issues their certificates: it
// changes with every step of a rotation.
func trust(all []*generation, active *generation) string {
	h := sha256.New()
	for _, g := range all {
		h.Write(g.root.Raw)
	}
	h.Write(active.intermediate.Raw)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

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
