package enroll_test

import (
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/internal/enroll"
)

// A double click takes the whole of a token: it is one word.
var wholeToken = regexp.MustCompile(`^reg_[a-z2-7]{32}_[a-z2-7]{52}$`)

func TestTokenRoundTrip(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	rapid.Check(t, func(t *rapid.T) {
		pin := [sha256.Size]byte(rapid.SliceOfN(rapid.Byte(), sha256.Size, sha256.Size).Draw(t, "pin"))
		text, hash := enroll.NewSecret(pin)
		if !wholeToken.MatchString(text) {
			t.Fatalf("%q is no one word", text)
		}
		if got, ok := enroll.Pin(text); !ok || got != pin {
			t.Fatalf("the pin of %s is %x, %v; want %x", text, got, ok, pin)
		}
		if enroll.Hash(text) != hash {
			t.Fatalf("the hash of %s changes", text)
		}
		if seen[hash] {
			t.Fatal("two tokens are the same")
		}
		seen[hash] = true
		if strings.Contains(hash, text[4:36]) {
			t.Fatal("the hash tells the secret")
		}
		// The pin is public and decides nothing.
		other, _ := enroll.NewSecret([sha256.Size]byte{1})
		if enroll.Hash(text[:37]+other[37:]) != hash {
			t.Fatal("the hash depends on the pin")
		}
		if enroll.Hash(other[:37]+text[37:]) == hash {
			t.Fatal("the hash does not depend on the secret")
		}
	})
}

func TestPinWantsAWholeToken(t *testing.T) {
	t.Parallel()
	pin := sha256.Sum256([]byte("root"))
	text, _ := enroll.NewSecret(pin)
	for _, c := range []struct {
		what, text string
		ok         bool
	}{
		{"as it is", text, true},
		{"with white space around", "  " + text + "\n", true},
		{"empty", "", false},
		{"without the pin", text[:36], false},
		{"with an empty pin", text[:37], false},
		{"cut short", text[:len(text)-1], false},
		{"too long", text + "a", false},
		{"without the prefix", text[4:], false},
		{"of another kind", "stl" + text[3:], false},
		{"with a short secret", "reg_" + text[5:], false},
		{"with a letter that is none of ours", text[:len(text)-1] + "1", false},
		{"in capitals", strings.ToUpper(text), false},
		{"twice", text + "_" + text, false},
	} {
		if got, ok := enroll.Pin(c.text); ok != c.ok || ok && got != pin {
			t.Errorf("%s: %v, %x", c.what, ok, got)
		}
	}
}

func FuzzPin(f *testing.F) {
	text, _ := enroll.NewSecret(sha256.Sum256([]byte("root")))
	f.Add(text)
	f.Add("reg__")
	f.Add("reg_" + strings.Repeat("a", 32) + "_" + strings.Repeat("\n", 52))
	f.Fuzz(func(t *testing.T, text string) {
		hash := enroll.Hash(text)
		if len(hash) != 64 {
			t.Fatalf("hash %q", hash)
		}
		pin, ok := enroll.Pin(text)
		if !ok {
			if pin != [sha256.Size]byte{} {
				t.Fatal("half a pin came out of a token that is none")
			}
			return
		}
		if again, ok := enroll.Pin(strings.TrimSpace(text)); !ok || again != pin {
			t.Fatalf("%q has two pins", text)
		}
	})
}

func TestTokenState(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		tok  enroll.Token
		want string
	}{
		{enroll.Token{MaxUses: 1, ExpiresAt: now.Add(1)}, "usable"},
		{enroll.Token{MaxUses: 1, ExpiresAt: now}, "expired"},
		{enroll.Token{MaxUses: 1, Uses: 1, ExpiresAt: now.Add(1)}, "used"},
		{enroll.Token{MaxUses: 2, Uses: 1, ExpiresAt: now.Add(1)}, "usable"},
		{enroll.Token{MaxUses: 1, ExpiresAt: now.Add(1), RevokedAt: now}, "revoked"},
		{enroll.Token{MaxUses: 1, Uses: 1, ExpiresAt: now, RevokedAt: now}, "revoked"},
	} {
		if got := c.tok.State(now); got != c.want {
			t.Errorf("%+v: %s, want %s", c.tok, got, c.want)
		}
	}
}
