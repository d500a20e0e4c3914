package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/seal"
)

func (m *memory) rotation(k *seal.Keyring) *seal.Rotation {
	return &seal.Rotation{Keyring: k, Texts: m}
}

func opens(t testing.TB, k *seal.Keyring, name string, sealed []byte, want string) {
	t.Helper()
	if got, err := k.Open(name, sealed); err != nil || string(got) != want {
		t.Errorf("%s opens as %q, %v; want %q", name, got, err, want)
	}
}

func TestKeyringBindsNameAndKey(t *testing.T) {
	t.Parallel()
	mine, other := newMemory().server(t, keyFile(t)), newMemory().server(t, keyFile(t))
	rapid.Check(t, func(t *rapid.T) {
		name, plain := rapid.String().Draw(t, "name"), rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		sealed, err := mine.Seal(name, plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(plain) > 8 && bytes.Contains(sealed, plain) {
			t.Fatal("it is not encrypted")
		}
		if got, err := mine.Open(name, sealed); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("opened %x, %v", got, err)
		}
		if _, err := mine.Open(name+"x", sealed); err == nil {
			t.Fatal("it opens under another name")
		}
		if _, err := other.Open(name, sealed); err == nil || !strings.Contains(err.Error(), "not in the keyring") {
			t.Fatalf("under another keyring: %v", err)
		}
		altered := bytes.Clone(sealed)
		altered[rapid.IntRange(0, len(altered)-1).Draw(t, "at")] ^= byte(1) << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := mine.Open(name, altered); err == nil {
			t.Fatal("it opens although it was altered")
		}
		if _, err := mine.Open(name, sealed[:rapid.IntRange(0, len(sealed)-1).Draw(t, "cut")]); err == nil {
			t.Fatal("it opens although it was cut")
		}
	})
}

// Whatever is sealed by whichever server, before, during and after rotations
// that are killed anywhere: everything opens, everywhere.
func TestKeyringOverRotations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// As a plain TB: a bubble has no deadline to ask for.
		rapid.Check(struct{ testing.TB }{t}, func(rt *rapid.T) {
			dir, err := os.MkdirTemp(t.TempDir(), "") //nolint:usetesting // t.TempDir counts on for ever, and this is one of many
			if err != nil {
				rt.Fatal(err)
			}
			m, file, plain := newMemory(), filepath.Join(dir, "master.key"), map[string]string{}
			// From before there were data keys.
			key, err := seal.LoadKey(file)
			if err != nil {
				rt.Fatal(err)
			}
			box, err := seal.NewBox(key)
			if err != nil {
				rt.Fatal(err)
			}
			for i := range rapid.IntRange(0, 40).Draw(rt, "of the old format") {
				name := fmt.Sprint("old/", i)
				plain[name] = "plain of " + name
				if m.texts[name], err = box.Seal(name, []byte(plain[name])); err != nil {
					rt.Fatal(err)
				}
			}
			servers := []*seal.Keyring{m.server(t, file), m.server(t, file)}
			rt.Repeat(map[string]func(*rapid.T){
				"seal": func(rt *rapid.T) {
					name := fmt.Sprint("text/", rapid.IntRange(0, 60).Draw(rt, "name"))
					plain[name] = rapid.StringN(0, 30, -1).Draw(rt, "plain")
					m.put(t, servers[rapid.IntRange(0, 1).Draw(rt, "server")], name, plain[name])
				},
				"time passes": func(rt *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 60).Draw(rt, "seconds")) * time.Second) }, //nolint:forbidigo // in a bubble
				"restart": func(rt *rapid.T) {
					servers[rapid.IntRange(0, 1).Draw(rt, "which")] = m.server(t, file)
				},
				"rotate": func(rt *rapid.T) {
					r := m.rotation(m.server(t, file))
					killedAt := rapid.IntRange(0, 12).Draw(rt, "killed at")
					killed := errors.New("killed")
					steps := 0
					r.Before = func(string) error {
						if steps++; steps == killedAt {
							return killed
						}
						return nil
					}
					if _, err := r.Run(t.Context()); err != nil && !errors.Is(err, killed) {
						rt.Fatal(err)
					}
				},
				"": func(rt *rapid.T) {
					for name, want := range plain {
						for i, k := range append(servers, m.server(t, file)) {
							if got, err := k.Open(name, m.text(name)); err != nil || string(got) != want {
								rt.Fatalf("server %d opens %s as %q, %v", i, name, got, err)
							}
						}
					}
				},
			})
			if _, err := m.rotation(m.server(t, file)).Run(t.Context()); err != nil {
				rt.Fatalf("at the end: %v", err)
			}
		})
	})
}

// Servers that write all the while, one of which looks only when it must, lose
// nothing to a rotation, and what they wrote is under the new key in the end.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, file := newMemory(), keyFile(t)
		looks, lazy := m.server(t, file), m.server(t, file)
		go func() { _ = looks.Run(t.Context()) }()
		m.put(t, lazy, "first", "plain of first")
		head := bytes.Clone(m.text("first")[:9])
		var written atomic.Int64
		stop := make(chan struct{})
		for _, k := range []*seal.Keyring{looks, lazy} {
			go func() {
				for tick := time.NewTicker(70 * time.Millisecond); ; {
					select {
					case <-stop:
						return
					case <-tick.C:
						name := fmt.Sprint("text/", written.Add(1))
						m.put(t, k, name, "plain of "+name)
					}
				}
			}()
		}
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble
		done, err := m.rotation(m.server(t, file)).Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if done.Texts < 1000 || len(done.Unreadable) > 0 {
			t.Errorf("%+v", done)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble
		close(stop)
		synctest.Wait()
		anew := m.server(t, file)
		for name := range m.texts {
			if bytes.HasPrefix(m.text(name), head) {
				t.Errorf("%s is under the old key", name)
			}
			opens(t, anew, name, m.text(name), "plain of "+name)
		}
	})
}

// A rotation goes on where it was killed, at whichever step; meanwhile every
// server starts, and opens what there is.
func TestRotationKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, step := range seal.RotationSteps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, file := newMemory(), keyFile(t)
				k := m.server(t, file)
				for i := range 100 {
					m.put(t, k, fmt.Sprint("text/", i), "plain")
				}
				old, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				r := m.rotation(m.server(t, file))
				r.Before = func(s string) error {
					if s == step {
						return errors.New("killed")
					}
					return nil
				}
				if _, err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "killed") {
					t.Fatalf("killed: %v", err)
				}
				for _, k := range []*seal.Keyring{k, m.server(t, file)} {
					for name := range m.texts {
						opens(t, k, name, m.text(name), "plain")
					}
					m.put(t, k, "between", "plain")
				}
				done, err := m.rotation(m.server(t, file)).Run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				// Where the new key was in force it is finished, not replaced once more.
				if resumed := step == seal.StepReplaceFile || step == seal.StepReseal || step == seal.StepDrop; done.Resumed != resumed {
					t.Errorf("resumed: %t", done.Resumed)
				}
				now, err := os.ReadFile(file)
				if err != nil || bytes.Equal(now, old) {
					t.Errorf("the file was not replaced: %v", err)
				}
				info, err := os.Stat(file)
				if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
					t.Errorf("%v, %v", info, err)
				}
				if _, err := os.Stat(file + ".next"); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the next key is left: %v", err)
				}
				for _, k := range []*seal.Keyring{k, m.server(t, file)} {
					for name := range m.texts {
						opens(t, k, name, m.text(name), "plain")
					}
				}
				// The old master key is worth nothing any more.
				if err := os.WriteFile(file, old, 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := seal.OpenKeyring(t.Context(), m, file, slog.New(slog.DiscardHandler)); err == nil {
					t.Error("the old key opens the keyring")
				}
			})
		})
	}
}

// A server on another host, whose file nobody has replaced, goes on reading
// what it knows, seals nothing, says what to copy where, and works again when
// that was done, without a restart.
func TestServerWhoseMasterKeyWasRotatedElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, here, there := newMemory(), keyFile(t), keyFile(t)
		first := m.server(t, here)
		key, err := os.ReadFile(here)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(there, key, 0o600); err != nil {
			t.Fatal(err)
		}
		away := m.server(t, there)
		m.put(t, first, "known", "plain")
		known := m.text("known")
		if _, err := m.rotation(first).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		opens(t, away, "known", known, "plain")
		if _, err := away.Open("known", m.text("known")); fault.CodeOf(err) != "master_key_outdated" || fault.KindOf(err) != fault.Unavailable {
			t.Errorf("a text under the new key: %v", err)
		} else if cause := fault.As(err).Cause; cause == nil || !strings.Contains(cause.Error(), here) || !strings.Contains(cause.Error(), "copy that file to "+there) {
			t.Errorf("it does not say what to copy where: %v", cause)
		}
		if _, err := away.Seal("x", nil); fault.CodeOf(err) != "master_key_outdated" {
			t.Errorf("it seals under a key that is dropped: %v", err)
		}
		if err := away.Check(t.Context()); err == nil {
			t.Error("it is ready")
		}
		if _, err := seal.OpenKeyring(t.Context(), m, there, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "copy that file") {
			t.Errorf("it starts: %v", err)
		}
		if key, err = os.ReadFile(here); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(there, key, 0o600); err != nil {
			t.Fatal(err)
		}
		opens(t, away, "known", m.text("known"), "plain")
		m.put(t, away, "more", "plain")
		opens(t, first, "more", m.text("more"), "plain")
		if err := away.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestOpenKeyringRefusesAWrongKey(t *testing.T) {
	t.Parallel()
	open := func(m *memory, file string) error {
		_, err := seal.OpenKeyring(t.Context(), m, file, slog.New(slog.DiscardHandler))
		return err
	}
	m, file := newMemory(), keyFile(t)
	m.server(t, file)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := open(m, file); err == nil || !strings.Contains(err.Error(), "holds no key") {
		t.Errorf("without its file: %v", err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a new key was made although there are texts under another")
	}
	// An installation of the old format, with a wrong file: nothing is kept.
	old := newMemory()
	old.keys["pki"], _ = newBox(t, 1).Seal("pki", []byte("plain"))
	if err := open(old, file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the old format without its file: %v", err)
	}
	if err := os.WriteFile(file, bytes.Repeat([]byte{7}, seal.KeySize), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(old, file); err == nil || len(old.keys) != 1 {
		t.Errorf("a wrong file: %v, and %d keys", err, len(old.keys))
	}
	// A keyring that somebody has altered.
	for _, row := range []string{"", "{}", "nothing", `{"masterKey":"x","ring":"AAAA"}`} {
		m, file := newMemory(), keyFile(t)
		m.server(t, file)
		m.keys[seal.KeyringName] = []byte(row)
		if err := open(m, file); err == nil {
			t.Errorf("%q opens", row)
		}
	}
}

func TestRotationRunsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, file := newMemory(), keyFile(t)
		m.put(t, m.server(t, file), "text", "plain")
		r := m.rotation(m.server(t, file))
		r.Before = func(step string) error {
			if step == seal.StepReseal {
				if _, err := m.rotation(m.server(t, file)).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another process") {
					t.Errorf("a second one: %v", err)
				}
			}
			return nil
		}
		if _, err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A server that stood still for the whole of the rotation, between sealing a
// text and keeping it, has not lost it.
func TestRotationFindsWhatComesLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, file := newMemory(), keyFile(t)
		slow := m.server(t, file)
		late, err := slow.Seal("late", []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		r := m.rotation(m.server(t, file))
		r.Before = func(step string) error {
			if step == seal.StepLookAgain {
				m.texts["late"] = late
			}
			return nil
		}
		if _, err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		opens(t, m.server(t, file), "late", m.text("late"), "plain")
	})
}

// Somebody who goes on writing under an old key keeps the old keys, and is
// named.
func TestRotationThatIsNeverDone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, file := newMemory(), keyFile(t)
		stuck := m.server(t, file)
		old, err := stuck.Seal("stuck", []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		m.texts["stuck"] = old
		r := m.rotation(m.server(t, file))
		writes := true
		r.Before = func(step string) error {
			if step == seal.StepDrop && writes {
				t.Error("it drops a key that is in use")
			}
			return nil
		}
		r.Say = func(line string) {
			if writes && strings.Contains(line, "sealed anew") {
				m.texts["stuck"] = old
			}
		}
		if _, err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "run the command again") {
			t.Errorf("%v", err)
		}
		opens(t, stuck, "stuck", old, "plain")
		writes = false
		if done, err := m.rotation(m.server(t, file)).Run(t.Context()); err != nil || !done.Resumed {
			t.Errorf("%+v, %v", done, err)
		}
		opens(t, m.server(t, file), "stuck", m.text("stuck"), "plain")
	})
}

// A text that no key opens is named, and keeps nothing from being finished.
func TestRotationNamesWhatNobodyCanRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, file := newMemory(), keyFile(t)
		m.put(t, m.server(t, file), "good", "plain")
		m.texts["broken"] = []byte("\x01nonsense, and more of it")
		done, err := m.rotation(m.server(t, file)).Run(t.Context())
		if err != nil || len(done.Unreadable) != 1 || !strings.Contains(done.Unreadable[0], "broken") || done.Texts != 1 {
			t.Errorf("%+v, %v", done, err)
		}
	})
}

// Nothing that is found in a database can do more than be refused.
func FuzzKeyringOpen(f *testing.F) {
	m := newMemory()
	k := m.server(f, keyFile(f))
	good, err := k.Seal("name", []byte("plain"))
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range []int{0, 1, 8, 9, 10, len(good) - 1, len(good)} {
		f.Add(good[:n])
	}
	f.Add(bytes.Repeat([]byte{1}, 60))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if got, err := k.Open("name", sealed); err == nil && !bytes.Equal(sealed, good) {
			t.Fatalf("%x opens as %q", sealed, got)
		}
	})
}
