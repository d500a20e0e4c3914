package seal_test

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"stella-ops.org/stella/internal/seal"
)

// memory is a store in memory: what a database is to keys and texts. The store
// itself is tried, on both engines, in storetest.
type memory struct {
	mu    sync.Mutex
	keys  map[string][]byte
	texts map[string][]byte // by the names that they are sealed under
}

func newMemory() *memory { return &memory{keys: map[string][]byte{}, texts: map[string][]byte{}} }

var (
	_ seal.KeyStore = (*memory)(nil)
	_ seal.Texts    = (*memory)(nil)
)

func (m *memory) Key(_ context.Context, name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keys[name], nil
}

func (m *memory) PutKeyIfAbsent(_ context.Context, name string, sealed []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keys[name] == nil {
		m.keys[name] = sealed
	}
	return m.keys[name], nil
}

func (m *memory) SwapKey(_ context.Context, name string, old, anew []byte) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !bytes.Equal(m.keys[name], old) {
		return false, nil
	}
	m.keys[name] = anew
	return true, nil
}

func (m *memory) KeyNames(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.keys)), nil
}

func (m *memory) SealedTables() []string { return []string{"texts"} }

func (m *memory) OutdatedTexts(_ context.Context, _ string, head []byte, after []string, limit int) ([]seal.Text, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []seal.Text
	for _, name := range slices.Sorted(maps.Keys(m.texts)) {
		if (after == nil || name > after[0]) && !bytes.HasPrefix(m.texts[name], head) && len(list) < limit {
			list = append(list, seal.Text{Key: []string{name}, Name: name, Sealed: m.texts[name]})
		}
	}
	return list, nil
}

func (m *memory) ReplaceTexts(_ context.Context, _ string, list []seal.Replacement) (n int, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range list {
		if bytes.Equal(m.texts[r.Key[0]], r.Sealed) {
			m.texts[r.Key[0]] = r.Anew
			n++
		}
	}
	return n, nil
}

// put keeps a text that k seals.
func (m *memory) put(t testing.TB, k *seal.Keyring, name, plain string) {
	t.Helper()
	sealed, err := k.Seal(name, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.texts[name] = sealed
}

func (m *memory) text(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.texts[name]
}

// server is a fresh process of a server.
func (m *memory) server(t testing.TB, file string) *seal.Keyring {
	t.Helper()
	k, err := seal.OpenKeyring(t.Context(), m, file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keyFile(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "master.key")
}
