package pki

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"testing"
	"time"
)

// An installer knows the servers by the pin of their key: all have the same one,
// over restarts and renewals, and the next one is known before it is used.
func TestServerPins(t *testing.T) {
	t.Parallel()
	c, k := newClock(), &keys{}
	a := load(t, k, c)
	shown := func(a *Authority) string {
		cert, err := a.ServerCertificate([]string{"stella.example.com"})
		must(t, err)
		sum := sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo)
		return base64.StdEncoding.EncodeToString(sum[:])
	}
	first := shown(a)
	if pins := a.ServerPins(); !slices.Equal(pins, []string{first}) {
		t.Errorf("the pins are %v, the server shows %s", pins, first)
	}
	c.at = c.at.Add(serverLife)
	if again, other := shown(a), shown(load(t, k, c)); again != first || other != first {
		t.Errorf("the server showed %s, then %s, and another one %s", first, again, other)
	}
	if stranger := shown(load(t, &keys{}, c)); stranger == first {
		t.Error("two installations have one key")
	}
	must(t, a.Prepare(t.Context()))
	pins := a.ServerPins()
	if len(pins) != 2 || pins[0] != first || pins[1] == first || shown(a) != first {
		t.Errorf("prepared: %v, and it shows %s", pins, shown(a))
	}
	c.at = c.at.Add(time.Minute)
	must(t, a.Activate(t.Context()))
	if now := a.ServerPins(); !slices.Equal(now, pins[1:]) || shown(a) != pins[1] {
		t.Errorf("activated: %v, and it shows %s; prepared was %s", now, shown(a), pins[1])
	}
}
