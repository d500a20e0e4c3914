package seal_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/seal"
)

const settle = 20 * time.Second

func signing(t *testing.T, m *memory, box seal.Sealer, ahead time.Duration) *seal.SigningKeys {
	t.Helper()
	k, err := seal.LoadSigningKeys(t.Context(), m, box, 0, func() time.Time { return time.Now().Add(ahead) })
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func publicOf(t *testing.T, k *seal.SigningKeys) ed25519.PublicKey {
	t.Helper()
	key, err := seal.ParseServerKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Of many servers that start together the first makes the key; another one is
// published before it signs, and by then every server knows it.
func TestSigningKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		box := m.server(t, keyFile(t))
		a, b := signing(t, m, box, 0), signing(t, m, box, 0)
		late := signing(t, m, box, -time.Minute) // its clock is behind
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx, slog.New(slog.DiscardHandler)) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()

		first := publicOf(t, a)
		if !first.Equal(publicOf(t, b)) {
			t.Fatal("two servers have two keys")
		}
		if err := a.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.Rotate(t.Context()); fault.CodeOf(err) != "signing_key_settling" || !strings.Contains(err.Error(), "20s") {
			t.Errorf("at once again: %v", err)
		}
		time.Sleep(settle - time.Millisecond) //nolint:forbidigo // in a bubble
		synctest.Wait()
		published := b.Published()
		if !first.Equal(publicOf(t, a)) || !first.Equal(publicOf(t, b)) || len(published.Keys) != 2 {
			t.Errorf("the next key signs too early: %+v", published)
		}
		next := published.Keys[1]
		key, err := base64.StdEncoding.DecodeString(next.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := seal.Verify(first, api.PurposeServerKey, api.ServerKeyText(key, next.From), next.Signature); err != nil || published.Keys[0].Signature != nil {
			t.Errorf("it is not vouched for: %v", err)
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // in a bubble
		for _, k := range []*seal.SigningKeys{a, b} {
			if !publicOf(t, k).Equal(ed25519.PublicKey(key)) {
				t.Error("the next key does not sign")
			}
			if err := seal.Verify(key, "x", []byte("m"), k.Signer().Sign("x", []byte("m"))); err != nil {
				t.Error(err)
			}
			if s := k.Keys(); len(s) != 2 || s[0].State != "before" || s[1].State != "active" || s[0].ID == s[1].ID {
				t.Errorf("%+v", s)
			}
		}
		if err := a.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := a.Keys(); len(s) != 3 || s[1].State != "active" || s[2].State != "next" {
			t.Errorf("%+v", s)
		}
		// However late a server is, it signs with the newest key or the one before.
		if err := late.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !publicOf(t, late).Equal(ed25519.PublicKey(key)) {
			t.Error("a server whose clock is behind signs with a key of long ago")
		}
		if err := seal.Verify(key, "x", nil, late.Signer().Sign("x", nil)); err != nil {
			t.Error(err)
		}
		// What signs no more is not kept.
		plain, err := box.Open("seal/signing", m.keys["seal/signing"])
		if err != nil || strings.Count(string(plain), `"seed"`) != 2 {
			t.Errorf("%s, %v", plain, err)
		}
	})
}

// Tokens of the key before live as long as they may, and those of older keys
// have ended.
func TestTokensOverRotations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		k := signing(t, m, m.server(t, keyFile(t)), 0)
		tokens := k.Tokens("stella.test")
		cert := strings.Repeat("ab", 32)
		make := func() string {
			t.Helper()
			token, err := tokens.TaskToken("t", "a", cert, "task", "target", 1, time.Now().Add(365*24*time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		rotate := func() {
			t.Helper()
			if err := k.Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(settle) //nolint:forbidigo // in a bubble
		}
		takes := func(what, token string, want bool) {
			t.Helper()
			if _, err := tokens.Verify(token, cert); (err == nil) != want {
				t.Errorf("%s: %v", what, err)
			}
		}
		first := make()
		rotate()
		second := make()
		takes("of the key before", first, true)
		takes("of this key", second, true)
		rotate()
		takes("of two keys ago, soon", first, true)
		time.Sleep(24*time.Hour + 30*time.Minute) //nolint:forbidigo // in a bubble
		takes("of the key before, a day later", second, true)
		time.Sleep(time.Hour) //nolint:forbidigo // in a bubble
		takes("of the key before, too late", second, false)
		takes("of two keys ago, too late", first, false)
		takes("of this key", make(), true)
	})
}

func TestSigningKeysThatAreNone(t *testing.T) {
	t.Parallel()
	m := newMemory()
	box := m.server(t, keyFile(t))
	for _, plain := range []string{"[]", "{}", "nothing", `[{"public":"AAAA"}]`, `[{"public":"` + strings.Repeat("A", 43) + `="}]`} {
		sealed, err := box.Seal("seal/signing", []byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		m.keys["seal/signing"] = sealed
		if _, err := seal.LoadSigningKeys(t.Context(), m, box, 0, time.Now); err == nil || !strings.Contains(err.Error(), "load the signing keys") {
			t.Errorf("%s: %v", plain, err)
		}
	}
}
