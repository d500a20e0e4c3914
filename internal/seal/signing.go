package seal

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// SigningKeys are the keys by which the servers of an installation sign what
// they send, and the tokens that they give to agents: one signs, and the ones
// before it vouch for it. An agent knows the one that was current when it
// registered, and follows from there:
//
//	key 1 ──signs──▶ key 2 ──signs──▶ key 3
//
// A new key is published a while before it signs, so that every server has taken
// it up. It is safe for concurrent use.
type SigningKeys struct {
	keys   KeyStore
	box    Sealer
	settle time.Duration
	now    func() time.Time

	state atomic.Pointer[signingState]
}

// Sealer encrypts under the master key.
type Sealer interface {
	Seal(name string, plain []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// signingKey is one of the keys. The oldest comes first, and is signed by none.
type signingKey struct {
	Seed      []byte    `json:"seed,omitempty"` // the private key; none when another one signs
	Public    []byte    `json:"public"`
	From      time.Time `json:"from"`      // when it begins to sign
	Signature []byte    `json:"signature"` // by the one before, on api.ServerKeyText

	private ed25519.PrivateKey
	tokens  jose.Signer
}

// signingState is what is kept; it is replaced, never altered.
type signingState struct {
	sealed []byte // as the store has it
	all    []signingKey
}

const (
	signingName = "seal/signing"
	// signingLookEvery is how often a server looks whether there is a new key.
	signingLookEvery = 5 * time.Second
	// tokensGoodFor is how long tokens of the key before are taken: the longest
	// life of one, which is that of a task's.
	tokensGoodFor = 25 * time.Hour
)

// LoadSigningKeys opens the installation's keys, and makes the first when there
// is none. Any number of servers may do so at once; all get the same. settle is
// how long a new key is published before it signs; zero is four times as long as
// servers take to take it up.
func LoadSigningKeys(ctx context.Context, keys KeyStore, box Sealer, settle time.Duration, now func() time.Time) (*SigningKeys, error) {
	k := &SigningKeys{keys: keys, box: box, settle: cmp.Or(settle, 4*signingLookEvery), now: now}
	sealed, err := keys.Key(ctx, signingName)
	if err != nil {
		return nil, fmt.Errorf("load the signing keys: %w", err)
	}
	if sealed == nil {
		first, _, err := newSigningKey(now())
		if err != nil {
			return nil, err
		}
		if sealed, err = k.sealed([]signingKey{*first}); err != nil {
			return nil, err
		}
		if sealed, err = keys.PutKeyIfAbsent(ctx, signingName, sealed); err != nil {
			return nil, fmt.Errorf("keep the signing keys: %w", err)
		}
	}
	return k, k.take(sealed)
}

func newSigningKey(from time.Time) (*signingKey, ed25519.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a signing key: %w", err)
	}
	return &signingKey{Seed: private.Seed(), Public: public, From: from.UTC()}, public, nil
}

func (k *SigningKeys) sealed(all []signingKey) ([]byte, error) {
	plain, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode the signing keys: %w", err)
	}
	return k.box.Seal(signingName, plain)
}

// take makes what the store has the state that is worked with.
func (k *SigningKeys) take(sealed []byte) error {
	plain, err := k.box.Open(signingName, sealed)
	if err != nil {
		return fmt.Errorf("load the signing keys: %w", err)
	}
	s := &signingState{sealed: sealed}
	if err := json.Unmarshal(plain, &s.all); err != nil {
		return fmt.Errorf("load the signing keys: %w", err)
	}
	for i := range s.all {
		key := &s.all[i]
		if len(key.Public) != ed25519.PublicKeySize || len(key.Seed) != 0 && len(key.Seed) != ed25519.SeedSize {
			return fmt.Errorf("load the signing keys: number %d is no Ed25519 key", i+1)
		}
		if len(key.Seed) == 0 {
			continue
		}
		key.private = ed25519.NewKeyFromSeed(key.Seed)
		if key.tokens, err = tokenSigner(key.private); err != nil {
			return fmt.Errorf("load the signing keys: %w", err)
		}
	}
	if n := len(s.all); n == 0 || s.all[n-1].private == nil || n > 1 && s.all[n-2].private == nil {
		return errors.New("load the signing keys: one that signs is missing")
	}
	k.state.Store(s)
	return nil
}

// current is the key that signs now: the newest, or the one before it until its
// time has come.
func (k *SigningKeys) current() *signingKey {
	all := k.state.Load().all
	newest := len(all) - 1
	if newest > 0 && all[newest].From.After(k.now()) {
		newest--
	}
	return &all[newest]
}

// Signer signs with the key that signs at the time.
func (k *SigningKeys) Signer() *Signer {
	return &Signer{func() ed25519.PrivateKey { return k.current().private }}
}

// Public is the key that signs now, as an agent that registers gets it.
func (k *SigningKeys) Public() string {
	return base64.StdEncoding.EncodeToString(k.current().Public)
}

// Published are all keys, the oldest first, as agents follow them.
func (k *SigningKeys) Published() api.ServerKeys {
	s := k.state.Load()
	out := api.ServerKeys{Keys: make([]api.ServerKey, len(s.all))}
	for i, key := range s.all {
		out.Keys[i] = api.ServerKey{PublicKey: base64.StdEncoding.EncodeToString(key.Public), From: key.From, Signature: key.Signature}
	}
	return out
}

// Keys says which of the keys signs.
func (k *SigningKeys) Keys() []api.SigningKey {
	s, current := k.state.Load(), k.current()
	out := make([]api.SigningKey, len(s.all))
	state := "before" // until the one that signs
	for i := range s.all {
		sum := sha256.Sum256(s.all[i].Public)
		if &s.all[i] == current {
			state = "active"
		}
		out[i] = api.SigningKey{ID: hex.EncodeToString(sum[:8]), State: state, From: s.all[i].From}
		if state == "active" {
			state = "next"
		}
	}
	return out
}

// Rotate makes the next key, signed by the present one, and returns when it is
// durable. It signs after a while, which [SigningKeys.Published] tells. While
// one waits for that, it is a fault of kind Conflict.
func (k *SigningKeys) Rotate(ctx context.Context) error {
	for {
		if err := k.Reload(ctx); err != nil {
			return err
		}
		s := k.state.Load()
		last, now := &s.all[len(s.all)-1], k.now()
		if wait := last.From.Sub(now); wait > 0 {
			return fault.New(fault.Conflict, "signing_key_settling", "the last new signing key begins to sign in %s: try again then", wait.Round(time.Second))
		}
		next, public, err := newSigningKey(now.Add(k.settle))
		if err != nil {
			return err
		}
		next.Signature = (&Signer{func() ed25519.PrivateKey { return last.private }}).Sign(api.PurposeServerKey, api.ServerKeyText(public, next.From))
		all := append(retired(s.all), *next)
		sealed, err := k.sealed(all)
		if err != nil {
			return err
		}
		done, err := k.keys.SwapKey(ctx, signingName, s.sealed, sealed)
		if err != nil {
			return fmt.Errorf("keep the signing keys: %w", err)
		}
		if done {
			return k.take(sealed)
		}
		// Somebody else has changed them, or has sealed them anew.
	}
}

// retired are the keys when another one comes behind them: only the last keeps its
// private half, for the others sign nothing any more.
func retired(all []signingKey) []signingKey {
	out := make([]signingKey, len(all), len(all)+1)
	for i, key := range all {
		out[i] = signingKey{Public: key.Public, From: key.From, Signature: key.Signature}
	}
	out[len(out)-1].Seed = all[len(all)-1].Seed
	return out
}

// Reload takes up what another server has changed.
func (k *SigningKeys) Reload(ctx context.Context) error {
	sealed, err := k.keys.Key(ctx, signingName)
	if err != nil {
		return fmt.Errorf("load the signing keys: %w", err)
	}
	if sealed == nil {
		return errors.New("load the signing keys: they are not in the database any more")
	}
	if bytes.Equal(sealed, k.state.Load().sealed) {
		return nil
	}
	return k.take(sealed)
}

// Run takes up what other servers change, until ctx ends.
func (k *SigningKeys) Run(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(signingLookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := k.Reload(ctx); err != nil && ctx.Err() == nil {
			log.ErrorContext(ctx, "the signing keys were not read again", "error", err)
		}
	}
}

// tokenKeys implements the TokenSigner's keys: those whose tokens may still
// live, the newest first.
func (k *SigningKeys) tokenKeys() (signer jose.Signer, verify []ed25519.PublicKey) {
	s, now := k.state.Load(), k.now()
	for _, key := range slices.Backward(s.all) {
		verify = append(verify, key.Public)
		if key.From.Before(now.Add(-tokensGoodFor)) {
			break // those before it have not signed since
		}
	}
	return k.current().tokens, verify
}
