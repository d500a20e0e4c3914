package seal

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"stella-ops.org/stella/internal/fault"
)

// KeyringName is the name under which the keyring is kept among the keys.
const KeyringName = "seal/keyring"

// How long a server may go on with the keyring as it has read it, and how
// often it looks. A rotation drops no key before all servers must have looked.
const (
	lookEvery   = 2 * time.Second
	confirmedIn = 10 * time.Second
	// DefaultGrace is how long a rotation keeps the old data keys after the new
	// one was published: longer than a server seals without looking, with the
	// time that a write may take on top.
	DefaultGrace = 30 * time.Second
)

// KeyStore keeps the keyring. Its methods are atomic.
type KeyStore interface {
	// Key returns nil when there is none of that name.
	Key(ctx context.Context, name string) ([]byte, error)
	// PutKeyIfAbsent stores sealed unless there is one of that name already,
	// and returns what is stored: the first writer wins.
	PutKeyIfAbsent(ctx context.Context, name string, sealed []byte) ([]byte, error)
	// SwapKey replaces what is kept under a name, if it is still what the
	// caller has read; false when it is not.
	SwapKey(ctx context.Context, name string, old, anew []byte) (bool, error)
	// KeyNames returns the names of all keys, in order.
	KeyNames(ctx context.Context) ([]string, error)
}

// Keyring encrypts what is kept at rest. Texts are sealed under data keys,
// which are random and kept together, sealed under the master key, so that the
// master key can be replaced ([Rotation]):
//
//	master key (a file) ── seals ──▶ keyring (a row) ── holds ──▶ data keys ── seal ──▶ texts
//
// A sealed text begins with a version byte and the id of its data key, and is
// bound to a name. What was sealed before there were data keys, under the
// master key itself, still opens.
//
// Several servers may share one keyring. Each looks every few seconds whether
// another has changed it (Run), looks at once when it meets a data key that it
// does not know, and seals nothing when it has not been able to look for a
// while: the key that it knows may be about to be dropped.
//
// It is safe for concurrent use. One data key is good for 2^32 texts (NIST
// SP 800-38D), which no installation reaches.
type Keyring struct {
	store KeyStore
	file  masterFile
	log   *slog.Logger

	ring      atomic.Pointer[ring]
	confirmed atomic.Pointer[time.Time] // when the ring was last seen to be the one that is kept

	mu     sync.Mutex // one look at a time
	failed string     // what the last look failed with, so that it is logged once
}

// OpenKeyring opens the keyring of an installation by its master key, and makes
// both when there are none. Any number of servers may do so at once; all get
// the same. A rotation that was killed before it had replaced the file is
// finished as far as the file is concerned.
//
// It is an error, and says what to do, when the file holds another key than the
// keyring was sealed under, or when it is missing although there are keys.
func OpenKeyring(ctx context.Context, store KeyStore, masterKeyFile string, log *slog.Logger) (*Keyring, error) {
	k := &Keyring{store: store, file: masterFile{masterKeyFile}, log: log}
	row, err := store.Key(ctx, KeyringName)
	if err != nil {
		return nil, fmt.Errorf("load the keyring: %w", err)
	}
	if row == nil {
		if row, err = k.create(ctx); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	r, from, err := k.decode(row)
	if err != nil {
		return nil, err
	}
	if from == k.file.nextPath() {
		if err := k.file.promote(r.master); err != nil {
			return nil, err
		}
	}
	k.ring.Store(r)
	k.confirmed.Store(&began)
	return k, nil
}

// create makes a keyring of one data key.
func (k *Keyring) create(ctx context.Context) ([]byte, error) {
	names, err := k.store.KeyNames(ctx)
	if err != nil {
		return nil, fmt.Errorf("make the keyring: %w", err)
	}
	var master []byte
	if len(names) == 0 {
		master, err = LoadKey(k.file.path)
	} else {
		// An installation from before there were data keys: a new master key
		// would open nothing, and a keyring under a wrong one would hide that.
		master, err = k.file.read(k.file.path)
	}
	if err != nil {
		return nil, err
	}
	box, err := NewBox(master)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		sealed, err := k.store.Key(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("make the keyring: %w", err)
		}
		if _, err := box.Open(name, sealed); err != nil && name != KeyringName {
			return nil, fmt.Errorf("master key %s: %w; restore the file that belongs to this database", k.file.path, err)
		}
	}
	r := &ring{master: master, keys: []*dataKey{newDataKey(time.Now())}}
	row, err := r.encode(k.file.origin())
	if err != nil {
		return nil, err
	}
	if row, err = k.store.PutKeyIfAbsent(ctx, KeyringName, row); err != nil {
		return nil, fmt.Errorf("store the keyring: %w", err)
	}
	return row, nil
}

// decode opens the keyring as it is kept, by the master key that it is sealed
// under, and returns the file in which that was.
func (k *Keyring) decode(row []byte) (r *ring, from string, err error) {
	kept, err := parseKept(row)
	if err != nil {
		return nil, "", err
	}
	if now := k.ring.Load(); now != nil && masterID(now.master) == kept.MasterKey {
		r, err := kept.open(now.master)
		return r, k.file.path, err
	}
	has := "no key"
	for _, path := range []string{k.file.path, k.file.nextPath()} {
		key, err := k.file.read(path)
		if err != nil {
			if path == k.file.path && !errors.Is(err, errNoFile) {
				return nil, "", err
			}
			continue
		}
		if masterID(key) == kept.MasterKey {
			r, err := kept.open(key)
			return r, path, err
		}
		if path == k.file.path {
			has = "the key " + masterID(key)
		}
	}
	return nil, "", &outdatedError{fmt.Sprintf(
		"master key: %s holds %s, and the keyring in the database is sealed under the key %s, which was made on %s: copy that file to %s here (0600), and this server goes on without a restart",
		k.file.path, has, kept.MasterKey, kept.Origin, k.file.path)}
}

// outdatedError says that the master key was rotated elsewhere.
type outdatedError struct{ text string }

// Error says what to copy where.
func (e *outdatedError) Error() string { return e.text }

// Run looks every few seconds whether the keyring was changed, until ctx ends.
func (k *Keyring) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		_ = k.look(ctx) // it logs
	}
}

// Check reports whether texts can be sealed and opened at this moment.
func (k *Keyring) Check(ctx context.Context) error {
	if k.fresh() {
		return nil
	}
	return k.look(ctx)
}

func (k *Keyring) fresh() bool { return time.Since(*k.confirmed.Load()) < confirmedIn }

// look reads the keyring anew. What it cannot read is a fault of kind
// Unavailable, whose cause says what to do and is logged once.
func (k *Keyring) look(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	began := time.Now()
	err := k.reload(ctx)
	if err == nil {
		k.confirmed.Store(&began)
		k.failed = ""
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	if text := err.Error(); text != k.failed {
		k.failed = text
		k.log.ErrorContext(ctx, "the keyring cannot be read", "error", err)
	}
	if _, outdated := errors.AsType[*outdatedError](err); outdated {
		return fault.Wrap(err, fault.Unavailable, "master_key_outdated",
			"this server's master key was rotated on another server, and its own file is of no use any more: copy the new one here; the server's log says which file goes where")
	}
	if fault.As(err) != nil {
		return err
	}
	return fault.Wrap(err, fault.Unavailable, "keyring_unavailable", "the server cannot read its keys now: the server's log has the cause")
}

// reload is look without its words; the caller holds mu.
func (k *Keyring) reload(ctx context.Context) error {
	row, err := k.store.Key(ctx, KeyringName)
	if err != nil {
		return fmt.Errorf("load the keyring: %w", err)
	}
	if row == nil {
		return errors.New("load the keyring: it is gone from the database; restore the database")
	}
	if bytes.Equal(row, k.ring.Load().row) {
		return nil
	}
	r, _, err := k.decode(row)
	if err != nil {
		return err
	}
	k.ring.Store(r)
	k.log.InfoContext(ctx, "the keyring was changed and is read anew", "data_key", r.newest().name(), "data_keys", len(r.keys))
	return nil
}

// patience bounds a look that nobody's context bounds.
const patience = 10 * time.Second

// Seal encrypts plain under the newest data key, and binds the name to it. It
// asks the store first when it has not been able to look for a while; a
// keyring that it cannot read then is a fault of kind Unavailable.
func (k *Keyring) Seal(name string, plain []byte) ([]byte, error) {
	if !k.fresh() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := k.look(ctx); err != nil {
			return nil, err
		}
	}
	return k.ring.Load().seal(name, plain), nil
}

// Open decrypts what Seal made under the same name, under whichever data key.
// It asks the store when it does not know the key.
func (k *Keyring) Open(name string, sealed []byte) ([]byte, error) {
	r := k.ring.Load()
	plain, err := r.open(name, sealed)
	unknown, ok := errors.AsType[*unknownKeyError](err)
	if !ok {
		return plain, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := k.look(ctx); err != nil {
		return nil, err
	}
	if k.ring.Load() == r {
		return nil, unknown
	}
	return k.ring.Load().open(name, sealed)
}

// unknownKeyError says that a text is of a data key that is not there.
type unknownKeyError struct {
	name string
	id   keyID
}

// Error says which key.
func (e *unknownKeyError) Error() string {
	return fmt.Sprintf("open %s: it was sealed under the data key %s, which is not in the keyring; restore the database whole, not table by table", e.name, hex.EncodeToString(e.id[:]))
}
