package api

import "time"

// ServerKeys is the answer of GET /pki/server-keys: the keys by which the
// servers have signed what they send, and will.
type ServerKeys struct {
	Keys []ServerKey `json:"keys" nullable:"false" doc:"The keys, the oldest first. Each but the first is signed by the one before."`
}

// ServerKey is one of the keys (Ed25519, RFC 8032).
type ServerKey struct {
	PublicKey string    `json:"publicKey" doc:"The 32 bytes of the public key, in base64."`
	From      time.Time `json:"from" doc:"When it begins to sign; it ends when the next one begins."`
	// Signature is on ServerKeyText, by the key before.
	Signature []byte `json:"signature,omitempty" doc:"By the key before this one, as the protocol's page says; the first has none."`
}

// ServerStatus is the answer of GET /healthz and of GET /readyz.
type ServerStatus struct {
	Status string `json:"status" doc:"ok: the server runs; ready: it can do its work, too."`
}
