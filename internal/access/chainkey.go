package access

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
)

// KeyStore keeps sealed key material by name.
type KeyStore interface {
	// Key returns nil when there is none of that name.
	Key(ctx context.Context, name string) ([]byte, error)
	// PutKeyIfAbsent stores sealed unless there is one of that name already,
	// and returns what is stored: the first writer wins.
	PutKeyIfAbsent(ctx context.Context, name string, sealed []byte) ([]byte, error)
	// LastUnchained returns the highest line without a hash in the audit log of
	// each tenant that has any.
	LastUnchained(ctx context.Context) (map[string]int64, error)
}

// Sealer encrypts under the master key.
type Sealer interface {
	Seal(name string, plain []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// Key seals the ends of audit logs: who can write to the database alone has no
// master key, and so cannot make a seal. It is safe for concurrent use.
type Key struct {
	mac []byte
	// origins are the last lines from before the log was a chain, by tenant.
	// They are kept with the key, sealed, so that nobody can pass a chain off
	// as lines from before.
	origins map[string]int64
}

const (
	keyName  = "audit/chain"
	keyBytes = 32
)

// keyBundle is what is sealed.
type keyBundle struct {
	Key     []byte           `json:"key"`
	Origins map[string]int64 `json:"origins,omitempty"`
}

// LoadKey opens the installation's key, and makes it when there is none. Any
// number of servers may do so at once; all get the same. The key is random and
// not derived from the master key, which only seals it: another master key
// leaves all seals good.
func LoadKey(ctx context.Context, keys KeyStore, box Sealer) (*Key, error) {
	sealed, err := keys.Key(ctx, keyName)
	if err != nil {
		return nil, fmt.Errorf("load the key of the audit log: %w", err)
	}
	if sealed == nil {
		if sealed, err = makeKey(ctx, keys, box); err != nil {
			return nil, fmt.Errorf("make the key of the audit log: %w", err)
		}
	}
	plain, err := box.Open(keyName, sealed)
	if err != nil {
		return nil, fmt.Errorf("load the key of the audit log: %w", err)
	}
	var b keyBundle
	if err := json.Unmarshal(plain, &b); err != nil {
		return nil, fmt.Errorf("load the key of the audit log: %w", err)
	}
	if len(b.Key) != keyBytes {
		return nil, fmt.Errorf("load the key of the audit log: it has %d bytes instead of %d", len(b.Key), keyBytes)
	}
	// One key for each purpose (RFC 5869), should there ever be a second.
	mac, err := hkdf.Key(sha256.New, b.Key, nil, "stella audit chain seal v1", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the key of the audit log: %w", err)
	}
	return &Key{mac: mac, origins: b.Origins}, nil
}

func makeKey(ctx context.Context, keys KeyStore, box Sealer) ([]byte, error) {
	last, err := keys.LastUnchained(ctx)
	if err != nil {
		return nil, err
	}
	b := keyBundle{Key: make([]byte, keyBytes), Origins: last}
	_, _ = rand.Read(b.Key) // never fails: crypto/rand ends the process instead
	plain, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	sealed, err := box.Seal(keyName, plain)
	if err != nil {
		return nil, err
	}
	return keys.PutKeyIfAbsent(ctx, keyName, sealed)
}

// seal is HMAC-SHA256 (RFC 2104) over where a chain begins and ends.
func (k *Key) seal(c *Chain) []byte {
	m := hmac.New(sha256.New, k.mac)
	m.Write(c.sealed()) // a hash takes everything
	return m.Sum(nil)
}

// fits reports whether a chain's seal is this key's.
func (k *Key) fits(c *Chain) bool { return hmac.Equal(c.Seal, k.seal(c)) }
