package agent

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
)

// A certificate is renewed before two thirds of its life are over, and not
// much before; each at its own moment, which is the same whenever it is asked.
func TestWhenToRenew(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		life := time.Duration(rapid.Int64Range(int64(10*time.Second), int64(10*365*24*time.Hour)).Draw(t, "life"))
		threshold := time.Duration(rapid.Int64Range(0, int64(400*24*time.Hour)).Draw(t, "threshold"))
		begin := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "begin"), 0).UTC()
		leaf := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(life), SerialNumber: big.NewInt(rapid.Int64().Draw(t, "serial"))}
		at := renewsAt(leaf, threshold)
		if at.After(begin.Add(life * 2 / 3)) {
			t.Errorf("renewed at %s of %s, after two thirds", at.Sub(begin), life)
		}
		if threshold <= life/2 && at.After(leaf.NotAfter.Add(-threshold)) {
			t.Errorf("renewed %s before its end, threshold %s", leaf.NotAfter.Sub(at), threshold)
		}
		if at.Before(begin.Add(life * 39 / 100)) {
			t.Errorf("renewed at %s of %s, too soon", at.Sub(begin), life)
		}
		if again := renewsAt(leaf, threshold); !again.Equal(at) {
			t.Errorf("renewed at %s, and at %s", at, again)
		}
	})
	// A fleet that was made in one moment does not renew in one.
	seen := map[int64]int{}
	for i := range int64(1000) {
		leaf := &x509.Certificate{NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1_000_000, 0), SerialNumber: big.NewInt(i)}
		seen[renewsAt(leaf, 0).Unix()/10_000]++
	}
	for slot, n := range seen {
		if n > 200 {
			t.Errorf("%d of 1000 renew in the same hundredth of their life (%d)", n, slot)
		}
	}
	if len(seen) < 9 {
		t.Errorf("1000 renewals fall into %d hundredths of their life", len(seen))
	}
}

// A change of the authority is followed once, whoever says so and however
// often; what is said over a link of the certificate before a renewal means
// nothing, and the next link says it again if need be.
func TestFollowOnce(t *testing.T) {
	t.Parallel()
	k := &keeper{agent: &Agent{}, looked: make(chan struct{}, 1)}
	expect := func(when string, want bool) {
		t.Helper()
		if due := !k.following().IsZero(); due != want {
			t.Errorf("%s: a renewal is due: %t", when, due)
		}
	}
	k.follow("", 0, true)
	k.follow("two", 0, false)
	expect("asked by a heartbeat", true)
	k.obtained()
	k.followed()
	k.follow("two", 0, false)
	expect("asked again over the old link", false)
	k.follow("", 0, true)
	expect("over the new link", false)

	k.obtained() // it was due by itself, just after the authority had changed
	k.follow("three", 0, false)
	expect("asked over the old link after a renewal", false)
	k.follow("", 0, true)
	expect("the renewal was late enough", false)

	k.obtained() // just before it
	k.follow("four", 0, false)
	k.follow("four", 0, true)
	expect("asked over the new link", true)
	k.obtained()
	k.followed()
	k.follow("four", 0, true)
	expect("the new link asks again", true)
}

func TestParseCertificates(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n"} {
		if all, err := parseCertificates(text); err == nil {
			t.Errorf("%q: %v", text, all)
		}
	}
}

// FuzzCheckRenewal: of an answer to a renewal, only a certificate of this very
// agent is taken, which one of the answer's own roots vouches for.
func FuzzCheckRenewal(f *testing.F) {
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	me, other := &url.URL{Scheme: "spiffe", Host: "stella.test", Path: "/a"}, &url.URL{Scheme: "spiffe", Host: "stella.test", Path: "/b"}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	issue := func(c *x509.Certificate) (*x509.Certificate, string) {
		der, err := x509.CreateCertificate(rand.Reader, c, root, key.Public(), key)
		if err != nil {
			f.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			f.Fatal(err)
		}
		return made, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	leaf := func(of *url.URL, usage x509.ExtKeyUsage) (*x509.Certificate, string) {
		c := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage}}
		if of != nil {
			c.URIs = []*url.URL{of}
		}
		return issue(c)
	}
	_, roots := issue(root)
	old, good := leaf(me, x509.ExtKeyUsageClientAuth)
	if _, err := checkRenewal(&api.CertificateResponse{Certificate: good, CACertificate: roots}, old); err != nil {
		f.Fatalf("a good answer: %v", err)
	}
	f.Add(good, roots)
	f.Add(good+roots, roots+roots)
	f.Add(roots, good)
	f.Add(good, "")
	f.Add("", roots)
	f.Add("x"+good, roots+"x")
	f.Add(strings.ReplaceAll(good, "CERTIFICATE", "PRIVATE KEY"), roots)
	f.Add(good[:len(good)/2], roots)
	for _, c := range []struct {
		of    *url.URL
		usage x509.ExtKeyUsage
	}{{other, x509.ExtKeyUsageClientAuth}, {nil, x509.ExtKeyUsageClientAuth}, {me, x509.ExtKeyUsageServerAuth}} {
		_, bad := leaf(c.of, c.usage)
		if _, err := checkRenewal(&api.CertificateResponse{Certificate: bad, CACertificate: roots}, old); err == nil {
			f.Errorf("a certificate of %v for %v is taken", c.of, c.usage)
		}
		f.Add(bad, roots)
	}
	f.Fuzz(func(t *testing.T, chain, roots string) {
		got, err := checkRenewal(&api.CertificateResponse{Certificate: chain, CACertificate: roots}, old)
		if err == nil && (len(got.URIs) != 1 || got.URIs[0].String() != me.String()) {
			t.Fatalf("taken: %v", got.URIs)
		}
	})
}
