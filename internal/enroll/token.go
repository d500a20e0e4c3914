// Package enroll gives identities: it knows registration tokens, and how an
// agent that holds one (or proves the key it has) gets a certificate.
//
// It knows no SQL, no HTTP and no certificate encoding: an issuer signs, and a
// store spends the token and keeps the agent in one transaction.
package enroll

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
	"time"
)

// Token is a registration token. Only the hash of its secret is kept.
type Token struct {
	ID       string
	TenantID string
	Hash     string // SHA-256 of the secret, in hex

	// What the token binds; an agent cannot override it.
	Name         string
	AgentID      string
	Environment  string
	Group        string
	Cluster      string
	Platform     string
	Capabilities []string
	Labels       map[string]string
	// CertificateLife is how long its agents' certificates are good; 0 leaves
	// it to the server.
	CertificateLife time.Duration

	MaxUses   int
	Uses      int
	CreatedBy string
	CreatedAt time.Time
	ExpiresAt time.Time
	RevokedAt time.Time
}

// State is usable, used, expired or revoked.
func (t *Token) State(now time.Time) string {
	switch {
	case !t.RevokedAt.IsZero():
		return "revoked"
	case t.Uses >= t.MaxUses:
		return "used"
	case !now.Before(t.ExpiresAt):
		return "expired"
	}
	return "usable"
}

// A token reads reg_<secret>_<pin>. The secret is 160 random bits; the pin is
// the SHA-256 of the root certificate's public key (SubjectPublicKeyInfo), by
// which the agent knows the server before it has any certificate. Both are in
// lower-case base32 without padding, so that a double click takes the whole.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewSecret returns a token text for a pin, and the hash to keep.
func NewSecret(pin [sha256.Size]byte) (text, hash string) {
	secret := make([]byte, 20)
	_, _ = rand.Read(secret) // never fails: crypto/rand ends the process instead
	text = "reg_" + encoding.EncodeToString(secret) + "_" + encoding.EncodeToString(pin[:])
	return text, Hash(text)
}

// Hash returns what is kept of a token: the SHA-256 of its secret part. The
// pin is public and changes nothing.
func Hash(text string) string {
	secret := strings.TrimPrefix(text, "reg_")
	if i := strings.LastIndexByte(secret, '_'); i >= 0 {
		secret = secret[:i]
	}
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Pin returns the pin that a token carries, and whether the text is a whole
// token.
func Pin(text string) (pin [sha256.Size]byte, ok bool) {
	parts := strings.Split(strings.TrimSpace(text), "_")
	if len(parts) != 3 || parts[0] != "reg" || len(parts[1]) != encoding.EncodedLen(20) {
		return pin, false
	}
	raw, err := encoding.DecodeString(parts[2])
	if err != nil || len(raw) != len(pin) {
		return pin, false
	}
	return [sha256.Size]byte(raw), true
}
