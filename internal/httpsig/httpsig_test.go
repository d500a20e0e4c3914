package httpsig

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"testing"
)

var components = []string{"@method", "@path", "content-digest", "content-type"}

func keys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	p256, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err2 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, err3 := ed25519.GenerateKey(rand.Reader)
	r, err4 := rsa.GenerateKey(rand.Reader, 3072)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return map[string]crypto.Signer{"ecdsa-p256-sha256": p256, "ecdsa-p384-sha384": p384, "ed25519": ed, "rsa-pss-sha512": r}
}

// signed is a message with a signature.
func signed(t testing.TB, key crypto.Signer) Message {
	t.Helper()
	m := Message{Method: http.MethodPost, Path: "/api/v1/agents/a%2Fb/heartbeat", Header: http.Header{"Content-Type": {"application/json"}}}
	SetDigest(m.Header, []byte("body"))
	if err := Sign(m, components, Params{Created: 1, KeyID: "key", Nonce: "7.42", Tag: "tag"}, key); err != nil {
		t.Fatal(err)
	}
	return m
}

// check finds and verifies.
func check(m Message, key crypto.PublicKey) error {
	s, err := Find(m.Header, "tag")
	if err != nil {
		return err
	}
	return s.Verify(m, key)
}

func TestSignAndVerify(t *testing.T) {
	t.Parallel()
	all := keys(t)
	for alg, key := range all {
		m := signed(t, key)
		s, err := Find(m.Header, "tag")
		if err != nil {
			t.Fatal(err)
		}
		if want := (Params{Created: 1, KeyID: "key", Alg: alg, Nonce: "7.42", Tag: "tag"}); s.Params != want || !slices.Equal(s.Components, components) {
			t.Errorf("%s: %+v %q", alg, s.Params, s.Components)
		}
		if err := s.Verify(m, key.Public()); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if err := CheckDigest(m.Header, []byte("body")); err != nil {
			t.Error(err)
		}
		for other, wrong := range all {
			if other != alg && s.Verify(m, wrong.Public()) == nil {
				t.Errorf("%s: good by a key of %s", alg, other)
			}
		}
		for what, alter := range map[string]func(*Message){
			"method":         func(m *Message) { m.Method = http.MethodPut },
			"path":           func(m *Message) { m.Path = "/api/v1/agents/a/b/heartbeat" },
			"empty path":     func(m *Message) { m.Path = "" },
			"digest":         func(m *Message) { SetDigest(m.Header, []byte("other")) },
			"type":           func(m *Message) { m.Header.Set("Content-Type", "text/plain") },
			"another type":   func(m *Message) { m.Header.Add("Content-Type", "text/plain") },
			"no type":        func(m *Message) { m.Header.Del("Content-Type") },
			"created":        func(m *Message) { alterInput(m, "created=1", "created=2") },
			"keyid":          func(m *Message) { alterInput(m, `keyid="key"`, `keyid="kex"`) },
			"nonce":          func(m *Message) { alterInput(m, "7.42", "7.43") },
			"less covered":   func(m *Message) { alterInput(m, ` "content-type"`, "") },
			"covered anew":   func(m *Message) { alterInput(m, `"@method"`, `"@method" "@method"`) },
			"another order":  func(m *Message) { alterInput(m, `"@method" "@path"`, `"@path" "@method"`) },
			"line in a type": func(m *Message) { m.Header.Set("Content-Type", "a\n\"@path\": /x") },
		} {
			altered := Message{m.Method, m.Path, m.Header.Clone()}
			alter(&altered)
			if check(altered, key.Public()) == nil {
				t.Errorf("%s: good with another %s", alg, what)
			}
		}
	}
}

func alterInput(m *Message, was, is string) {
	m.Header.Set("Signature-Input", strings.Replace(m.Header.Get("Signature-Input"), was, is, 1))
}

// A message may carry signatures of others; of ours there is one, and it is as it
// should be.
func TestFind(t *testing.T) {
	t.Parallel()
	key := keys(t)["ed25519"]
	good := signed(t, key)
	const foreign = `theirs=("@authority" "x";sf);expires=5;tag="other"`
	for name, c := range map[string]struct {
		alter func(http.Header)
		want  string // in the error; empty when it is found, "none" when it is not there
	}{
		"alone":            {func(http.Header) {}, ""},
		"among others":     {func(h http.Header) { h.Add("Signature-Input", foreign); h.Add("Signature", "theirs=:AAAA:") }, ""},
		"others on a line": {func(h http.Header) { h.Set("Signature-Input", foreign+", "+h.Get("Signature-Input")) }, ""},
		"only others":      {func(h http.Header) { h.Set("Signature-Input", foreign) }, "none"},
		"none":             {func(h http.Header) { h.Del("Signature-Input") }, "none"},
		"two": {func(h http.Header) {
			h.Add("Signature-Input", strings.Replace(h.Get("Signature-Input"), "sig=", "again=", 1))
		}, "two signatures"},
		"no value":          {func(h http.Header) { h.Del("Signature") }, "no bytes"},
		"a value of text":   {func(h http.Header) { h.Set("Signature", `sig="AAAA"`) }, "no bytes"},
		"a list as a value": {func(h http.Header) { h.Set("Signature", `sig=(:AAAA:)`) }, "no bytes"},
		"a broken value":    {func(h http.Header) { h.Set("Signature", `sig=:A`) }, "Signature:"},
		"no list":           {func(h http.Header) { h.Set("Signature-Input", `sig="x"`) }, "no list"},
		"broken":            {func(h http.Header) { h.Set("Signature-Input", `sig=(`) }, "Signature-Input:"},
		"no created":        {func(h http.Header) { input(h, "created=1;", "") }, "created is missing"},
		"created as text":   {func(h http.Header) { input(h, "created=1", `created="1"`) }, "no whole number"},
		"no alg":            {func(h http.Header) { input(h, `alg="ed25519";`, "") }, "alg is missing"},
		"no nonce":          {func(h http.Header) { input(h, `nonce="7.42";`, "") }, "nonce is missing"},
		"no keyid":          {func(h http.Header) { input(h, `keyid="key";`, "") }, "keyid is missing"},
		"a number as keyid": {func(h http.Header) { input(h, `keyid="key"`, "keyid=5") }, "keyid"},
		"expires":           {func(h http.Header) { input(h, `created=1`, "created=1;expires=2") }, "expires is not known"},
		"a parameter":       {func(h http.Header) { input(h, `"@path"`, `"@path";req`) }, "without parameters"},
		"a capital":         {func(h http.Header) { input(h, `"content-type"`, `"Content-Type"`) }, "lower case"},
		"a token":           {func(h http.Header) { input(h, `"content-type"`, `content-type`) }, "in quotes"},
	} {
		h := good.Header.Clone()
		c.alter(h)
		s, err := Find(h, "tag")
		switch {
		case c.want == "none":
			if s != nil || err != nil {
				t.Errorf("%s: %v %v", name, s, err)
			}
		case c.want == "":
			if err != nil || s.Verify(Message{good.Method, good.Path, h}, key.Public()) != nil {
				t.Errorf("%s: %v", name, err)
			}
		case err == nil || !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func input(h http.Header, was, is string) { alterInput(&Message{Header: h}, was, is) }

func TestDigest(t *testing.T) {
	t.Parallel()
	// RFC 9530, appendix B.1, has this content and its SHA-256.
	body := []byte("{\"hello\": \"world\"}\n")
	h := http.Header{}
	SetDigest(h, body)
	if got := h.Get("Content-Digest"); got != "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:" {
		t.Error(got)
	}
	for value, good := range map[string]bool{
		h.Get("Content-Digest"):                      true,
		"sha-512=:AAAA:, " + h.Get("Content-Digest"): true,
		"":                 false,
		"sha-256=:AAAA:":   false,
		`sha-256="AAAA"`:   false,
		"sha-256=(:AAAA:)": false,
		"sha-512=:AAAA:":   false,
		"sha-256=:":        false,
	} {
		if err := CheckDigest(http.Header{"Content-Digest": {value}}, body); (err == nil) != good {
			t.Errorf("%q: %v", value, err)
		}
	}
	if CheckDigest(http.Header{}, body) == nil || CheckDigest(h, body[1:]) == nil {
		t.Error("good without a digest, or with another body")
	}
}

func TestKeysThatAreNotTaken(t *testing.T) {
	t.Parallel()
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Algorithm(p224.Public()); err == nil {
		t.Error("P-224 has an algorithm")
	}
	if err := Sign(Message{Header: http.Header{}}, nil, Params{}, p224); err == nil {
		t.Error("P-224 signs")
	}
	if err := VerifyText("a key", nil, nil); err == nil {
		t.Error("a text is a key")
	}
}

// Whatever a stranger writes into the headers is refused, or is one signature that
// does not fit; and it is never taken for another message's.
func FuzzFind(f *testing.F) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	good := signed(f, key)
	f.Add(good.Header.Get("Signature-Input"), good.Header.Get("Signature"), good.Header.Get("Content-Digest"), good.Path)
	f.Add(`sig=();created=1;keyid="";alg="ed25519";nonce="";tag="tag"`, "sig=::", "sha-256=::", "")
	f.Add(`a=("@path";sf "x"), b=?0`, "a=:AAAA:", "", "/\n")
	f.Fuzz(func(t *testing.T, input, value, digest, path string) {
		m := Message{Method: http.MethodPost, Path: path, Header: http.Header{
			"Signature-Input": {input}, "Signature": {value}, "Content-Digest": {digest}, "Content-Type": {"application/json"},
		}}
		_ = CheckDigest(m.Header, []byte("body")) // must not panic
		s, err := Find(m.Header, "tag")
		if err != nil || s == nil {
			return
		}
		if s.Tag != "tag" {
			t.Fatalf("found %+v", s.Params)
		}
		if s.Verify(m, key.Public()) == nil && (path != good.Path || digest != good.Header.Get("Content-Digest") || !slices.Equal(s.Components, components)) {
			t.Fatalf("good: %q %q %q", input, digest, path)
		}
	})
}

// A signature by the right key is no better when it says another algorithm, or
// covers something twice: RFC 9421, sections 3.2 and 2.5.
func TestWellSignedAndRefused(t *testing.T) {
	t.Parallel()
	key := keys(t)["ed25519"]
	const params = `;created=1;keyid="key";alg="ed25519";nonce="7.42";tag="tag"`
	for name, c := range map[string]struct{ list, params, lines, want string }{
		"as it should be":   {`("@method" "@path")`, params, "\"@method\": POST\n\"@path\": /\n", ""},
		"another algorithm": {`("@method" "@path")`, strings.Replace(params, "ed25519", "rsa-pss-sha512", 1), "\"@method\": POST\n\"@path\": /\n", "alg"},
		"twice the same":    {`("@method" "@method")`, params, "\"@method\": POST\n\"@method\": POST\n", "twice"},
	} {
		value, err := SignText(key, []byte(c.lines+`"@signature-params": `+c.list+c.params))
		if err != nil {
			t.Fatal(err)
		}
		m := Message{Method: http.MethodPost, Path: "/", Header: http.Header{
			"Signature-Input": {"sig=" + c.list + c.params}, "Signature": {"sig=:" + base64.StdEncoding.EncodeToString(value) + ":"},
		}}
		if err := check(m, key.Public()); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
