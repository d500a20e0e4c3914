package load

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/atomicfile"
)

// Identity is what one simulated agent is to its server.
type Identity struct {
	ID   string
	Name string

	key      *ecdsa.PrivateKey
	cert     tls.Certificate
	notAfter time.Time
	signed   atomic.Int64 // the number of what it signed last
}

// newIdentity joins what a registration gave to the key that it was for.
func newIdentity(name string, key *ecdsa.PrivateKey, res *api.RegisterResponse) (*Identity, error) {
	var chain [][]byte
	for rest := []byte(res.Certificate); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		chain = append(chain, block.Bytes)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("the server registered %s without a certificate", name)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("the certificate of %s: %w", name, err)
	}
	id := &Identity{ID: res.AgentID, Name: name, key: key, notAfter: leaf.NotAfter}
	// Without the parsed leaf: the handshake does not need it, and it would be
	// the largest part of ten thousand identities.
	// And without the issuer, which the server knows: as our agent does.
	id.cert = tls.Certificate{Certificate: chain[:1], PrivateKey: key}
	return id, nil
}

// savedIdentity and savedBook are the file's shape.
type savedIdentity struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Key      []byte    `json:"key"`
	Chain    [][]byte  `json:"chain"`
	NotAfter time.Time `json:"notAfter"`
}

type savedBook struct {
	// Root is the authority that the identities belong to; with another one
	// they are worth nothing.
	Root   string          `json:"root"`
	Agents []savedIdentity `json:"agents"`
}

// book is the identities that are kept in a file, if there is one.
type book struct {
	path   string
	root   string
	agents []*Identity
}

// openBook reads the file. One of another server is an error: it would be
// written over.
func (r *run) openBook(ctx context.Context) (*book, error) {
	root, err := r.api.root(ctx)
	if err != nil {
		return nil, err
	}
	r.CA = []byte(root) // what agents trust
	b := &book{path: r.Identities, root: root}
	if b.path == "" {
		return b, nil
	}
	data, err := os.ReadFile(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	} else if err != nil {
		return nil, fmt.Errorf("identities: %w", err)
	}
	var saved savedBook
	if err := json.Unmarshal(data, &saved); err != nil || saved.Root == "" {
		return nil, fmt.Errorf("%s is no file of identities: name another with --identities, or delete it", b.path)
	}
	if saved.Root != root {
		return nil, fmt.Errorf("the identities in %s are of another server than %s: name another file with --identities, or delete it", b.path, r.URL)
	}
	for _, s := range saved.Agents {
		key, err := x509.ParseECPrivateKey(s.Key)
		if err != nil || len(s.Chain) == 0 {
			return nil, fmt.Errorf("%s is damaged at agent %s: delete it, and the agents are registered anew", b.path, s.Name)
		}
		id := &Identity{ID: s.ID, Name: s.Name, key: key, notAfter: s.NotAfter}
		id.cert = tls.Certificate{Certificate: s.Chain[:1], PrivateKey: key}
		b.agents = append(b.agents, id)
	}
	return b, nil
}

// usable returns at most n identities whose certificates last for a while.
func (b *book) usable(n int) []*Identity {
	var ids []*Identity
	soon := time.Now().Add(time.Minute)
	for _, id := range b.agents {
		if len(ids) < n && id.notAfter.After(soon) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (b *book) add(ids []*Identity) {
	b.agents = append(b.agents, ids...)
}

// save writes the file, for its owner alone: it holds keys.
func (b *book) save() error {
	if b.path == "" {
		return nil
	}
	saved := savedBook{Root: b.root}
	now := time.Now()
	for _, id := range b.agents {
		if id.notAfter.Before(now) {
			continue
		}
		key, err := x509.MarshalECPrivateKey(id.key)
		if err != nil {
			return fmt.Errorf("keep the identities: %w", err)
		}
		saved.Agents = append(saved.Agents, savedIdentity{ID: id.ID, Name: id.Name, Key: key, Chain: id.cert.Certificate, NotAfter: id.notAfter})
	}
	data, err := json.Marshal(saved)
	if err != nil {
		return fmt.Errorf("keep the identities: %w", err)
	}
	if err := atomicfile.Write(b.path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the identities: %w", err)
	}
	return nil
}
