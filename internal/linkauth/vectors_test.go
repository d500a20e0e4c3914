package linkauth

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/httpsig"
)

// updateVectors writes docs/signed-heartbeat.json anew, with new keys.
var updateVectors = flag.Bool("update-vectors", false, "write docs/signed-heartbeat.json anew")

const vectorsFile = "../../docs/signed-heartbeat.json"

// vectors are a request and a link, each with all that it takes to make it again
// but for the chance in a signature. Bytes are in base64, but for those that are
// said to be in hex.
type vectors struct {
	AgentID string `json:"agentId"`
	// PrivateKey is the agent's, of ECDSA P-256 (PKCS#8).
	PrivateKey []byte        `json:"privateKey"`
	Request    requestVector `json:"request"`
	Link       linkVector    `json:"link"`
}

type requestVector struct {
	Method         string `json:"method"`
	Path           string `json:"path"`
	ContentType    string `json:"contentType"`
	Body           string `json:"body"`
	ContentDigest  string `json:"contentDigest"`
	Base           string `json:"base"`
	SignatureInput string `json:"signatureInput"`
	Signature      string `json:"signature"`
}

type linkVector struct {
	Exported          string       `json:"exportedHex"`
	AgentSharePrivate string       `json:"agentSharePrivateHex"`
	AgentShare        string       `json:"agentShareHex"`
	Hello             []byte       `json:"hello"`
	Signed            string       `json:"signedHex"` // the text that the signature is on
	Signature         []byte       `json:"signature"`
	ServerShare       string       `json:"serverShareHex"`
	Info              string       `json:"infoHex"`
	Key               string       `json:"keyHex"`
	Heartbeats        []beatVector `json:"heartbeats"`
}

type beatVector struct {
	Number    int64  `json:"number"`
	Heartbeat []byte `json:"heartbeat"`
	MAC       string `json:"macHex"`
}

func readVectors(t *testing.T) (v vectors, key *ecdsa.PrivateKey) {
	t.Helper()
	data, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(v.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("a key of the kind %T", parsed)
	}
	return v, key
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	out, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func shareOf(t *testing.T, private []byte) *Share {
	t.Helper()
	key, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return &Share{key}
}

// What docs/signed-heartbeat.json says is what our own code says.
func TestSignedHeartbeatVectors(t *testing.T) {
	t.Parallel()
	if *updateVectors {
		writeVectors(t)
	}
	v, key := readVectors(t)
	r := &v.Request
	m := r.message()
	if err := httpsig.CheckDigest(m.Header, []byte(r.Body)); err != nil {
		t.Error(err)
	}
	s, err := httpsig.Find(m.Header, api.SignatureTag)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(m, key.Public()); err != nil {
		t.Error(err)
	}
	if !slices.Equal(s.Components, api.SignedComponents()) || s.Nonce != api.SignatureNonce(7, 42) || s.Alg != "ecdsa-p256-sha256" {
		t.Errorf("%+v", s)
	}
	if r.Base != r.baseText() {
		t.Errorf("the base is\n%s\nand not\n%s", r.baseText(), r.Base)
	}
	if err := verifyBase(key.Public(), r); err != nil {
		t.Errorf("the base that is shown is not what is signed: %v", err)
	}

	l := &v.Link
	text := api.SignedHelloText(unhex(t, l.Exported), v.AgentID, l.Hello)
	if hex.EncodeToString(text) != l.Signed {
		t.Errorf("what is signed: %x", text)
	}
	if err := httpsig.VerifyText(key.Public(), text, l.Signature); err != nil {
		t.Error(err)
	}
	var hello stellav1.Hello
	if err := proto.Unmarshal(l.Hello, &hello); err != nil || hex.EncodeToString(hello.GetKeyShare()) != l.AgentShare || hello.GetBoot() != 7 || hello.GetNumber() != 43 {
		t.Errorf("%v, %v", &hello, err)
	}
	own := shareOf(t, unhex(t, l.AgentSharePrivate))
	b := &Binding{Exported: unhex(t, l.Exported), AgentID: v.AgentID}
	made, err := b.AgentKey(own, unhex(t, l.ServerShare))
	if err != nil || hex.EncodeToString(made[:]) != l.Key {
		t.Errorf("the key is %x, %v", made[:], err)
	}
	if info := api.HeartbeatKeyInfo(own.Public(), unhex(t, l.ServerShare), v.AgentID); hex.EncodeToString([]byte(info)) != l.Info {
		t.Errorf("info %x", info)
	}
	for _, beat := range l.Heartbeats {
		if mac := made.MAC(beat.Number, beat.Heartbeat); hex.EncodeToString(mac) != beat.MAC {
			t.Errorf("the MAC of %d is %x", beat.Number, mac)
		}
	}
	if len(l.Heartbeats) != 2 || bytes.Equal(l.Heartbeats[0].Heartbeat, l.Heartbeats[1].Heartbeat) {
		t.Error("two heartbeats are expected")
	}
}

func (r *requestVector) message() httpsig.Message {
	return httpsig.Message{Method: r.Method, Path: r.Path, Header: http.Header{
		"Content-Type": {r.ContentType}, "Content-Digest": {r.ContentDigest}, "Signature-Input": {r.SignatureInput}, "Signature": {r.Signature},
	}}
}

// baseText is what is signed, put together as the page says.
func (r *requestVector) baseText() string {
	return "\"@method\": " + r.Method + "\n\"@path\": " + r.Path + "\n\"content-digest\": " + r.ContentDigest +
		"\n\"content-type\": " + r.ContentType + "\n\"@signature-params\": " + strings.TrimPrefix(r.SignatureInput, "sig=")
}

// verifyBase verifies the signature on the base as it is shown, by crypto/ecdsa
// alone.
func verifyBase(key crypto.PublicKey, r *requestVector) error {
	raw := strings.TrimSuffix(strings.TrimPrefix(r.Signature, "sig=:"), ":")
	var signature []byte
	if err := json.Unmarshal([]byte(`"`+raw+`"`), &signature); err != nil {
		return err
	}
	return httpsig.VerifyText(key, []byte(r.Base), signature)
}

func writeVectors(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v := vectors{AgentID: "0198e2a0-0000-7000-8000-00000000a9e7"}
	if v.PrivateKey, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		t.Fatal(err)
	}
	r := &v.Request
	*r = requestVector{Method: http.MethodPost, Path: "/api/v1/agents/" + v.AgentID + "/heartbeat", ContentType: "application/json", Body: `{"status":"online"}`}
	m := r.message()
	httpsig.SetDigest(m.Header, []byte(r.Body))
	if err := httpsig.Sign(m, api.SignedComponents(), httpsig.Params{
		Created: 1767323045, KeyID: strings.Repeat("5d41402abc4b2a76", 4), Nonce: api.SignatureNonce(7, 42), Tag: api.SignatureTag,
	}, key); err != nil {
		t.Fatal(err)
	}
	r.ContentDigest, r.SignatureInput, r.Signature = m.Header.Get("Content-Digest"), m.Header.Get("Signature-Input"), m.Header.Get("Signature")
	r.Base = r.baseText()

	l := &v.Link
	exported := make([]byte, api.LinkExporterSize)
	_, _ = rand.Read(exported) // never fails
	own, err1 := NewShare()
	server, err2 := NewShare()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	hello, err := proto.Marshal(&stellav1.Hello{
		ProtocolVersion: 1, Version: "1.0", Capabilities: []string{"host.execute"}, MaxConcurrentTasks: 5, Boot: 7, Number: 43, KeyShare: own.Public(),
	})
	if err != nil {
		t.Fatal(err)
	}
	text := api.SignedHelloText(exported, v.AgentID, hello)
	b := Binding{Exported: exported, AgentID: v.AgentID}
	made, err := b.AgentKey(own, server.Public())
	if err != nil {
		t.Fatal(err)
	}
	*l = linkVector{
		Exported: hex.EncodeToString(exported), AgentSharePrivate: hex.EncodeToString(own.key.Bytes()), AgentShare: hex.EncodeToString(own.Public()),
		Hello: hello, Signed: hex.EncodeToString(text), ServerShare: hex.EncodeToString(server.Public()), Key: hex.EncodeToString(made[:]),
		Info: hex.EncodeToString([]byte(api.HeartbeatKeyInfo(own.Public(), server.Public(), v.AgentID))),
	}
	if l.Signature, err = httpsig.SignText(key, text); err != nil {
		t.Fatal(err)
	}
	for i, status := range []string{"online", "degraded"} {
		beat, err := proto.Marshal(&stellav1.Heartbeat{Status: status})
		if err != nil {
			t.Fatal(err)
		}
		number := int64(i + 1)
		l.Heartbeats = append(l.Heartbeats, beatVector{number, beat, hex.EncodeToString(made.MAC(number, beat))})
	}
	out, err := json.MarshalIndent(&v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorsFile, append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
