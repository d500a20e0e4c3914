package seal

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A sealed text is: a version byte, the id of its data key, a random nonce, the
// ciphertext and its tag (AES-256-GCM). The first two and the name are bound to
// it.
const (
	textVersion = 1
	headSize    = 1 + len(keyID{})
)

// keyID names a data key.
type keyID [8]byte

// dataKey seals texts.
type dataKey struct {
	id   keyID
	key  []byte
	made time.Time
	box  *Box
	head [headSize]byte // how texts under it begin
}

func newDataKey(now time.Time) *dataKey {
	d := &dataKey{key: make([]byte, KeySize), made: now.UTC()}
	_, _ = rand.Read(d.id[:]) // never fails: crypto/rand ends the process instead
	_, _ = rand.Read(d.key)
	if err := d.prepare(); err != nil {
		panic(err) // a key of KeySize bytes is one
	}
	return d
}

func (d *dataKey) prepare() (err error) {
	d.head[0] = textVersion
	copy(d.head[1:], d.id[:])
	d.box, err = NewBox(d.key)
	return err
}

func (d *dataKey) name() string { return hex.EncodeToString(d.id[:]) }

// ring is the keyring as it was read once. It does not change.
type ring struct {
	row    []byte // as it is kept
	master []byte
	// keys are the data keys, the newest last; more than one only while a
	// rotation is under way.
	keys []*dataKey
	// former are the master keys that were replaced since texts were last
	// sealed anew: some may be sealed under them directly.
	former [][]byte
	// begun is when the rotation that is under way began.
	begun time.Time
}

func (r *ring) newest() *dataKey { return r.keys[len(r.keys)-1] }

// head is how texts under the newest data key begin.
func (r *ring) head() []byte { return r.newest().head[:] }

// rotating reports whether there is anything to finish.
func (r *ring) rotating() bool { return len(r.keys) > 1 || len(r.former) > 0 }

func (r *ring) seal(name string, plain []byte) []byte {
	d := r.newest()
	return d.box.aead.Seal(bytes.Clone(r.head()), nil, plain, bound(r.head(), name)) //nolint:gosec // this AEAD makes a random nonce itself and takes none
}

func bound(head []byte, name string) []byte { return append(bytes.Clone(head), name...) }

// open decrypts a text. One whose data key is not there is an
// *unknownKeyError.
func (r *ring) open(name string, sealed []byte) ([]byte, error) {
	if len(sealed) > headSize && sealed[0] == textVersion {
		head := sealed[:headSize]
		for _, d := range r.keys {
			if bytes.Equal(head, d.head[:]) {
				plain, err := d.box.aead.Open(nil, nil, sealed[headSize:], bound(head, name))
				if err != nil {
					return nil, fmt.Errorf("open %s: it was altered, or belongs elsewhere", name)
				}
				return plain, nil
			}
		}
	}
	// Before there were data keys, a text began with its nonce, which may look
	// like anything.
	for _, key := range append([][]byte{r.master}, r.former...) {
		box, err := NewBox(key)
		if err != nil {
			return nil, err
		}
		if plain, err := box.Open(name, sealed); err == nil {
			return plain, nil
		}
	}
	if len(sealed) > headSize && sealed[0] == textVersion {
		return nil, &unknownKeyError{name, keyID(sealed[1:headSize])}
	}
	return nil, fmt.Errorf("open %s: it was sealed under another master key, or altered", name)
}

// ringFile is what is sealed of a ring.
type ringFile struct {
	Keys   []ringKey `json:"keys"`
	Former [][]byte  `json:"former,omitempty"`
	Begun  time.Time `json:"begun,omitzero"`
}

type ringKey struct {
	ID   string    `json:"id"`
	Key  []byte    `json:"key"`
	Made time.Time `json:"made"`
}

// keptRing is the row: the ring, and for people which master key opens it.
type keptRing struct {
	MasterKey string `json:"masterKey"` // its id
	Origin    string `json:"origin"`    // host and file where it was made
	Ring      []byte `json:"ring"`      // a ringFile, sealed under the master key
}

// encode makes the row.
func (r *ring) encode(origin string) ([]byte, error) {
	f := ringFile{Former: r.former, Begun: r.begun}
	for _, d := range r.keys {
		f.Keys = append(f.Keys, ringKey{d.name(), d.key, d.made})
	}
	plain, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode the keyring: %w", err)
	}
	box, err := NewBox(r.master)
	if err != nil {
		return nil, err
	}
	sealed, err := box.Seal(KeyringName, plain)
	if err != nil {
		return nil, err
	}
	row, err := json.Marshal(keptRing{masterID(r.master), origin, sealed})
	if err != nil {
		return nil, fmt.Errorf("encode the keyring: %w", err)
	}
	return row, nil
}

// kept is a row that was parsed, with its text.
type kept struct {
	keptRing
	row []byte
}

func parseKept(row []byte) (*kept, error) {
	k := &kept{row: row}
	if err := json.Unmarshal(row, &k.keptRing); err != nil || k.MasterKey == "" {
		return nil, errors.New("load the keyring: what the database holds is none; restore the database")
	}
	return k, nil
}

// open decrypts the ring with the master key that it is sealed under.
func (k *kept) open(master []byte) (*ring, error) {
	box, err := NewBox(master)
	if err != nil {
		return nil, err
	}
	plain, err := box.Open(KeyringName, k.Ring)
	if err != nil {
		return nil, errors.New("load the keyring: it was altered in the database; restore the database")
	}
	var f ringFile
	if err := json.Unmarshal(plain, &f); err != nil {
		return nil, fmt.Errorf("load the keyring: %w", err)
	}
	r := &ring{row: k.row, master: master, former: f.Former, begun: f.Begun}
	for _, key := range f.Keys {
		d := &dataKey{key: key.Key, made: key.Made}
		id, err := hex.DecodeString(key.ID)
		if err != nil || len(id) != len(d.id) {
			return nil, fmt.Errorf("load the keyring: %q is no id of a data key", key.ID)
		}
		copy(d.id[:], id)
		if err := d.prepare(); err != nil {
			return nil, fmt.Errorf("load the keyring: data key %s: %w", key.ID, err)
		}
		r.keys = append(r.keys, d)
	}
	if len(r.keys) == 0 {
		return nil, errors.New("load the keyring: it has no keys")
	}
	return r, nil
}

// masterID names a master key without telling anything of it.
func masterID(key []byte) string {
	sum := sha256.Sum256(append([]byte("stella master key\x00"), key...))
	return hex.EncodeToString(sum[:8])
}
