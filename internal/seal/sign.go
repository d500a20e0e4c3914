package seal

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
)

// Signer signs what the server sends (Ed25519, RFC 8032). It is safe for
// concurrent use.
//
// What is signed is a domain, a NUL and the message: the domain says what the
// message is, so that a signature on one kind of message is none on another.
// The same key signs tokens, which begin otherwise ("eyJ").
type Signer struct{ key func() ed25519.PrivateKey }

// NewSigner returns a signer with one key, which does not change: that of an
// installation comes from [SigningKeys].
func NewSigner(key ed25519.PrivateKey) *Signer {
	return &Signer{func() ed25519.PrivateKey { return key }}
}

// Sign returns the signature on a message, of 64 bytes. The domain has no NUL
// in it.
func (s *Signer) Sign(domain string, message []byte) []byte {
	return ed25519.Sign(s.key(), signed(domain, message))
}

// SealTo encrypts for the agent that registered a public key, in base64, and
// returns the key's id with it; see [PublicKey.Seal].
func (*Signer) SealTo(publicKey string, info, plain []byte) (keyID string, sealed []byte, err error) {
	key, err := ParsePublicKeyText(publicKey)
	if err != nil {
		return "", nil, err
	}
	sealed, err = key.Seal(info, plain)
	return key.ID(), sealed, err
}

// Verify checks a signature that Signer made.
func Verify(key ed25519.PublicKey, domain string, message, signature []byte) error {
	if len(key) != ed25519.PublicKeySize {
		return errors.New("the server's public key is none (Ed25519, 32 bytes)")
	}
	if len(signature) == 0 {
		return errors.New("it is not signed")
	}
	if !ed25519.Verify(key, signed(domain, message), signature) {
		return errors.New("its signature is not the server's: it was altered on the way, or comes from somebody else")
	}
	return nil
}

// ParseServerKey reads the public key as registration gives it: the 32 bytes
// of RFC 8032 in base64.
func ParseServerKey(text string) (ed25519.PublicKey, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("the server's public key %q is none: it has 32 bytes, in base64", text)
	}
	return raw, nil
}

func signed(domain string, message []byte) []byte {
	out := make([]byte, 0, len(domain)+1+len(message))
	out = append(out, domain...)
	out = append(out, 0)
	return append(out, message...)
}
