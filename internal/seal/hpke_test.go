package seal_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"stella-ops.org/stella/internal/seal"
)

// hpkeKeys makes two keys of each KEM.
func hpkeKeys(t testing.TB) map[string][2]*seal.PrivateKey {
	t.Helper()
	keys := map[string][2]*seal.PrivateKey{}
	for _, kem := range []string{"MLKEM768-X25519", "X25519"} {
		var pair [2]*seal.PrivateKey
		for i := range pair {
			var err error
			if kem == "X25519" {
				key, genErr := ecdh.X25519().GenerateKey(rand.Reader)
				if genErr != nil {
					t.Fatal(genErr)
				}
				pair[i], err = seal.ParseX25519PrivateKey(key.Bytes())
			} else {
				pair[i], err = seal.NewPrivateKey()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		keys[kem] = pair
	}
	return keys
}

func TestSealToAnAgent(t *testing.T) {
	t.Parallel()
	for kem, pair := range hpkeKeys(t) {
		t.Run(kem, func(t *testing.T) {
			t.Parallel()
			mine, other := pair[0], pair[1]
			// As the server knows it: by what was registered.
			public, err := seal.ParsePublicKeyText(mine.Public().Text())
			if err != nil || public.ID() != mine.Public().ID() || len(public.ID()) != 16 || public.ID() == other.Public().ID() {
				t.Fatalf("%v, ids %s, %s and %s", err, public.ID(), mine.Public().ID(), other.Public().ID())
			}
			rapid.Check(t, func(t *rapid.T) {
				info, plain := rapid.SliceOf(rapid.Byte()).Draw(t, "info"), rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
				sealed, err := public.Seal(info, plain)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := mine.Open(info, sealed); err != nil || !bytes.Equal(got, plain) {
					t.Fatalf("opened %x, %v", got, err)
				}
				if _, err := other.Open(info, sealed); err == nil {
					t.Fatal("another's key opens it")
				}
				if _, err := mine.Open(append(bytes.Clone(info), 0), sealed); err == nil {
					t.Fatal("it opens for something else")
				}
				altered := bytes.Clone(sealed)
				altered[rapid.IntRange(0, len(altered)-1).Draw(t, "at")] ^= byte(1) << rapid.IntRange(0, 6).Draw(t, "bit")
				if _, err := mine.Open(info, altered); err == nil {
					t.Fatal("it opens although it was altered")
				}
				if _, err := mine.Open(info, sealed[:rapid.IntRange(0, len(sealed)-1).Draw(t, "cut")]); err == nil {
					t.Fatal("it opens although it was cut")
				}
			})
		})
	}
}

func TestPrivateKeyIsKept(t *testing.T) {
	t.Parallel()
	key, err := seal.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	data, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := seal.ParsePrivateKey(data)
	if err != nil || again.Public().ID() != key.Public().ID() {
		t.Errorf("%v, %v", again, err)
	}
	for _, n := range []int{0, 31, 33, 1216} {
		if _, err := seal.ParsePrivateKey(make([]byte, n)); err == nil {
			t.Errorf("a private key of %d bytes is taken", n)
		}
	}
}

func TestCheckPublicKey(t *testing.T) {
	t.Parallel()
	for kem, pair := range hpkeKeys(t) {
		if err := seal.CheckPublicKey(pair[0].Public().Text()); err != nil {
			t.Errorf("%s: %v", kem, err)
		}
	}
	hybrid, err := base64.StdEncoding.DecodeString(hpkeKeys(t)["MLKEM768-X25519"][0].Public().Text())
	if err != nil {
		t.Fatal(err)
	}
	unreduced := bytes.Clone(hybrid) // coefficients above the modulus
	copy(unreduced, bytes.Repeat([]byte{0xff}, 64))
	encode, hpkeText := base64.StdEncoding.EncodeToString, base64.StdEncoding.EncodeToString(hybrid)
	for what, text := range map[string]string{
		"nothing": "", "no base64": "%%%", "base64 of URLs": strings.NewReplacer("+", "-", "/", "_").Replace(encode(bytes.Repeat([]byte{0xfb}, 32))),
		"31 bytes": encode(make([]byte, 31)), "1184 bytes (ML-KEM alone)": encode(hybrid[:1184]), "1217 bytes": encode(append(hybrid, 0)),
		"the point of order 1": encode(make([]byte, 32)), "no ML-KEM key": encode(unreduced),
		"a line break":        "\n" + hpkeText,
		"bits behind the end": strings.TrimSuffix(encode(make([]byte, 32)), "A=") + "B=",
	} {
		if err := seal.CheckPublicKey(text); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

func TestSignature(t *testing.T) {
	t.Parallel()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		t.Fatal("no key")
	}
	sign := seal.NewSigner(private).Sign
	rapid.Check(t, func(t *rapid.T) {
		domain := rapid.StringMatching(`[a-z/0-9]{1,20}`).Draw(t, "domain")
		message := rapid.SliceOf(rapid.Byte()).Draw(t, "message")
		sig := sign(domain, message)
		if err := seal.Verify(public, domain, message, sig); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"another domain":    seal.Verify(public, domain+"x", message, sig),
			"another message":   seal.Verify(public, domain, append(bytes.Clone(message), 0), sig),
			"no signature":      seal.Verify(public, domain, message, nil),
			"a short signature": seal.Verify(public, domain, message, sig[:63]),
			"another key":       seal.Verify(make(ed25519.PublicKey, 32), domain, message, sig),
			"no key":            seal.Verify(nil, domain, message, sig),
			// What belongs to the domain must not slip into the message.
			"another border": seal.Verify(public, domain[:len(domain)-1], append([]byte(domain[len(domain)-1:]), message...), sig),
		} {
			if err == nil {
				t.Fatalf("%s: verified", what)
			}
		}
	})
}

// Nothing that comes over a network can do more than be refused.
func FuzzHPKEOpen(f *testing.F) {
	type key struct {
		*seal.PrivateKey
		good []byte
	}
	var keys []key
	for _, pair := range hpkeKeys(f) {
		good, err := pair[0].Public().Seal([]byte("info"), []byte("plain"))
		if err != nil {
			f.Fatal(err)
		}
		keys = append(keys, key{pair[0], good})
		for _, n := range []int{0, 1, 31, 32, 33, len(good) - 1, len(good)} {
			f.Add(good[:n])
		}
	}
	f.Fuzz(func(t *testing.T, sealed []byte) {
		for _, k := range keys {
			if plain, err := k.Open([]byte("info"), sealed); err == nil && !bytes.Equal(sealed, k.good) {
				t.Fatalf("%x opens as %q", sealed, plain)
			}
		}
	})
}

// FuzzPublicKey: what an agent registers is refused, or can be sealed to.
func FuzzPublicKey(f *testing.F) {
	for _, pair := range hpkeKeys(f) {
		f.Add(pair[0].Public().Text())
	}
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if seal.CheckPublicKey(text) != nil {
			return
		}
		if key, err := seal.ParsePublicKeyText(text); err != nil || key.Text() != text {
			t.Fatalf("%q is taken, and read as %v, %v", text, key, err)
		}
	})
}

// BenchmarkSealTask is what a sealed task costs: the server parses the agent's
// key, seals and signs; the agent verifies and opens.
func BenchmarkSealTask(b *testing.B) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		b.Fatal("no key")
	}
	signer, plain, info := seal.NewSigner(private), make([]byte, 2048), make([]byte, 100)
	for kem, pair := range hpkeKeys(b) {
		text := pair[0].Public().Text()
		_, sealed, err := signer.SealTo(text, info, plain)
		if err != nil {
			b.Fatal(err)
		}
		task := []byte(base64.StdEncoding.EncodeToString(sealed))
		signature := signer.Sign("task", task)
		b.Run(kem+"/seal+sign", func(b *testing.B) {
			for b.Loop() {
				if _, _, err := signer.SealTo(text, info, plain); err != nil {
					b.Fatal(err)
				}
				signer.Sign("task", task)
			}
		})
		b.Run(kem+"/verify+open", func(b *testing.B) {
			for b.Loop() {
				if err := seal.Verify(public, "task", task, signature); err != nil {
					b.Fatal(err)
				}
				if _, err := pair[0].Open(info, sealed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
