// Package pki is the installation's certificate authority: a root, which every
// agent trusts and a registration token pins, and an intermediate, which signs
// the certificates of servers and agents. While one authority takes the place of
// another, there are two.
//
// All key material is kept as one sealed bundle in the store, so that several
// servers share it and none can see half of it. The package knows no store:
// it asks for a few small functions of one.
package pki

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Lives of certificates. Validity begins a little in the past, for clocks
// that differ.
const (
	rootLife         = 20 * 365 * 24 * time.Hour
	intermediateLife = 5 * 365 * 24 * time.Hour
	serverLife       = 90 * 24 * time.Hour
	backdate         = time.Minute
	// serverBackdate is for what agents check by their clocks, which may be days
	// slow: an agent that could not connect could not be told so.
	serverBackdate = 7 * 24 * time.Hour
)

// KeyStore keeps sealed key material by name.
type KeyStore interface {
	// Key returns nil when there is none of that name.
	Key(ctx context.Context, name string) ([]byte, error)
	// PutKeyIfAbsent stores sealed unless there is one of that name already,
	// and returns what is stored: the first writer wins.
	PutKeyIfAbsent(ctx context.Context, name string, sealed []byte) ([]byte, error)
	// SwapKey replaces one, if it is still the one that the caller has read.
	SwapKey(ctx context.Context, name string, old, anew []byte) (bool, error)
}

// Sealer encrypts under the master key.
type Sealer interface {
	Seal(name string, plain []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// Authority signs certificates. It is safe for concurrent use.
type Authority struct {
	keys KeyStore
	box  Sealer
	now  func() time.Time

	settle      time.Duration
	trustDomain string
	state       atomic.Pointer[state]

	mu      sync.Mutex
	servers map[string]*serverCert // by the names that a certificate is for; of the state's authority
}

// state is what the bundle says at a time; it is replaced, never altered.
type state struct {
	sealed    []byte // as the store has it
	all       []*generation
	active    *generation
	changedAt time.Time
	trust     string
	rootsPEM  string
	roots     *x509.CertPool
	clients   *x509.CertPool // by which servers know agents
}

const bundleName = "pki/authority"

// Options are what an installation may set.
type Options struct {
	// TrustDomain is the domain of the agents' SPIFFE ids; it is fixed when
	// the authority is made.
	TrustDomain string
	// Settle is how long a step of a rotation waits after the one before, so
	// that every server has taken that up: one that has not would refuse what
	// the next one issues. Zero is four times as long as they take.
	Settle time.Duration
}

// Load opens the installation's authority, and makes it when there is none.
// Any number of servers may do so at once; all get the same.
func Load(ctx context.Context, keys KeyStore, box Sealer, opts Options, now func() time.Time) (*Authority, error) {
	sealed, err := keys.Key(ctx, bundleName)
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	if sealed == nil {
		b, err := create(opts.TrustDomain, now())
		if err != nil {
			return nil, fmt.Errorf("make certificate authority: %w", err)
		}
		if sealed, err = sealBundle(box, b); err != nil {
			return nil, fmt.Errorf("make certificate authority: %w", err)
		}
		if sealed, err = keys.PutKeyIfAbsent(ctx, bundleName, sealed); err != nil {
			return nil, fmt.Errorf("store certificate authority: %w", err)
		}
	}
	a := &Authority{keys: keys, box: box, now: now, settle: cmp.Or(opts.Settle, 4*reloadEvery), servers: map[string]*serverCert{}}
	b, err := a.open(sealed)
	if err != nil {
		return nil, err
	}
	a.trustDomain = b.TrustDomain
	return a, a.take(sealed, b)
}

func sealBundle(box Sealer, b *bundle) ([]byte, error) {
	plain, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	return box.Seal(bundleName, plain)
}

func (a *Authority) open(sealed []byte) (*bundle, error) {
	plain, err := a.box.Open(bundleName, sealed)
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	b, err := readBundle(plain)
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	return b, nil
}

// take makes a bundle the one that is worked with.
func (a *Authority) take(sealed []byte, b *bundle) error {
	s := &state{sealed: sealed, changedAt: b.ChangedAt, roots: x509.NewCertPool(), clients: x509.NewCertPool()}
	for i := range b.Generations {
		g, err := b.Generations[i].open()
		if err != nil {
			return fmt.Errorf("load certificate authority: %w", err)
		}
		s.all = append(s.all, g)
		s.roots.AddCert(g.root)
		s.clients.AddCert(g.root)
		// For agents that send their leaf alone.
		s.clients.AddCert(g.intermediate)
	}
	s.active = s.all[b.Active]
	s.rootsPEM = certPEM(s.active.root.Raw)
	for _, g := range s.all {
		if g != s.active {
			s.rootsPEM += certPEM(g.root.Raw)
		}
	}
	s.trust = trust(s.all, s.active)
	a.mu.Lock()
	defer a.mu.Unlock()
	if before := a.state.Swap(s); before != nil && before.trust != s.trust {
		clear(a.servers)
	}
	return nil
}

// reloadEvery is how often a server looks whether another one has taken a step
// of a rotation. A step waits for several of these after the one before.
const reloadEvery = 5 * time.Second

// Run takes up what other servers change, until ctx ends. changed is called
// after each change.
func (a *Authority) Run(ctx context.Context, log *slog.Logger, changed func()) error {
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	last := a.Trust()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := a.Reload(ctx); err != nil && ctx.Err() == nil {
			log.ErrorContext(ctx, "the certificate authority was not read again", "error", err)
			continue
		}
		if now := a.Trust(); now != last {
			log.InfoContext(ctx, "the certificate authority has changed", "trust", now)
			last = now
			changed()
		}
	}
}

// Reload takes up what another server has changed.
func (a *Authority) Reload(ctx context.Context) error {
	sealed, err := a.keys.Key(ctx, bundleName)
	if err != nil {
		return err
	}
	if sealed == nil {
		return errors.New("the certificate authority is not in the database any more")
	}
	if string(sealed) == string(a.state.Load().sealed) {
		return nil
	}
	b, err := a.open(sealed)
	if err != nil {
		return err
	}
	return a.take(sealed, b)
}

// TrustDomain is the domain of the agents' SPIFFE ids.
func (a *Authority) TrustDomain() string { return a.trustDomain }

// Trust names what agents are to trust and who issues: an agent whose
// certificate was issued under another name is to renew it.
func (a *Authority) Trust() string { return a.state.Load().trust }

// RootsPEM are the certificates to trust, that of the authority that issues
// first.
func (a *Authority) RootsPEM() string { return a.state.Load().rootsPEM }

// Pin is the SHA-256 of the public key (SubjectPublicKeyInfo) of the root that
// issues.
func (a *Authority) Pin() [sha256.Size]byte { return PinOf(a.state.Load().active.root) }

// PinOf is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo).
func PinOf(c *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// Expiry is when the root and the intermediate end that issue.
func (a *Authority) Expiry() (root, intermediate time.Time) {
	active := a.state.Load().active
	return active.root.NotAfter, active.intermediate.NotAfter
}

// Roots is the pool of roots that are trusted. It must not be changed.
func (a *Authority) Roots() *x509.CertPool { return a.state.Load().roots }

// ClientCAs is the pool by which a server knows agents: the roots, and the
// intermediates, for clients that send their leaf alone. It must not be
// changed.
func (a *Authority) ClientCAs() *x509.CertPool { return a.state.Load().clients }
