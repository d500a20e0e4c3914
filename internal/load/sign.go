package load

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// Simulated agents sign their heartbeats as real ones do, or a server would be
// measured that has less to do. It is written here once more, from
// docs/protocol.md, so that the server is not held to its own mistakes.

// signer signs for agents, in one boot: a later run is a later boot, whatever
// identities it uses again.
type signer struct{ boot int64 }

func newSigner() signer { return signer{time.Now().UnixMilli()} }

// sign is an ECDSA signature by the agent's key: r and s, 32 bytes each.
func (id *Identity) sign(text []byte) ([]byte, error) {
	sum := sha256.Sum256(text)
	r, s, err := ecdsa.Sign(rand.Reader, id.key, sum[:])
	if err != nil {
		return nil, fmt.Errorf("sign as %s: %w", id.Name, err)
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out, nil
}

// request signs a heartbeat that is a plain request (RFC 9421).
func (s signer) request(id *Identity, req *http.Request, body []byte) error {
	digest, cert := sha256.Sum256(body), sha256.Sum256(id.cert.Certificate[0])
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(digest[:])+":")
	params := fmt.Sprintf(`("@method" "@path" "content-digest" "content-type");created=%d;keyid="%s";alg="ecdsa-p256-sha256";nonce="%s";tag="%s"`,
		time.Now().Unix(), hex.EncodeToString(cert[:]), api.SignatureNonce(s.boot, id.signed.Add(1)), api.SignatureTag)
	value, err := id.sign(fmt.Appendf(nil, "\"@method\": %s\n\"@path\": %s\n\"content-digest\": %s\n\"content-type\": %s\n\"@signature-params\": %s",
		req.Method, req.URL.EscapedPath(), req.Header.Get("Content-Digest"), req.Header.Get("Content-Type"), params))
	req.Header.Set("Signature-Input", "sig="+params)
	req.Header.Set("Signature", "sig=:"+base64.StdEncoding.EncodeToString(value)+":")
	return err
}

// vow is what a signed hello has promised for its link: the key of its heartbeats.
type vow struct {
	opening *opening // nil after the welcome
	key     [32]byte
	number  int64
}

// opening is what is needed until the welcome.
type opening struct {
	agentID  string
	exported []byte
	share    *ecdh.PrivateKey
}

// hello signs the hello of a link over a connection.
func (s signer) hello(id *Identity, conn *tls.Conn, hello *stellav1.Hello) (*stellav1.ConnectRequest, *vow, error) {
	cs := conn.ConnectionState()
	exported, err := cs.ExportKeyingMaterial(api.LinkExporter, nil, api.LinkExporterSize)
	if err != nil {
		return nil, nil, fmt.Errorf("export from TLS: %w", err)
	}
	share, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key share: %w", err)
	}
	own := proto.CloneOf(hello)
	own.Boot, own.Number, own.KeyShare = s.boot, id.signed.Add(1), share.PublicKey().Bytes()
	data, err := proto.Marshal(own)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the hello: %w", err)
	}
	signature, err := id.sign(api.SignedHelloText(exported, id.ID, data))
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_SignedHello{SignedHello: &stellav1.SignedHello{Hello: data, Signature: signature}}},
		&vow{opening: &opening{agentID: id.ID, exported: exported, share: share}}, err
}

// take takes a frame: the welcome has the server's share of the key.
func (v *vow) take(f *stellav1.ConnectResponse) error {
	w := f.GetWelcome()
	if w == nil || v.opening == nil {
		return nil
	}
	o := v.opening
	v.opening = nil
	public, err := ecdh.X25519().NewPublicKey(w.GetKeyShare())
	if err != nil {
		return errors.New("the server's welcome does not answer a signed hello: it is older than signed heartbeats")
	}
	secret, err := o.share.ECDH(public)
	if err != nil {
		return fmt.Errorf("the server's key share: %w", err)
	}
	key, err := hkdf.Key(sha256.New, secret, o.exported, api.HeartbeatKeyInfo(o.share.PublicKey().Bytes(), w.GetKeyShare(), o.agentID), len(v.key))
	copy(v.key[:], key)
	return err
}

// beat is the link's next heartbeat. Heartbeats must go out in the order in which
// they were made.
func (v *vow) beat(heartbeat []byte) *stellav1.ConnectRequest {
	v.number++
	mac := hmac.New(sha256.New, v.key[:])
	_, _ = mac.Write(api.SignedHeartbeatPrefix(v.number)) // never fails
	_, _ = mac.Write(heartbeat)                           // as above
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_SignedHeartbeat{SignedHeartbeat: &stellav1.SignedHeartbeat{
		Heartbeat: heartbeat, Number: v.number, Mac: mac.Sum(nil),
	}}}
}
