// Package seal keeps secrets: it encrypts what is kept at rest under keys that
// the installation's master key opens ([Keyring]), and what goes to one agent
// under that agent's key ([PublicKey]); it signs what the server sends
// ([Signer]) and the tokens that agents carry ([TokenSigner]), and takes secrets
// out of what is logged ([Masker]).
//
// It knows no store and no protocol.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"stella-ops.org/stella/internal/atomicfile"
)

// KeySize is the length of the master key in bytes.
const KeySize = 32

// Box encrypts under one key with AES-256-GCM. A random nonce stands before
// the text; one key is good for 2^32 of them (NIST SP 800-38D), which no
// installation reaches. It is safe for concurrent use.
type Box struct{ aead cipher.AEAD }

// NewBox returns a box for a key of KeySize bytes.
func NewBox(key []byte) (*Box, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("the master key has %d bytes instead of %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	return &Box{aead}, nil
}

// Seal encrypts plain and binds the name to it.
func (b *Box) Seal(name string, plain []byte) ([]byte, error) {
	return b.aead.Seal(nil, nil, plain, []byte(name)), nil //nolint:gosec // this AEAD makes a random nonce itself and takes none
}

// Open decrypts what Seal made under the same name.
func (b *Box) Open(name string, sealed []byte) ([]byte, error) {
	plain, err := b.aead.Open(nil, nil, sealed, []byte(name))
	if err != nil {
		return nil, fmt.Errorf("open %s: it was sealed under another master key, or altered", name)
	}
	return plain, nil
}

// LoadKey reads the master key from a file, and makes the file with a new key
// (0600) when there is none. Any number of processes may do so at once; all get
// the same key.
func LoadKey(path string) ([]byte, error) {
	f := masterFile{path}
	key, err := f.read(path)
	if !errors.Is(err, errNoFile) {
		return key, err
	}
	key = make([]byte, KeySize)
	_, _ = rand.Read(key) // never fails: crypto/rand ends the process instead
	if err := atomicfile.Create(path, key, 0o600); !errors.Is(err, os.ErrExist) {
		return key, err
	}
	return f.read(path) // another process was first
}
