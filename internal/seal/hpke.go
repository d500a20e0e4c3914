package seal

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

// What goes to one agent is encrypted by RFC 9180 (HPKE) in its base mode, with
// HKDF-SHA256 and AES-256-GCM, and one of two KEMs. A key says which by its
// length:
//
//	MLKEM768-X25519   public 1216 bytes   private 32 bytes, a seed    against quantum computers, too; our agents'
//	DHKEM(X25519)     public   32 bytes   private 32 bytes            for agents of other makers
//
// A sealed text is the KEM's encapsulated key, followed by the ciphertext.

// PublicKey is an agent's key to seal to. It does not change.
type PublicKey struct {
	key hpke.PublicKey
	id  string
}

// sizes of public keys.
const (
	hybridSize = 1216
	x25519Size = 32
)

// ParsePublicKey parses a public key as RFC 9180 serializes it.
func ParsePublicKey(raw []byte) (*PublicKey, error) {
	var kem hpke.KEM
	switch len(raw) {
	case hybridSize:
		kem = hpke.MLKEM768X25519()
	case x25519Size:
		kem = hpke.DHKEM(ecdh.X25519())
	default:
		return nil, fmt.Errorf("an encryption key has %d bytes (MLKEM768-X25519) or %d (X25519), and this one has %d", hybridSize, x25519Size, len(raw))
	}
	key, err := kem.NewPublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("encryption key: %w", err)
	}
	return newPublicKey(key), nil
}

// CheckPublicKey reports whether a text is a public key, in base64, that one
// can seal to: a point of low order is none, although it parses.
func CheckPublicKey(text string) error {
	key, err := ParsePublicKeyText(text)
	if err != nil {
		return err
	}
	_, err = key.Seal(nil, nil)
	return err
}

func newPublicKey(key hpke.PublicKey) *PublicKey {
	sum := sha256.Sum256(key.Bytes())
	return &PublicKey{key, hex.EncodeToString(sum[:8])}
}

// ParsePublicKeyText is ParsePublicKey for base64 (RFC 4648, padded).
func ParsePublicKeyText(text string) (*PublicKey, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || base64.StdEncoding.EncodeToString(raw) != text { // line breaks, or bits behind the end
		return nil, errors.New("encryption key: it is not base64 with padding, in one line")
	}
	return ParsePublicKey(raw)
}

// ID is the key's name: the first 8 bytes of its SHA-256, in hex.
func (p *PublicKey) ID() string { return p.id }

// Text is the key in base64.
func (p *PublicKey) Text() string { return base64.StdEncoding.EncodeToString(p.key.Bytes()) }

// Seal encrypts plain for who has the private key, and binds info to it.
func (p *PublicKey) Seal(info, plain []byte) ([]byte, error) {
	sealed, err := hpke.Seal(p.key, hpke.HKDFSHA256(), hpke.AES256GCM(), info, plain)
	if err != nil {
		return nil, fmt.Errorf("seal to the encryption key %s: %w", p.id, err)
	}
	return sealed, nil
}

// PrivateKey opens what was sealed to its public half. It does not change.
type PrivateKey struct {
	key    hpke.PrivateKey
	public *PublicKey
}

// NewPrivateKey makes a key, of the KEM MLKEM768-X25519.
func NewPrivateKey() (*PrivateKey, error) {
	key, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make encryption key: %w", err)
	}
	return &PrivateKey{key, newPublicKey(key.PublicKey())}, nil
}

// ParsePrivateKey parses what Bytes gave.
func ParsePrivateKey(raw []byte) (*PrivateKey, error) {
	return parsePrivateKey(hpke.MLKEM768X25519(), raw)
}

// ParseX25519PrivateKey parses a private key of the KEM DHKEM(X25519).
func ParseX25519PrivateKey(raw []byte) (*PrivateKey, error) {
	return parsePrivateKey(hpke.DHKEM(ecdh.X25519()), raw)
}

func parsePrivateKey(kem hpke.KEM, raw []byte) (*PrivateKey, error) {
	key, err := kem.NewPrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("encryption key: %w", err)
	}
	return &PrivateKey{key, newPublicKey(key.PublicKey())}, nil
}

// Bytes is the key as RFC 9180 serializes it. It is secret.
func (p *PrivateKey) Bytes() ([]byte, error) { return p.key.Bytes() }

// Public is the public half.
func (p *PrivateKey) Public() *PublicKey { return p.public }

// Open decrypts what Seal made with the same info.
func (p *PrivateKey) Open(info, sealed []byte) ([]byte, error) {
	plain, err := hpke.Open(p.key, hpke.HKDFSHA256(), hpke.AES256GCM(), info, sealed)
	if err != nil {
		return nil, fmt.Errorf("it does not open with the encryption key %s: it was altered, or sealed for something else", p.public.id)
	}
	return plain, nil
}
