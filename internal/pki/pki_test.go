package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/seal"
)

// agentLife is how long the certificates of these tests are good.
const agentLife = 90 * 24 * time.Hour

// keys is a KeyStore in memory.
type keys struct {
	mu   sync.Mutex
	kept map[string][]byte
	// wait, when set, holds back the first look of each, so that all of them
	// find nothing.
	wait *sync.WaitGroup
}

// Key implements KeyStore.
func (k *keys) Key(_ context.Context, name string) ([]byte, error) {
	k.mu.Lock()
	got := k.kept[name]
	k.mu.Unlock()
	if k.wait != nil {
		k.wait.Done()
		k.wait.Wait()
	}
	return got, nil
}

// PutKeyIfAbsent implements KeyStore.
func (k *keys) PutKeyIfAbsent(_ context.Context, name string, sealed []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kept == nil {
		k.kept = map[string][]byte{}
	}
	if k.kept[name] == nil {
		k.kept[name] = sealed
	}
	return k.kept[name], nil
}

// SwapKey implements KeyStore.
func (k *keys) SwapKey(_ context.Context, name string, old, anew []byte) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !bytes.Equal(k.kept[name], old) {
		return false, nil
	}
	k.kept[name] = anew
	return true, nil
}

// clock is the time that a test sets.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newClock() *clock { return &clock{time.Now().UTC().Truncate(time.Second)} }

func box(t testing.TB, first byte) *seal.Box {
	t.Helper()
	key := make([]byte, seal.KeySize)
	key[0] = first
	b, err := seal.NewBox(key)
	must(t, err)
	return b
}

func load(t testing.TB, k *keys, c *clock) *Authority {
	t.Helper()
	a, err := Load(t.Context(), k, box(t, 1), Options{TrustDomain: "stella.test"}, c.now)
	must(t, err)
	return a
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func csr(t testing.TB, key crypto.Signer, tmpl *x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	must(t, err)
	return csrPEM(der)
}

func csrPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func ec(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	must(t, err)
	return key
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	must(t, err)
	return key
}

func TestKeyPolicy(t *testing.T) {
	t.Parallel()
	a := load(t, &keys{}, newClock())
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for _, c := range []struct {
		name string
		key  crypto.Signer
		ok   bool
	}{
		{"P-256", ec(t, elliptic.P256()), true},
		{"P-384", ec(t, elliptic.P384()), true},
		{"Ed25519", ed, true},
		{"RSA 3072", rsaKey(t, 3072), true},
		{"P-224", ec(t, elliptic.P224()), false},
		{"P-521", ec(t, elliptic.P521()), false},
		{"RSA 2048", rsaKey(t, 2048), false},
		{"RSA 3071", rsaKey(t, 3071), false},
	} {
		req, err := a.ParseCSR(csr(t, c.key, &x509.CertificateRequest{}))
		if !c.ok {
			if f := fault.As(err); f == nil || f.Kind != fault.Invalid || f.Fields[0].Location != "body.csr" {
				t.Errorf("%s: %v, want a fault of body.csr", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		issued, err := a.IssueAgent(req, "t", "a", agentLife)
		must(t, err)
		der, err := x509.MarshalPKIXPublicKey(c.key.Public())
		must(t, err)
		if sum := sha256.Sum256(der); req.PublicKeyHash != hexOf(sum[:]) {
			t.Errorf("%s: the hash is not that of the key", c.name)
		}
		if got := chain(t, issued.ChainPEM)[0].RawSubjectPublicKeyInfo; !bytes.Equal(got, der) {
			t.Errorf("%s: the certificate is for another key", c.name)
		}
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, x := range b {
		s.WriteByte(digits[x>>4])
		s.WriteByte(digits[x&15])
	}
	return s.String()
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	a := load(t, &keys{}, newClock())
	key := ec(t, elliptic.P256())
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	good := csrPEM(der)
	bad := bytes.Clone(der)
	bad[len(bad)-1] ^= 1 // of the signature
	// A request with somebody else's key: its signature is by another.
	swapped := bytes.Replace(der, mustSPKI(t, key), mustSPKI(t, ec(t, elliptic.P256())), 1)
	for name, text := range map[string]string{
		"nothing":             "",
		"no PEM":              "hello",
		"another kind of PEM": strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE"),
		"two requests":        good + good,
		"trailing text":       good + "x",
		"trailing bytes":      csrPEM(append(bytes.Clone(der), 0)),
		"bad signature":       csrPEM(bad),
		"somebody's key":      csrPEM(swapped),
		"cut short":           csrPEM(der[:len(der)/2]),
		"empty":               csrPEM(nil),
	} {
		_, err := a.ParseCSR(text)
		if f := fault.As(err); f == nil || f.Kind != fault.Invalid || len(f.Fields) != 1 || f.Fields[0].Location != "body.csr" {
			t.Errorf("%s: %v, want a fault of body.csr", name, err)
		}
	}
	if _, err := a.ParseCSR(good + "\n\n"); err != nil {
		t.Errorf("with empty lines behind it: %v", err)
	}
}

func mustSPKI(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	return der
}

func chain(t testing.TB, text string) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		c, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		out = append(out, c)
	}
}

// Whatever the request asks for, names, uses and validity are the server's.
func TestNamesInRequestsAreIgnored(t *testing.T) {
	t.Parallel()
	c := newClock()
	a := load(t, &keys{}, c)
	evil, err := url.Parse("spiffe://stella.test/tenant/t/agent/somebody-else")
	must(t, err)
	req, err := a.ParseCSR(csr(t, ec(t, elliptic.P256()), &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "admin", Organization: []string{"evil"}}, DNSNames: []string{"stella.test"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, EmailAddresses: []string{"a@b"}, URIs: []*url.URL{evil},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}, // CA:TRUE
	}))
	must(t, err)
	issued, err := a.IssueAgent(req, "default", "agent-1", agentLife)
	must(t, err)
	certs := chain(t, issued.ChainPEM)
	leaf := certs[0]
	if leaf.Subject.String() != "CN=agent-1" || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 || leaf.IsCA {
		t.Errorf("subject %s, DNS %v, IP %v, mail %v, CA %v", leaf.Subject, leaf.DNSNames, leaf.IPAddresses, leaf.EmailAddresses, leaf.IsCA)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://stella.test/tenant/default/agent/agent-1" {
		t.Errorf("URIs %v", leaf.URIs)
	}
	if !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("uses %v, %v", leaf.ExtKeyUsage, leaf.KeyUsage)
	}
	if !leaf.NotAfter.Equal(c.at.Add(agentLife)) || !leaf.NotBefore.Equal(c.at.Add(-backdate)) ||
		!issued.NotAfter.Equal(leaf.NotAfter) || issued.Fingerprint != Fingerprint(leaf.Raw) || leaf.SerialNumber.Text(16) != issued.Serial {
		t.Errorf("the record %+v is not of the certificate, valid from %s to %s", issued, leaf.NotBefore, leaf.NotAfter)
	}
	if tenant, id, ok := a.AgentOf(leaf); !ok || tenant != "default" || id != "agent-1" {
		t.Errorf("it names %s/%s, %v", tenant, id, ok)
	}
	inter := x509.NewCertPool()
	for _, c := range certs[1:] {
		inter.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.Roots(), Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("with its chain: %v", err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.ClientCAs(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("alone, to a server: %v", err)
	}
}

func TestAgentOfWantsOurName(t *testing.T) {
	t.Parallel()
	a := load(t, &keys{}, newClock())
	for _, names := range [][]string{
		nil,
		{"spiffe://other.test/tenant/t/agent/a"},
		{"https://stella.test/tenant/t/agent/a"},
		{"spiffe://stella.test/tenant/t/agent"},
		{"spiffe://stella.test/tenant/t/agent/a/b"},
		{"spiffe://stella.test/t/t/agent/a"},
		{"spiffe://stella.test/tenant/t/server/a"},
		{"spiffe://stella.test/tenant/t/agent/a", "spiffe://stella.test/tenant/t/agent/b"},
	} {
		cert := &x509.Certificate{}
		for _, n := range names {
			u, err := url.Parse(n)
			must(t, err)
			cert.URIs = append(cert.URIs, u)
		}
		if tenant, id, ok := a.AgentOf(cert); ok {
			t.Errorf("%v names agent %s/%s", names, tenant, id)
		}
	}
}

// All servers have one authority, also those that start at the same moment,
// and none can open it under another master key.
func TestLoadGivesOneAuthority(t *testing.T) {
	t.Parallel()
	c := newClock()
	const n = 4
	k := &keys{wait: &sync.WaitGroup{}}
	k.wait.Add(n)
	all := make([]*Authority, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			a, err := Load(t.Context(), k, box(t, 1), Options{TrustDomain: "stella.test"}, c.now)
			if err != nil {
				t.Error(err)
			}
			all[i] = a
		})
	}
	wg.Wait()
	k.wait = nil
	if t.Failed() {
		t.FailNow()
	}
	// A later start cannot change the trust domain.
	late, err := Load(t.Context(), k, box(t, 1), Options{TrustDomain: "another.test"}, c.now)
	must(t, err)
	for _, a := range append(all, late) {
		if a.Pin() != all[0].Pin() || a.RootsPEM() != all[0].RootsPEM() || a.Trust() != all[0].Trust() ||
			a.TrustDomain() != "stella.test" {
			t.Fatal("two servers have two authorities")
		}
	}
	req, err := all[1].ParseCSR(csr(t, ec(t, elliptic.P256()), &x509.CertificateRequest{}))
	must(t, err)
	issued, err := all[1].IssueAgent(req, "t", "a", agentLife)
	must(t, err)
	if _, err := chain(t, issued.ChainPEM)[0].Verify(x509.VerifyOptions{Roots: late.ClientCAs(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("what one signs another does not know: %v", err)
	}
	if _, err := Load(t.Context(), k, box(t, 2), Options{}, c.now); err == nil || !strings.Contains(err.Error(), "another master key") {
		t.Errorf("with another master key: %v", err)
	}
	for name, sealed := range k.kept {
		if bytes.Contains(sealed, all[0].state.Load().active.root.Raw[:32]) {
			t.Errorf("%s is not sealed", name)
		}
	}
}

func TestServerCertificateIsRenewedInTime(t *testing.T) {
	t.Parallel()
	c := newClock()
	a := load(t, &keys{}, c)
	names := []string{"stella.example.com", "192.0.2.1", "::1"}
	get := func(names []string) *tls.Certificate {
		cert, err := a.ServerCertificate(names)
		must(t, err)
		return cert
	}
	first := get(names)
	for _, n := range names {
		if err := first.Leaf.VerifyHostname(n); err != nil {
			t.Error(err)
		}
	}
	if err := first.Leaf.VerifyHostname("other.example.com"); err == nil {
		t.Error("it is good for any name")
	}
	if get(names) != first {
		t.Error("each handshake makes a certificate")
	}
	if other := get(names[:1]); other == first || other.Leaf.VerifyHostname("192.0.2.1") == nil {
		t.Error("other names get the same certificate")
	}
	c.at = c.at.Add(serverLife*2/3 - time.Second)
	if get(names) != first {
		t.Error("it is renewed too early")
	}
	c.at = c.at.Add(time.Second)
	renewed := get(names)
	if renewed == first || !renewed.Leaf.NotAfter.Equal(c.at.Add(serverLife)) {
		t.Error("it is not renewed at two thirds of its life")
	}
}

// pinned makes a chain as a server would present it.
func TestPinnedVerification(t *testing.T) {
	t.Parallel()
	c := newClock()
	a, stranger := load(t, &keys{}, c), load(t, &keys{}, c)
	parse := func(cert *tls.Certificate) (out []*x509.Certificate) {
		for _, der := range cert.Certificate {
			x, err := x509.ParseCertificate(der)
			must(t, err)
			out = append(out, x)
		}
		return out
	}
	serve := func(a *Authority) []*x509.Certificate {
		cert, err := a.ServerCertificate([]string{"stella.example.com", "192.0.2.1"})
		must(t, err)
		return parse(cert)
	}
	good, theirs := serve(a), serve(stranger)
	past := &clock{c.at.Add(-2 * serverLife)}
	old := &Authority{trustDomain: a.trustDomain, now: past.now, servers: map[string]*serverCert{}}
	old.state.Store(a.state.Load())
	req, err := a.ParseCSR(csr(t, ec(t, elliptic.P256()), &x509.CertificateRequest{}))
	must(t, err)
	issued, err := a.IssueAgent(req, "t", "stella.example.com", agentLife)
	must(t, err)
	agentLeaf := chain(t, issued.ChainPEM)[0]
	for _, tc := range []struct {
		name, server string
		pin          [sha256.Size]byte
		chain        []*x509.Certificate
		ok           bool
	}{
		{"right", "stella.example.com", a.Pin(), good, true},
		{"by address", "192.0.2.1", a.Pin(), good, true},
		{"in another order", "stella.example.com", a.Pin(), []*x509.Certificate{good[0], good[2], good[1]}, true},
		{"with others' certificates between", "stella.example.com", a.Pin(), []*x509.Certificate{good[0], theirs[1], good[1], theirs[2], good[2]}, true},
		{"wrong pin", "stella.example.com", stranger.Pin(), good, false},
		{"no pin", "stella.example.com", [sha256.Size]byte{}, good, false},
		{"wrong name", "evil.example.com", a.Pin(), good, false},
		{"no name", "", a.Pin(), good, false},
		{"expired", "stella.example.com", a.Pin(), serve(old), false},
		{"nothing", "stella.example.com", a.Pin(), nil, false},
		{"the leaf alone", "stella.example.com", a.Pin(), good[:1], false},
		{"without the root", "stella.example.com", a.Pin(), good[:2], false},
		{"without the intermediate", "stella.example.com", a.Pin(), []*x509.Certificate{good[0], good[2]}, false},
		{"the root alone", "stella.example.com", a.Pin(), good[2:], false},
		// Everybody has seen the root: to show it proves nothing.
		{"a stranger's leaf with our root", "stella.example.com", a.Pin(), []*x509.Certificate{theirs[0], theirs[1], theirs[2], good[2]}, false},
		{"a stranger's leaf with all of ours", "stella.example.com", a.Pin(), []*x509.Certificate{theirs[0], good[1], good[2]}, false},
		{"pinned to the leaf", "stella.example.com", PinOf(good[0]), []*x509.Certificate{good[0], good[0]}, false},
		{"an agent that plays server", "stella.example.com", a.Pin(), []*x509.Certificate{agentLeaf, good[1], good[2]}, false},
	} {
		var got *x509.Certificate
		cfg := PinnedConfig(tc.pin, tc.server, c.now, func(root *x509.Certificate) { got = root })
		err := cfg.VerifyConnection(tls.ConnectionState{PeerCertificates: tc.chain})
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
		if (got != nil) != tc.ok || tc.ok && PinOf(got) != a.Pin() {
			t.Errorf("%s: the root that is to be trusted is %v", tc.name, got)
		}
	}
}

// Over a real connection, which is refused before a byte of the token goes out.
func TestPinnedHandshake(t *testing.T) {
	t.Parallel()
	c := newClock()
	a := load(t, &keys{}, c)
	cert, err := a.ServerCertificate([]string{"127.0.0.1"})
	must(t, err)
	for _, right := range []bool{true, false} {
		pin := a.Pin()
		if !right {
			pin[0] ^= 1
		}
		server, client := net.Pipe()
		done := make(chan error, 1)
		go func() {
			conn := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13})
			done <- conn.HandshakeContext(t.Context())
			_ = server.Close()
		}()
		conn := tls.Client(client, PinnedConfig(pin, "127.0.0.1", c.now, nil))
		if err := conn.HandshakeContext(t.Context()); (err == nil) != right {
			t.Errorf("right pin %v: %v", right, err)
		}
		_ = client.Close()
		if err := <-done; (err == nil) != right {
			t.Errorf("right pin %v: the server's side: %v", right, err)
		}
	}
}

func FuzzParseCSR(f *testing.F) {
	a := load(f, &keys{}, newClock())
	f.Add(csr(f, ec(f, elliptic.P256()), &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"y"}}))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(f, err)
	f.Add(csr(f, ed, &x509.CertificateRequest{}))
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		req, err := a.ParseCSR(text)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("%v is no fault of the request", err)
			}
			return
		}
		var issued *enroll.Issued
		if issued, err = a.IssueAgent(req, "t", "a", agentLife); err != nil {
			t.Fatalf("taken, and then not signed: %v", err)
		}
		leaf := chain(t, issued.ChainPEM)[0]
		if leaf.Subject.String() != "CN=a" || len(leaf.DNSNames) != 0 || leaf.IsCA {
			t.Fatalf("the request chose what is in the certificate: %s", leaf.Subject)
		}
	})
}
