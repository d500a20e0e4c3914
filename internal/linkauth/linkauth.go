// Package linkauth is how an agent vouches for what it says on a link.
//
// The agent signs its hello with the key of its certificate, together with what
// TLS exports for this very connection, so that the hello is of no use on another
// one. The hello has one share of a key agreement (X25519), the welcome has the
// other; both ends make of them a key that nobody else has, also nobody who ends
// TLS in between. Each heartbeat then carries its number and a MAC under that
// key: one more than the one before, or it is not heard.
//
// The texts that are signed and authenticated are package api's; both sides of a
// link use this package, and it knows neither.
package linkauth

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"

	"stella-ops.org/stella/api"
)

// Exported returns what TLS exports for a connection. It is another value for
// each connection, and the same at both ends of one. It fails below TLS 1.3.
func Exported(cs *tls.ConnectionState) ([]byte, error) {
	if cs.Version < tls.VersionTLS13 {
		return nil, errors.New("a signed hello needs TLS 1.3")
	}
	out, err := cs.ExportKeyingMaterial(api.LinkExporter, nil, api.LinkExporterSize)
	if err != nil {
		return nil, fmt.Errorf("export from TLS: %w", err)
	}
	return out, nil
}

// Share is one side's secret half of a key agreement, good for one link.
type Share struct{ key *ecdh.PrivateKey }

// NewShare makes a share.
func NewShare() (*Share, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key share: %w", err)
	}
	return &Share{key}, nil
}

// Public is what the other side gets, 32 bytes.
func (s *Share) Public() []byte { return s.key.PublicKey().Bytes() }

// Binding is what a link's key is bound to beside the shares.
type Binding struct {
	// Exported is what TLS exports for the connection.
	Exported []byte
	AgentID  string
}

// AgentKey is the link's key at the agent's end: own is the agent's share.
func (b *Binding) AgentKey(own *Share, server []byte) (Key, error) {
	return b.key(own, server, own.Public(), server)
}

// ServerKey is the link's key at the server's end: own is the server's share.
func (b *Binding) ServerKey(own *Share, agent []byte) (Key, error) {
	return b.key(own, agent, agent, own.Public())
}

func (b *Binding) key(own *Share, other, agentShare, serverShare []byte) (k Key, err error) {
	public, err := ecdh.X25519().NewPublicKey(other)
	if err != nil {
		return k, fmt.Errorf("the key share is none of X25519 (32 bytes): %w", err)
	}
	secret, err := own.key.ECDH(public)
	if err != nil {
		return k, fmt.Errorf("the key share is of no use: %w", err)
	}
	out, err := hkdf.Key(sha256.New, secret, b.Exported, api.HeartbeatKeyInfo(agentShare, serverShare, b.AgentID), len(k))
	if err != nil {
		return k, fmt.Errorf("make the link's key: %w", err)
	}
	copy(k[:], out)
	return k, nil
}

// Key is what a link's heartbeats are authenticated with. It is never shown: it
// formats as a word.
type Key [32]byte

// String keeps the key out of logs.
func (Key) String() string { return "(link key)" }

// GoString keeps the key out of logs.
func (Key) GoString() string { return "(link key)" }

// MAC is that of a heartbeat with its number, 32 bytes.
func (k *Key) MAC(number int64, heartbeat []byte) []byte {
	mac := hmac.New(sha256.New, k[:])
	_, _ = mac.Write(api.SignedHeartbeatPrefix(number)) // never fails
	_, _ = mac.Write(heartbeat)                         // as above
	return mac.Sum(nil)
}

// Check reports whether a MAC is good, in a time that says nothing of it.
func (k *Key) Check(number int64, heartbeat, mac []byte) bool {
	return hmac.Equal(k.MAC(number, heartbeat), mac)
}
