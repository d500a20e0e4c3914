package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/seal"
)

// sealedTo seals a text as the server does.
func sealedTo(t testing.TB, publicKey string, info []byte, plain string) *api.Sealed {
	t.Helper()
	key, err := seal.ParsePublicKeyText(publicKey)
	if err != nil {
		t.Fatal(err)
	}
	data, err := key.Seal(info, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return &api.Sealed{KeyID: key.ID(), Data: data}
}

func encryptionFolder(t testing.TB, dir string) *encryptionKeys {
	t.Helper()
	k, err := loadEncryptionKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestEncryptionKeysStayOverRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := encryptionFolder(t, dir)
	first := k.public()
	if again := encryptionFolder(t, dir).public(); again != first {
		t.Error("a restart has another key")
	}
	next, err := k.rotate()
	if err != nil || next == first {
		t.Fatal(err)
	}
	if again, err := k.rotate(); err != nil || again != next || k.public() != first {
		t.Errorf("before the server has taken it: %v", err)
	}
	if err := k.commit(); err != nil || k.public() != next {
		t.Errorf("committed: %v", err)
	}
	if err := k.commit(); err != nil || k.public() != next {
		t.Errorf("again: %v", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

// An agent that was killed after the server took the next key knows so from
// what it has registered.
func TestEncryptionKeyThatWasTakenBeforeACrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := encryptionFolder(t, dir)
	next, err := k.rotate()
	if err != nil {
		t.Fatal(err)
	}
	k = encryptionFolder(t, dir)
	if err := k.registered(k.public()); err != nil || k.public() == next {
		t.Errorf("the server has the current one: %v", err)
	}
	if err := k.registered(next); err != nil || k.public() != next {
		t.Errorf("the server has the next one: %v", err)
	}
}

// Whatever the server was told last, and wherever the agent was killed: what is
// sealed to the key that the server has is opened, and to the one before it.
func TestEncryptionKeysModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "") //nolint:usetesting // t.TempDir counts on for ever, and this is one of many
		if err != nil {
			rt.Fatal(err)
		}
		k := encryptionFolder(t, dir)
		server, before := k.public(), k.public() // what the server has registered, and what it had
		rt.Repeat(map[string]func(*rapid.T){
			"rotate, killed before or after the server heard": func(rt *rapid.T) {
				next, err := k.rotate()
				if err != nil {
					rt.Fatal(err)
				}
				if rapid.Bool().Draw(rt, "heard") && next != server {
					before, server = server, next
				}
				k = encryptionFolder(t, dir)
			},
			"rotate and commit": func(rt *rapid.T) {
				next, err := k.rotate()
				if err != nil {
					rt.Fatal(err)
				}
				if next != server {
					before, server = server, next
				}
				if rapid.Bool().Draw(rt, "killed in the commit") {
					// After the first of its two writes.
					if err := k.write(previousEncryptionFile, k.current); err != nil {
						rt.Fatal(err)
					}
					k = encryptionFolder(t, dir)
				} else if err := k.commit(); err != nil {
					rt.Fatal(err)
				}
			},
			"restart": func(*rapid.T) { k = encryptionFolder(t, dir) },
			"": func(rt *rapid.T) {
				for what, key := range map[string]string{"has": server, "had": before} {
					if got, err := k.open(sealedTo(t, key, []byte("info"), "plain"), []byte("info")); err != nil || string(got) != "plain" {
						rt.Fatalf("to the key that the server %s: %q, %v", what, got, err)
					}
				}
			},
		})
	})
}

func TestEncryptionKeysRefuse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k, other := encryptionFolder(t, dir), encryptionFolder(t, t.TempDir())
	if _, err := k.open(sealedTo(t, other.public(), nil, "plain"), nil); err == nil || !strings.Contains(err.Error(), "does not have") {
		t.Errorf("another agent's: %v", err)
	}
	lying := sealedTo(t, other.public(), nil, "plain")
	lying.KeyID = k.current.Public().ID()
	if _, err := k.open(lying, nil); err == nil {
		t.Error("another agent's under this one's name")
	}
	if _, err := k.open(&api.Sealed{}, nil); err == nil {
		t.Error("nothing opens")
	}
	s := sealedTo(t, k.public(), nil, "plain")
	kept := bytes.Clone(s.Data)
	if _, err := k.open(s, nil); err != nil || !bytes.Equal(kept, s.Data) {
		t.Errorf("opened: %v", err)
	}
	for _, name := range []string{encryptionFile, previousEncryptionFile, nextEncryptionFile} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadEncryptionKeys(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a damaged %s: %v", name, err)
		}
	}
}
