package httpsig

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/dunglas/httpsfv"
)

// vectors are those of RFC 9421, appendix B.2, for the algorithms that are spoken
// here. There is none for P-384.
var vectors = []struct{ name, key, input, signature string }{
	{
		"B.2.1, rsa-pss-sha512", `-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2
+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+
oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq
gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W
Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4
aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI
2wIDAQAB
-----END PUBLIC KEY-----
`,
		`sig=();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd"`,
		"sig=:d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckzXaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8ssinQ98Xw9Q==:",
	},
	{
		"B.2.4, ecdsa-p256-sha256", `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lf
w0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==
-----END PUBLIC KEY-----
`,
		`sig=("@status" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-ecc-p256"`,
		"sig=:wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgyahnzDnDAUy5eCdlYUEkLIj+32oiasw==:",
	},
	{
		"B.2.6, ed25519", `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
`,
		`sig=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`,
		"sig=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
	},
}

// rfcMessage is the request of the appendix, or its response.
func rfcMessage(response bool) func(string) (string, bool) {
	m := Message{Method: http.MethodPost, Path: "/foo", Header: http.Header{
		"Date": {"Tue, 20 Apr 2021 02:07:55 GMT"}, "Content-Type": {"application/json"}, "Content-Length": {"18"},
	}}
	derived := map[string]string{"@authority": "example.com"}
	if response {
		m.Header.Set("Content-Length", "23")
		m.Header.Set("Content-Digest", "sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX69wWdXymyU0rjJuahq4l5aGgfLQ==:")
		derived["@status"] = "200"
	}
	return func(name string) (string, bool) {
		if v, ok := derived[name]; ok {
			return v, true
		}
		return m.component(name)
	}
}

func publicKey(t *testing.T, text string) crypto.PublicKey {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What the RFC's authors have signed is good here, and nothing else is.
func TestVectorsOfTheRFC(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		inputs, err := httpsfv.UnmarshalDictionary([]string{v.input})
		if err != nil {
			t.Fatal(err)
		}
		member, _ := inputs.Get("sig")
		input, _ := member.(httpsfv.InnerList)
		signature, err := valueOf(http.Header{"Signature": {v.signature}}, "sig")
		if err != nil {
			t.Fatal(err)
		}
		text, err := base(input, rfcMessage(strings.Contains(v.input, "@status")))
		if err != nil {
			t.Fatal(err)
		}
		key := publicKey(t, v.key)
		if alg, err := Algorithm(key); err != nil || !strings.HasSuffix(v.name, alg) {
			t.Errorf("%s: %s, %v", v.name, alg, err)
		}
		if err := VerifyText(key, text, signature); err != nil {
			t.Errorf("%s: %v\n%s", v.name, err, text)
		}
		for i := range signature {
			signature[i] ^= 1
			if VerifyText(key, text, signature) == nil {
				t.Errorf("%s: good with another byte %d", v.name, i)
			}
			signature[i] ^= 1
		}
		if VerifyText(key, append(text, ' '), signature) == nil || VerifyText(key, text, signature[1:]) == nil || VerifyText(key, text, nil) == nil {
			t.Errorf("%s: good although something else was signed", v.name)
		}
	}
}
