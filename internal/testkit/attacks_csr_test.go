package testkit_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/testkit"
)

func csrOf(t *testing.T, tmpl *x509.CertificateRequest, key any) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func inPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// Whatever a certificate request asks for, its certificate names the agent that
// the server has made of it, and nobody else, and signs nothing.
func TestAttackCertificateRequestForMore(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	victim := newHandmade(t, cp, "victim")
	leaf, err := x509.ParseCertificate(victim.cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	value := func(v any) []byte {
		der, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	key := newKey(t)
	der := csrOf(t, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: victim.id, Organization: []string{"admins"}},
		DNSNames: []string{"localhost", "*"}, EmailAddresses: []string{"root@localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		URIs: []*url.URL{leaf.URIs[0], {Scheme: "spiffe", Host: "test.stella", Path: "/tenant/default/admin"}},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: value(struct{ CA bool }{true})},                                 // basicConstraints CA:true
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: value(asn1.BitString{Bytes: []byte{0x06}, BitLength: 7})},       // keyUsage: certSign, cRLSign
			{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: value([]asn1.ObjectIdentifier{{2, 5, 29, 37, 0}, {1, 3, 6, 1, 5, 5, 7, 3, 1}})}, // any use, and servers'
			{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Critical: true, Value: value(struct{ N []asn1.RawValue }{})},                           // nameConstraints
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: bytes.Repeat([]byte{0x05}, 64)},                   // something of nobody's
		},
	}, key)
	status, body := register(t, cp, cp.Token(), api.RegisterRequest{Name: "greedy", CSR: inPEM(der)})
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	var res api.RegisterResponse
	into(t, body, &res)
	block, rest := pem.Decode([]byte(res.Certificate))
	got, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if got.Subject.String() != "CN="+res.AgentID || res.AgentID == victim.id || len(got.URIs) != 1 || got.URIs[0].String() != "spiffe://test.stella/tenant/default/agent/"+res.AgentID ||
		len(got.DNSNames)+len(got.EmailAddresses)+len(got.IPAddresses) != 0 {
		t.Errorf("it names %s, %v, %v, %v, %v", got.Subject, got.URIs, got.DNSNames, got.EmailAddresses, got.IPAddresses)
	}
	if got.IsCA || !got.BasicConstraintsValid || got.KeyUsage != x509.KeyUsageDigitalSignature || len(got.ExtKeyUsage) != 1 || got.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || len(got.UnknownExtKeyUsage) != 0 {
		t.Errorf("it may CA %t, use %b, for %v", got.IsCA, got.KeyUsage, got.ExtKeyUsage)
	}
	for _, e := range got.Extensions {
		if e.Id.String() == "1.3.6.1.4.1.99999.1" || e.Id.String() == "2.5.29.30" {
			t.Errorf("it has the extension %s", e.Id)
		}
	}
	if life := got.NotAfter.Sub(got.NotBefore); life > 2*time.Hour {
		t.Errorf("it lasts for %s", life)
	}

	// What it signs all the same is nobody's certificate.
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: victim.id}, URIs: leaf.URIs, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	forged := newKey(t)
	under, err := x509.CreateCertificate(rand.Reader, tmpl, got, forged.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	issuer, _ := pem.Decode(rest)
	chain := tls.Certificate{Certificate: [][]byte{under, block.Bytes, issuer.Bytes}, PrivateKey: forged}
	if status, body, err := try(t, httpClient(tlsConfig(cp, chain)), http.MethodPost, victim.url("/heartbeat"), nil, "{}"); err == nil {
		t.Errorf("a certificate that an agent has signed: %d %s %v", status, body, err)
	}
	// Nor is one that signs itself.
	self, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, forged.Public(), forged)
	if err != nil {
		t.Fatal(err)
	}
	insists := tlsConfig(cp)
	insists.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{self}, PrivateKey: forged}, nil
	}
	if status, body, err := try(t, httpClient(insists), http.MethodPost, victim.url("/heartbeat"), nil, "{}"); err == nil {
		t.Errorf("a certificate that nobody has signed: %d %s", status, body)
	}
	well(t, cp)
}

// Requests that are not good enough are refused before anything is spent.
func TestAttackBadCertificateRequests(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	token := cp.Token()
	rsaKey := func(bits int) *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	curve := func(c elliptic.Curve) *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	good := csrOf(t, &x509.CertificateRequest{}, newKey(t))
	unsigned := bytes.Clone(good)
	unsigned[len(unsigned)-1] ^= 1
	// The key of one, the signature of another.
	parsed, err := x509.ParseCertificateRequest(good)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.ParseCertificateRequest(csrOf(t, &x509.CertificateRequest{}, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	stolen := bytes.Replace(bytes.Clone(good), parsed.RawSubjectPublicKeyInfo, other.RawSubjectPublicKeyInfo, 1)
	for name, c := range map[string]struct{ csr, says string }{
		"RSA of 1024 bits":    {inPEM(csrOf(t, &x509.CertificateRequest{}, rsaKey(1024))), "1024 bits"},
		"RSA of 2048 bits":    {inPEM(csrOf(t, &x509.CertificateRequest{}, rsaKey(2048))), "2048 bits"},
		"P-224":               {inPEM(csrOf(t, &x509.CertificateRequest{}, curve(elliptic.P224()))), "kind of key"},
		"P-521":               {inPEM(csrOf(t, &x509.CertificateRequest{}, curve(elliptic.P521()))), "kind of key"},
		"a bad signature":     {inPEM(unsigned), "body.csr"},
		"the key of another":  {inPEM(stolen), "signature does not fit"},
		"no request":          {"hello", "PKCS#10"},
		"nothing":             {"", ""},
		"half of one":         {inPEM(good[:len(good)/2]), "does not parse"},
		"a certificate":       {string(cp.CA), "PKCS#10"},
		"two":                 {inPEM(good) + inPEM(good), "PKCS#10"},
		"too long":            {inPEM(csrOf(t, &x509.CertificateRequest{DNSNames: []string{strings.Repeat("a", 20_000)}}, newKey(t))), "16384"},
		"something behind it": {inPEM(append(bytes.Clone(good), 0)), "does not parse"},
	} {
		status, body := register(t, cp, token, api.RegisterRequest{Name: "weak", CSR: c.csr})
		if p := problem(t, body); status != http.StatusUnprocessableEntity || p.Code != "invalid" || !strings.Contains(p.Detail, c.says) || len(p.Detail) > 500 {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	// The token is as good as before.
	registered(t, cp, token, api.RegisterRequest{Name: "strong"})
	well(t, cp)
}
