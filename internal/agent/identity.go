package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/atomicfile"
)

// Files of an agent's data folder. identity.json is written last: when it is
// there, the others are.
const (
	identityFile = "identity.json"
	// newKeyFile holds the key that a registration is for until it is through:
	// one that is tried again must be for the same key.
	newKeyFile = "key.new.pem"
	// credentialFile holds the key and its certificate, in one file, so that
	// they never disagree.
	credentialFile = "client.pem"
	caFile         = "ca.pem"
	encryptionFile = "encryption.key"
	journalFile    = "journal.db"
)

// identity is what registration gave to the agent.
type identity struct {
	AgentID         string `json:"agentId"`
	ServerURL       string `json:"serverUrl"`
	ServerPublicKey string `json:"serverPublicKey"`
	// Registered is what the agent last said of itself.
	Registered api.RegisterRequest `json:"registered"`
}

// loadIdentity returns nil when the agent is not registered.
func loadIdentity(dir string) (*identity, error) {
	data, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	var id identity
	if err := json.Unmarshal(data, &id); err != nil {
		return nil, fmt.Errorf("identity %s: %w", filepath.Join(dir, identityFile), err)
	}
	return &id, nil
}

// store keeps what registration gave, and the key that it is for.
func (id *identity) store(dir string, key crypto.Signer, res *api.RegisterResponse) error {
	if err := atomicfile.Write(filepath.Join(dir, caFile), []byte(res.CACertificate), 0o600); err != nil {
		return fmt.Errorf("keep the identity: %w", err)
	}
	if err := storeCredential(dir, key, res.Certificate); err != nil {
		return fmt.Errorf("keep the identity: %w", err)
	}
	if err := id.save(dir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, newKeyFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keep the identity: %w", err)
	}
	return nil
}

// save writes the identity's file.
func (id *identity) save(dir string) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(dir, identityFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the identity: %w", err)
	}
	return nil
}

// changing is held while an identity's file is changed.
var changing sync.Mutex

// changeIdentity changes the identity's file, if there is one.
func changeIdentity(dir string, change func(id *identity)) error {
	changing.Lock()
	defer changing.Unlock()
	id, err := loadIdentity(dir)
	if err != nil || id == nil {
		return err
	}
	change(id)
	return id.save(dir)
}

// storeCredential replaces the agent's key and certificate, both or neither.
func storeCredential(dir string, key crypto.Signer, chain string) error {
	text, err := keyPEM(key)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, credentialFile), append(text, chain...), 0o600)
}

// loadCredential reads the agent's key and certificate.
func loadCredential(dir string) (*tls.Certificate, error) {
	path := filepath.Join(dir, credentialFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	c, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("identity: %s: %w; restore it, or delete the data folder and register anew", path, err)
	}
	return &c, nil
}

// registrationKey is the key that a registration is for: with an identity, the
// one of the certificate; without, a new one, which is kept until the
// registration is through.
func registrationKey(dir string, known *identity) (crypto.Signer, error) {
	if known != nil {
		c, err := loadCredential(dir)
		if err != nil {
			return nil, err
		}
		return signer(c.PrivateKey)
	}
	path := filepath.Join(dir, newKeyFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		text, err := keyPEM(key)
		if err != nil {
			return nil, err
		}
		return key, atomicfile.Write(path, text, 0o600)
	} else if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("key %s: it is no PEM file; delete it and register anew", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, err)
	}
	return signer(key)
}

func newKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

func signer(key any) (crypto.Signer, error) {
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the agent's key cannot sign")
	}
	return s, nil
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// certificateRequest is a request for a certificate for a key, in PEM; what is
// to be in it is the server's to say.
func certificateRequest(key crypto.Signer) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", fmt.Errorf("make a certificate request: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}
