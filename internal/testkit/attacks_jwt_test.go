package testkit_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/store/sqlite"
	"stella-ops.org/stella/internal/testkit"
)

// signingKey is the server's own, out of its data folder: with it a test makes
// tokens that are wrong in one thing alone.
func signingKey(t *testing.T, cp *testkit.ControlPlane) ed25519.PrivateKey {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(cp.Data, "stella.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	keyring, err := seal.OpenKeyring(t.Context(), st, filepath.Join(cp.Data, "master.key"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := st.Key(t.Context(), "seal/signing")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := keyring.Open("seal/signing", sealed)
	if err != nil {
		t.Fatal(err)
	}
	var keys []struct{ Seed []byte }
	if err := json.Unmarshal(plain, &keys); err != nil || len(keys) != 1 {
		t.Fatal(len(keys), err)
	}
	return ed25519.NewKeyFromSeed(keys[0].Seed)
}

type claims map[string]any

func (c claims) with(name string, value any) claims {
	out := maps.Clone(c)
	if out[name] = value; value == nil {
		delete(out, name)
	}
	return out
}

func signed(t *testing.T, alg jose.SignatureAlgorithm, key any, c claims) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(s).Claims(map[string]any(c)).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// unsigned is a token with any header, and what is called its signature.
func unsigned(t *testing.T, header, c map[string]any, signature string) string {
	t.Helper()
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	return part(header) + "." + part(c) + "." + signature
}

// No token is good but one that the server has made for this agent and this
// certificate, and not for long.
func TestAttackForgedTokens(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	a, b := newHandmade(t, cp, "a", "host"), newHandmade(t, cp, "b", "host")
	asA, asB := httpClient(tlsConfig(cp, a.cert)), httpClient(tlsConfig(cp, b.cert))
	if _, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{Name: "box", Kind: "host", Agent: "a", Config: api.TargetConfig{Directory: "/opt/box"}}); err != nil {
		t.Fatal(err)
	}
	tokenOf := func(c *http.Client) string {
		var out api.AgentToken
		_, body := call(t, c, http.MethodPost, cp.URL+"/api/v1/agents/token", nil, "{}")
		into(t, body, &out)
		return out.Token
	}
	thumb := func(h *handmade) map[string]string {
		raw, err := hex.DecodeString(pki.Fingerprint(h.cert.Certificate[0]))
		if err != nil {
			t.Fatal(err)
		}
		return map[string]string{"x5t#S256": base64.RawURLEncoding.EncodeToString(raw)}
	}
	key := signingKey(t, cp)
	public, _ := key.Public().(ed25519.PublicKey)
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	good := claims{"iss": "test.stella", "sub": a.id, "aud": []string{"stella-agent"}, "iat": now, "exp": now + 600, "tenant": "default", "cnf": thumb(a)}
	ofA := strings.Split(tokenOf(asA), ".")
	none := map[string]any{"alg": "none", "typ": "JWT"}

	task := func() (path string) {
		k, err := cp.Client.SubmitTask(t.Context(), api.TaskRequest{Type: api.TaskInspect, Target: "box"})
		if err != nil {
			t.Fatal(err)
		}
		return a.url("/tasks/" + k.ID + "/logs")
	}()
	ask := func(c *http.Client, path, token string) (int, []byte) {
		return call(t, c, http.MethodPost, path, map[string]string{"Authorization": "Bearer " + token}, api.LogRequest{Attempt: 1})
	}
	// The claims are right, and so is the way to show them: what is refused below
	// is refused for what it says.
	if status, body := ask(asA, task, signed(t, jose.EdDSA, key, good)); status == 401 || status == 403 {
		t.Fatalf("a token as the server makes it: %d %s", status, body)
	}
	for name, token := range map[string]string{
		"expired":                             signed(t, jose.EdDSA, key, good.with("exp", now-1)),
		"that never expires":                  signed(t, jose.EdDSA, key, good.with("exp", nil)),
		"not valid yet":                       signed(t, jose.EdDSA, key, good.with("nbf", now+600)),
		"of another audience":                 signed(t, jose.EdDSA, key, good.with("aud", []string{"somebody"})),
		"of no audience":                      signed(t, jose.EdDSA, key, good.with("aud", nil)),
		"of another issuer":                   signed(t, jose.EdDSA, key, good.with("iss", "evil.stella")),
		"of no issuer":                        signed(t, jose.EdDSA, key, good.with("iss", nil)),
		"of another agent":                    signed(t, jose.EdDSA, key, good.with("sub", b.id)),
		"of another tenant":                   signed(t, jose.EdDSA, key, good.with("tenant", "theirs")),
		"of another certificate":              signed(t, jose.EdDSA, key, good.with("cnf", thumb(b))),
		"of no certificate":                   signed(t, jose.EdDSA, key, good.with("cnf", nil)),
		"signed by a stranger":                signed(t, jose.EdDSA, foreign, good),
		"alg none":                            unsigned(t, none, good, ""),
		"alg NONE":                            unsigned(t, map[string]any{"alg": "NONE"}, good, ""),
		"alg none, with a signature":          unsigned(t, none, good, ofA[2]),
		"HS256 with the public key":           signed(t, jose.HS256, []byte(public), good),
		"HS256 with the public key in base64": signed(t, jose.HS256, []byte(base64.StdEncoding.EncodeToString(public)), good),
		"HS256 with the public key in PEM":    signed(t, jose.HS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), good),
		"RS256":                               signed(t, jose.RS256, rsaKey, good),
		"a key of its own in its header":      unsigned(t, map[string]any{"alg": "EdDSA", "jwk": jose.JSONWebKey{Key: foreign.Public()}}, good, strings.Split(signed(t, jose.EdDSA, foreign, good), ".")[2]),
		"other claims under a good signature": ofA[0] + "." + strings.Split(unsigned(t, none, good.with("exp", now+99999), ""), ".")[1] + "." + ofA[2],
		"without a signature":                 ofA[0] + "." + ofA[1] + ".",
		"in two parts":                        ofA[0] + "." + ofA[1],
		"encrypted":                           "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA",
		"an API token":                        cp.AdminToken,
		"nonsense":                            strings.Repeat("A", 8000),
		"nothing but dots":                    "..",
	} {
		status, body := ask(asA, task, token)
		if p := problem(t, body); status != http.StatusUnauthorized || p.Code != "token_refused" || len(body) > 600 {
			t.Errorf("a token %s: %d %s", name, status, body)
		}
	}
	// Without its certificate, and with another agent's, a good one is worth nothing.
	ours := tokenOf(asA)
	if status, body := ask(httpClient(tlsConfig(cp)), task, ours); status != 401 || problem(t, body).Code != "certificate_missing" {
		t.Errorf("without a certificate: %d %s", status, body)
	}
	if status, body := ask(asB, task, ours); status != 403 || problem(t, body).Code != "not_your_identity" {
		t.Errorf("with another's certificate, at the first one's door: %d %s", status, body)
	}
	if status, body := ask(asB, b.url("/tasks/x/logs"), ours); status != 401 || problem(t, body).Code != "token_refused" {
		t.Errorf("with another's certificate, at its own door: %d %s", status, body)
	}
	// An agent's token is no person's.
	if status, body := call(t, asA, http.MethodGet, cp.URL+"/api/v1/agents", map[string]string{"Authorization": "Bearer " + ours}, nil); status != 401 || problem(t, body).Code != "unauthenticated" {
		t.Errorf("as a person: %d %s", status, body)
	}
	well(t, cp)
}
