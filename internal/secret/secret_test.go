package secret_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/sqlite"
)

const tenant = "default"

func newService(t *testing.T, users ...string) (*secret.Service, *store.Store) {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	box, err := seal.NewBox(make([]byte, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return secret.NewService(st, box, func(context.Context, string, string) ([]string, error) { return users, nil }, time.Now), st
}

func TestValuesAreSealed(t *testing.T) {
	t.Parallel()
	s, st := newService(t)
	for _, value := range []string{"first-value", "second-value"} {
		sec, err := s.Set(t.Context(), tenant, "me", "db", value)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := st.Secret(t.Context(), tenant, "db")
		if err != nil || strings.Contains(string(kept.Sealed), value) || kept.Version != sec.Version {
			t.Errorf("%+v, %v", kept, err)
		}
		got, err := s.Values(t.Context(), tenant, []string{"db"})
		if err != nil || got["db"] != value {
			t.Errorf("%v, %v", got, err)
		}
	}
	if _, err := s.Values(t.Context(), "other", []string{"db"}); fault.CodeOf(err) != "secret_not_found" {
		t.Errorf("another tenant's: %v", err)
	}
	// A value that is put under another name does not open.
	moved, err := st.Secret(t.Context(), tenant, "db")
	if err != nil {
		t.Fatal(err)
	}
	moved.Name = "stolen"
	if err := st.PutSecret(t.Context(), moved); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Values(t.Context(), tenant, []string{"stolen"}); err == nil {
		t.Errorf("opened: %v", got)
	}
}

func TestSetRefuses(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	for what, c := range map[string]struct{ name, value, says string }{
		"no name":    {"", "x", "no secret's name"},
		"slash":      {"a/b", "x", "no secret's name"},
		"dots":       {"..", "x", "no secret's name"},
		"long name":  {strings.Repeat("a", 129), "x", "no secret's name"},
		"empty":      {"a", "", "it is empty"},
		"large":      {"a", strings.Repeat("x", secret.MaxValue+1), "at most 65536"},
		"NUL inside": {"a", "x\x00y", "NUL"},
	} {
		if _, err := s.Set(t.Context(), tenant, "me", c.name, c.value); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.Set(t.Context(), tenant, "me", strings.Repeat("a", 128), strings.Repeat("x", secret.MaxValue)); err != nil {
		t.Error(err)
	}
}

func TestRemoveAsksWhoUsesIt(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, "web-1", "web-2")
	if _, err := s.Set(t.Context(), tenant, "me", "key", "value"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), tenant, "key", false); fault.CodeOf(err) != "secret_in_use" || !strings.Contains(err.Error(), "web-1, web-2") {
		t.Errorf("%v", err)
	}
	if err := s.Remove(t.Context(), tenant, "key", true); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Get(t.Context(), tenant, "key"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("%v", err)
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	payload := `{"config":{"environment":{"A":"secret://one","B":"x secret://one","C":"plain"},"memoryLimit":9007199254740993},` +
		`"deploy":{"hooks":{"preDeploy":{"command":["secret://two"],"environment":{"D":"secret://two"}}}},"list":[{"environment":{"E":"secret://one"}}],"environment":"secret://none"}`
	names, err := secret.InPayload([]byte(payload))
	if err != nil || !slices.Equal(names, []string{"one", "two"}) {
		t.Errorf("%v, %v", names, err)
	}
	got, err := secret.Resolve([]byte(payload), map[string]string{"one": `va"lue`, "two": "second"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"A":"va\"lue"`, `"B":"x secret://one"`, `"C":"plain"`, `"D":"second"`, `"E":"va\"lue"`, `["secret://two"]`, `9007199254740993`, `"environment":"secret://none"`,
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if _, err := secret.Resolve([]byte(payload), map[string]string{"one": "x"}); err == nil || !strings.Contains(err.Error(), `"two"`) || !strings.Contains(err.Error(), "D") {
		t.Errorf("a value that is missing: %v", err)
	}
}

// A payload without references comes back as it was, whatever it is.
func TestResolveLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Filter(func(s string) bool { return !strings.Contains(s, "secret:") }).Draw(t, "payload")
		got, err := secret.Resolve([]byte(text), nil)
		if err != nil || string(got) != text {
			t.Fatalf("%q became %q, %v", text, got, err)
		}
	})
}
