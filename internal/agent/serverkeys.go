package agent

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/seal"
)

// serverKeys are the keys by which the agent knows what its server has signed:
// the one that registration gave, and from there on those that each vouch for
// the next. A signature by an unknown key has the server asked for the keys; who
// is not vouched for by the key that the agent knows is not its server.
//
// It is safe for concurrent use.
type serverKeys struct {
	log *slog.Logger
	// fetch asks the server for its keys, and keep puts the one that is known
	// now on disk; both are set before anything is verified.
	fetch func(ctx context.Context) (*api.ServerKeys, error)
	keep  func(publicKey string) error

	mu     sync.Mutex
	known  ed25519.PublicKey   // the newest that has signed something
	next   []ed25519.PublicKey // which known vouches for, in their order
	before ed25519.PublicKey   // the one before known, for a while
	until  time.Time           // how long
	asked  time.Time           // when the server was last asked in vain
}

const (
	// beforeGoodFor is how long the key before is taken once the next has
	// signed something: servers do not begin with it at the same moment.
	beforeGoodFor = 2 * time.Minute
	// askAgainAfter bounds how often somebody can have the server asked in vain.
	// It is less than a key is published before it signs.
	askAgainAfter = 10 * time.Second
)

// errKeysAway says that a signature could not be judged: the server did not say
// by which keys it signs.
var errKeysAway = errors.New("it is signed by a key that the agent does not know yet, and the server did not answer which keys it has")

func newServerKeys(publicKey string, log *slog.Logger) (*serverKeys, error) {
	known, err := seal.ParseServerKey(publicKey)
	if err != nil {
		return nil, fmt.Errorf("identity: %w; register the agent anew", err)
	}
	return &serverKeys{log: log, known: known}, nil
}

// verify checks a signature on what came from the server. It blocks while the
// server is asked; the error is errKeysAway when it
// does not answer.
func (k *serverKeys) verify(ctx context.Context, domain string, message, signature []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.check(ctx, domain, message, signature)
	if err == nil || k.fetch == nil || len(signature) != ed25519.SignatureSize || time.Since(k.asked) < askAgainAfter {
		return err
	}
	published, away := k.fetch(ctx)
	if away != nil {
		return fmt.Errorf("%w: %w", errKeysAway, away)
	}
	k.next = follow(k.known, published)
	if err = k.check(ctx, domain, message, signature); err != nil {
		k.asked = time.Now()
	}
	return err
}

// check tries the keys that the agent knows; the caller holds mu.
func (k *serverKeys) check(ctx context.Context, domain string, message, signature []byte) error {
	err := seal.Verify(k.known, domain, message, signature)
	if err == nil || time.Now().Before(k.until) && seal.Verify(k.before, domain, message, signature) == nil {
		return nil
	}
	for i, key := range k.next {
		if seal.Verify(key, domain, message, signature) != nil {
			continue
		}
		k.before, k.until = k.known, time.Now().Add(beforeGoodFor)
		k.known, k.next = key, k.next[i+1:]
		k.log.InfoContext(ctx, "the server signs with its next key")
		if kept := k.keep(base64.StdEncoding.EncodeToString(key)); kept != nil {
			// The key before leads here again at the next start.
			k.log.ErrorContext(ctx, "the server's next key was not kept", "error", kept)
		}
		return nil
	}
	return err
}

// follow returns the keys that come behind a known one, each vouched for by the
// one before; none when the known one is not among them.
func follow(known ed25519.PublicKey, published *api.ServerKeys) []ed25519.PublicKey {
	var out []ed25519.PublicKey
	found := false
	for _, p := range published.Keys {
		key, err := seal.ParseServerKey(p.PublicKey)
		if err != nil {
			return out
		}
		if !found {
			found = known.Equal(key)
			continue
		}
		by := known
		if len(out) > 0 {
			by = out[len(out)-1]
		}
		if seal.Verify(by, api.PurposeServerKey, api.ServerKeyText(key, p.From), p.Signature) != nil {
			return out
		}
		out = append(out, key)
	}
	return out
}
