package agent

import (
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
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

func TestParseCertificates(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n"} {
		if all, err := parseCertificates(text); err == nil {
			t.Errorf("%q: %v", text, all)
		}
	}
}
