package seal_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/internal/seal"
)

func fingerprint(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// signers is a signer with its key and a clock.
type signers struct {
	*seal.TokenSigner
	key ed25519.PrivateKey
	now time.Time
}

func newSigner(t testing.TB, seed byte, issuer string) *signers {
	t.Helper()
	raw := make([]byte, ed25519.SeedSize)
	raw[0] = seed
	s := &signers{key: ed25519.NewKeyFromSeed(raw), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	var err error
	if s.TokenSigner, err = seal.NewTokenSigner(s.key, issuer, func() time.Time { return s.now }); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAgentToken(t *testing.T) {
	t.Parallel()
	s := newSigner(t, 1, "stella.test")
	mine := fingerprint("mine")
	token, err := s.AgentToken("default", "agent-1", mine, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	want := &seal.AgentClaims{Tenant: "default", AgentID: "agent-1", CertFingerprint: mine, Expires: s.now.Add(time.Hour)}
	got, err := s.Verify(token, mine)
	if err != nil || !got.Expires.Equal(want.Expires) {
		t.Fatalf("%+v, %v", got, err)
	}
	got.Expires = want.Expires
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	if _, err := s.Verify(token, fingerprint("another certificate")); err == nil {
		t.Error("it is good for another certificate")
	}
	if _, err := s.Verify(token, ""); err == nil {
		t.Error("it is good without a certificate")
	}
	if _, err := newSigner(t, 1, "another.test").Verify(token, mine); err == nil {
		t.Error("it is good for another trust domain")
	}
	if _, err := newSigner(t, 2, "stella.test").Verify(token, mine); err == nil {
		t.Error("it is good under another key")
	}
	s.now = s.now.Add(time.Hour - time.Second)
	if _, err := s.Verify(token, mine); err != nil {
		t.Errorf("just before its end: %v", err)
	}
	s.now = s.now.Add(2 * time.Second)
	if _, err := s.Verify(token, mine); err == nil {
		t.Error("it does not end")
	}
	if _, err := s.AgentToken("default", "a", "no fingerprint", time.Hour); err == nil {
		t.Error("it is bound to nothing")
	}
}

func TestTaskToken(t *testing.T) {
	t.Parallel()
	s := newSigner(t, 1, "stella.test")
	token, err := s.TaskToken("default", "agent-1", fingerprint("mine"), "task-1", "target-1", 3, s.now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Verify(token, fingerprint("mine"))
	if err != nil || got.TaskID != "task-1" || got.TargetID != "target-1" || got.Attempt != 3 || !got.Expires.Equal(s.now.Add(time.Minute)) {
		t.Errorf("%+v, %v", got, err)
	}
}

// forge makes a token with a header, claims and a signature of one's own.
func forge(header, claims map[string]any, sign func(text []byte) []byte) string {
	part := func(v any) string {
		data, _ := json.Marshal(v) // maps of plain values
		return base64.RawURLEncoding.EncodeToString(data)
	}
	text := part(header) + "." + part(claims)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(text)))
}

// A token's own header does not decide how it is checked, and none of the
// claims may be missing.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	s := newSigner(t, 1, "stella.test")
	mine := fingerprint("mine")
	raw, _ := hex.DecodeString(mine)
	public, _ := s.key.Public().(ed25519.PublicKey)
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	claims := func(change func(map[string]any)) map[string]any {
		c := map[string]any{
			"iss": "stella.test", "sub": "agent-1", "aud": []string{"stella-agent"}, "tenant": "default", "iat": s.now.Unix(),
			"exp": s.now.Add(time.Hour).Unix(), "cnf": map[string]string{"x5t#S256": base64.RawURLEncoding.EncodeToString(raw)},
		}
		change(c)
		return c
	}
	same := func(map[string]any) {}
	eddsa := func(text []byte) []byte { return ed25519.Sign(s.key, text) }
	hs256 := func(key []byte) func([]byte) []byte {
		return func(text []byte) []byte {
			h := hmac.New(sha256.New, key)
			h.Write(text)
			return h.Sum(nil)
		}
	}
	none := func([]byte) []byte { return nil }
	// The forger can make a good one, so the others fail for their own reason.
	if _, err := s.Verify(forge(map[string]any{"alg": "EdDSA", "typ": "JWT"}, claims(same), eddsa), mine); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for name, token := range map[string]string{
		"no algorithm":          forge(map[string]any{"alg": "none"}, claims(same), none),
		"no algorithm, signed":  forge(map[string]any{"alg": "none"}, claims(same), eddsa),
		"public key as secret":  forge(map[string]any{"alg": "HS256"}, claims(same), hs256(public)),
		"the same, encoded":     forge(map[string]any{"alg": "HS256"}, claims(same), hs256(spki)),
		"own key in the header": forge(map[string]any{"alg": "EdDSA", "jwk": map[string]string{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(make([]byte, 32))}}, claims(same), none),
		"unsigned":              forge(map[string]any{"alg": "EdDSA"}, claims(same), none),
		"other issuer":          forge(map[string]any{"alg": "EdDSA"}, claims(func(c map[string]any) { c["iss"] = "evil.test" }), eddsa),
		"no issuer":             forge(map[string]any{"alg": "EdDSA"}, claims(func(c map[string]any) { delete(c, "iss") }), eddsa),
		"other audience":        forge(map[string]any{"alg": "EdDSA"}, claims(func(c map[string]any) { c["aud"] = "stella-cli" }), eddsa),
		"no audience":           forge(map[string]any{"alg": "EdDSA"}, claims(func(c map[string]any) { delete(c, "aud") }), eddsa),
		"no end":                forge(map[string]any{"alg": "EdDSA"}, claims(func(c map[string]any) { delete(c, "exp") }), eddsa),
		"ended":                 forge(map[string]any{"alg": "EdDSA"}, claims(func(c map[string]any) { c["exp"] = s.now.Unix() - 1 }), eddsa),
		"not begun":             forge(map[string]any{"alg": "EdDSA"}, claims(func(c map[string]any) { c["nbf"] = s.now.Unix() + 60 }), eddsa),
		"no certificate":        forge(map[string]any{"alg": "EdDSA"}, claims(func(c map[string]any) { delete(c, "cnf") }), eddsa),
		"empty certificate":     forge(map[string]any{"alg": "EdDSA"}, claims(func(c map[string]any) { c["cnf"] = map[string]string{"x5t#S256": ""} }), eddsa),
		"critical extension":    forge(map[string]any{"alg": "EdDSA", "crit": []string{"x"}, "x": 1}, claims(same), eddsa),
		"nothing":               "",
		"dots":                  "..",
	} {
		if got, err := s.Verify(token, mine); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
}

func FuzzVerify(f *testing.F) {
	s := newSigner(f, 1, "stella.test")
	mine := fingerprint("mine")
	good, err := s.TaskToken("default", "a", mine, "t", "g", 1, s.now.Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-2])
	f.Add(strings.ReplaceAll(good, ".", ".."))
	f.Add("e30.e30.")
	parts := strings.Split(good, ".")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := s.Verify(token, mine)
		if err != nil {
			return
		}
		// Nobody makes a signature by chance: what is taken says what was signed.
		got := strings.Split(token, ".")
		if len(got) != 3 || got[0] != parts[0] || got[1] != parts[1] || c.TaskID != "t" {
			t.Fatalf("taken: %s", token)
		}
	})
}
