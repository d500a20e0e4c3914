package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/atomicfile"
	"stella-ops.org/stella/internal/seal"
)

// The files of the encryption keys in an agent's data folder, beside
// encryption.key, which is the current one.
const (
	nextEncryptionFile     = "encryption.key.next"
	previousEncryptionFile = "encryption.key.previous"
)

// encryptionKeys are the keys that the agent's tasks are sealed to: the current
// one; the previous one, for what was sealed before the server knew the current
// one; and, while it is replaced, the next one:
//
//	rotate   makes the next one, on disk, for the server to be told its public half
//	commit   makes it the current one, when the server has taken it
//
// A crash between the two leaves a next one. Nobody knows whether the server
// has taken it, so it opens what is sealed to it, and rotate gives it again: to
// register it twice does no harm. It is safe for concurrent use.
type encryptionKeys struct {
	dir string

	mu                      sync.Mutex
	current, previous, next *seal.PrivateKey // all but current may be nil
}

// loadEncryptionKeys reads the keys, and makes the current one when there is
// none.
func loadEncryptionKeys(dir string) (*encryptionKeys, error) {
	k := &encryptionKeys{dir: dir}
	for _, f := range []struct {
		name string
		into **seal.PrivateKey
	}{{encryptionFile, &k.current}, {previousEncryptionFile, &k.previous}, {nextEncryptionFile, &k.next}} {
		path := filepath.Join(dir, f.name)
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("encryption key: %w", err)
		}
		if *f.into, err = seal.ParsePrivateKey(data); err != nil {
			return nil, fmt.Errorf("%s: %w; restore the file, or remove it and restart the agent, which registers another", path, err)
		}
	}
	if k.current == nil {
		key, err := k.make(encryptionFile)
		if err != nil {
			return nil, err
		}
		k.current = key
	}
	return k, nil
}

func (k *encryptionKeys) make(name string) (*seal.PrivateKey, error) {
	key, err := seal.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	return key, k.write(name, key)
}

func (k *encryptionKeys) write(name string, key *seal.PrivateKey) error {
	data, err := key.Bytes()
	if err != nil {
		return fmt.Errorf("encode encryption key: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(k.dir, name), data, 0o600); err != nil {
		return fmt.Errorf("keep the encryption key: %w", err)
	}
	return nil
}

// public returns the public half of the current key, in base64.
func (k *encryptionKeys) public() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current.Public().Text()
}

// rotate returns the public half, in base64, of the key that is to be the next
// one, which is on disk when it returns. Until commit, a second call returns the
// same.
func (k *encryptionKeys) rotate() (publicKey string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next == nil {
		if k.next, err = k.make(nextEncryptionFile); err != nil {
			k.next = nil
			return "", err
		}
	}
	return k.next.Public().Text(), nil
}

// commit makes the next key the current one: the server has taken it. Without a
// next one it does nothing, so that it may be repeated.
func (k *encryptionKeys) commit() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next == nil {
		return nil
	}
	// In this order: whatever is not done yet, every key is in some file.
	if err := k.write(previousEncryptionFile, k.current); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(k.dir, nextEncryptionFile), filepath.Join(k.dir, encryptionFile)); err != nil {
		return fmt.Errorf("replace the encryption key: %w", err)
	}
	k.previous, k.current, k.next = k.current, k.next, nil
	return atomicfile.SyncDir(k.dir)
}

// registered is commit for a start: if the server is known to have taken the
// next key, it is the current one.
func (k *encryptionKeys) registered(publicKey string) error {
	k.mu.Lock()
	taken := k.next != nil && k.next.Public().Text() == publicKey
	k.mu.Unlock()
	if !taken {
		return nil
	}
	return k.commit()
}

// open decrypts what was sealed to one of the keys.
func (k *encryptionKeys) open(s *api.Sealed, info []byte) ([]byte, error) {
	k.mu.Lock()
	keys := []*seal.PrivateKey{k.current, k.next, k.previous}
	k.mu.Unlock()
	for _, key := range keys {
		if key != nil && key.Public().ID() == s.KeyID {
			return key.Open(info, bytes.Clone(s.Data))
		}
	}
	return nil, fmt.Errorf("it is sealed to the encryption key %q, which this agent does not have (its own is %s): was its data folder restored from a copy? Restart the agent, so that it registers its key, and run the task again",
		s.KeyID, keys[0].Public().ID())
}
