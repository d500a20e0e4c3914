package storetest

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/rollout"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/task"
)

// sealed is an installation with something in every table that is sealed.
type sealed struct {
	*bench
	file string
	// plain is what the texts are, by what they are sealed under.
	plain map[string]string
	// versions counts what was sealed, so that no two texts are the same.
	versions int
	tgt      string
	tasks    []string
	done     string // the task of a deployment
}

func (b *bench) sealed(t testing.TB) *sealed {
	t.Helper()
	s := &sealed{bench: b, file: filepath.Join(t.TempDir(), "master.key"), plain: map[string]string{}}
	// As a server of before there were data keys has left it.
	key, err := seal.LoadKey(s.file)
	must(t, err)
	box, err := seal.NewBox(key)
	must(t, err)
	_, err = b.PutKeyIfAbsent(b.ctx, "pki/authority", s.seal(t, box, "pki/authority"))
	must(t, err)
	b.enrol(t, b.agent("a"))
	s.tgt = b.target(t, "web", "id-a").ID
	k := b.queued(s.tgt)
	k.Sealed = s.seal(t, box, task.SealName(k.ID))
	_, err = b.InsertTask(b.ctx, k)
	must(t, err)
	b.claimed(t, k, "id-a")
	s.done = k.ID
	_, err = b.FinishTask(b.ctx, task.Finish{Ref: task.Ref{ID: k.ID, Attempt: 1}, AgentID: "id-a", State: api.TaskSucceeded, At: b.now, Deployment: &task.Deployment{
		TaskID: k.ID, TenantID: tenant, TargetID: s.tgt, ReleaseID: "r", Digest: "d", Payload: []byte(`{}`), Sealed: k.Sealed, At: b.now,
	}})
	must(t, err)
	// And one with nothing to repeat.
	bare := b.claimed(t, b.insert(t, s.tgt, func(k *task.Task) { k.Sealed = nil }), "id-a")
	_, err = b.FinishTask(b.ctx, task.Finish{Ref: task.Ref{ID: bare.ID, Attempt: 1}, AgentID: "id-a", State: api.TaskSucceeded, At: b.now, Deployment: &task.Deployment{
		TaskID: bare.ID, TenantID: tenant, TargetID: s.tgt, ReleaseID: "r0", Digest: "d", Payload: []byte(`{}`), At: b.now,
	}})
	must(t, err)
	r := b.rollout("o1")
	r.Sealed = s.seal(t, box, rollout.SealName(r.ID))
	_, err = b.InsertRollout(b.ctx, r)
	must(t, err)
	ring := s.server(t, b.Store)
	for i := range 70 { // more than two pages
		s.secret(t, b.Store, ring, numbered("secret", i))
		k := b.queued(s.tgt)
		k.Sealed = s.seal(t, ring, task.SealName(k.ID))
		_, err := b.InsertTask(b.ctx, k)
		must(t, err)
		s.tasks = append(s.tasks, k.ID)
	}
	return s
}

type sealer interface {
	Seal(name string, plain []byte) ([]byte, error)
}

func (s *sealed) seal(t testing.TB, by sealer, name string) []byte {
	t.Helper()
	s.versions++
	s.plain[name] = numbered("plain of "+name, s.versions)
	text, err := by.Seal(name, []byte(s.plain[name]))
	must(t, err)
	return text
}

func (s *sealed) secret(t testing.TB, st *store.Store, by sealer, name string) {
	t.Helper()
	must(t, st.PutSecret(s.ctx, &secret.Secret{
		TenantID: tenant, Name: name, Sealed: s.seal(t, by, secret.SealName(tenant, name)), CreatedBy: "me", UpdatedBy: "me", CreatedAt: s.now, UpdatedAt: s.now,
	}))
}

// server is a fresh process of a server.
func (s *sealed) server(t testing.TB, st *store.Store) *seal.Keyring {
	t.Helper()
	k, err := seal.OpenKeyring(s.ctx, st, s.file, slog.New(slog.DiscardHandler))
	must(t, err)
	return k
}

// opens checks that a server reads everything, from where services read it.
func (s *sealed) opens(t testing.TB, k *seal.Keyring) {
	t.Helper()
	check := func(name string, text []byte) {
		t.Helper()
		if got, err := k.Open(name, text); err != nil || string(got) != s.plain[name] {
			t.Errorf("%s opens as %q, %v", name, got, err)
		}
	}
	text, err := s.Key(s.ctx, "pki/authority")
	must(t, err)
	check("pki/authority", text)
	for _, id := range append([]string{s.done}, s.tasks...) {
		check(task.SealName(id), s.state(t, id).Sealed)
	}
	history, err := s.Deployments(s.ctx, tenant, s.tgt, 10)
	must(t, err)
	for _, d := range history {
		if d.TaskID == s.done {
			check(task.SealName(d.TaskID), d.Sealed)
		} else if len(d.Sealed) != 0 {
			t.Errorf("a deployment without a text has %x", d.Sealed)
		}
	}
	r, err := s.Rollout(s.ctx, tenant, "o1")
	must(t, err)
	check(rollout.SealName("o1"), r.Sealed)
	secrets, err := s.Secrets(s.ctx, tenant, secret.Filter{})
	must(t, err)
	for _, sec := range secrets {
		check(secret.SealName(tenant, sec.Name), sec.Sealed)
	}
	if len(secrets) < 70 || len(history) != 2 {
		t.Errorf("%d secrets, %d deployments", len(secrets), len(history))
	}
}

// outdated counts, by table, the texts that are not under the newest key.
func (s *sealed) outdated(t testing.TB, like []byte) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, table := range s.SealedTables() {
		var after []string
		for {
			page, err := s.OutdatedTexts(s.ctx, table, like[:9], after, 7)
			must(t, err)
			if len(page) == 0 {
				break
			}
			out[table] += len(page)
			after = page[len(page)-1].Key
		}
	}
	return out
}

func testRotation(t *testing.T, b *bench) {
	s := b.sealed(t)
	running := s.server(t, b.Store)
	again := b.open(t)
	rotate := func(before func(string) error) (*seal.Rotated, error) {
		return (&seal.Rotation{Keyring: s.server(t, again), Texts: again, Grace: time.Millisecond, Before: before}).Run(s.ctx)
	}
	text, err := running.Seal("x", nil)
	must(t, err)
	if got := s.outdated(t, text); got["keys"] != 1 || got["rollouts"] != 1 || got["deployments"] != 1 || got["tasks"] != 1 || got["secrets"] != 0 {
		t.Errorf("of the old format: %v", got)
	}
	done, err := rotate(nil)
	must(t, err)
	if want := 1 + 1 + 1 + 71 + 70; done.Texts != want || done.Resumed || len(done.Unreadable) > 0 {
		t.Errorf("%+v, want %d texts", done, want)
	}
	s.opens(t, running)
	s.opens(t, s.server(t, b.Store))
	if text, err = running.Seal("x", nil); err != nil {
		t.Fatal(err)
	}
	if got := s.outdated(t, text); len(got) > 0 {
		t.Errorf("left under old keys: %v", got)
	}
	// What is changed while it is sealed anew stays as it was changed.
	pages := 0
	if _, err = rotate(func(step string) error {
		if step != seal.StepReseal {
			return nil
		}
		if pages++; pages == 2 { // that of keys was the first: this is read, and not written
			s.secret(t, b.Store, running, "secret-00000")
			must(t, b.DeleteSecret(s.ctx, tenant, "secret-00001"))
			s.secret(t, b.Store, running, "another")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.opens(t, running)
	s.opens(t, s.server(t, b.Store))
}

// A rotation is killed before each of its steps, and before each page of texts:
// servers start and read all, and the next one finishes.
func testRotationKilled(t *testing.T, b *bench) {
	s := b.sealed(t)
	again := b.open(t)
	running := s.server(t, b.Store)
	killed := errors.New("killed")
	for at := 1; ; at++ {
		steps := 0
		_, err := (&seal.Rotation{Keyring: s.server(t, again), Texts: again, Grace: time.Millisecond, Before: func(string) error {
			if steps++; steps == at {
				return killed
			}
			return nil
		}}).Run(s.ctx)
		if err != nil && !errors.Is(err, killed) {
			t.Fatalf("killed before its step %d: %v", at, err)
		}
		s.opens(t, running)
		s.opens(t, s.server(t, b.Store))
		s.secret(t, b.Store, running, "written-between")
		if err == nil {
			if at < 12 {
				t.Errorf("it has only %d steps", at)
			}
			break
		}
		_, err = (&seal.Rotation{Keyring: s.server(t, again), Texts: again, Grace: time.Millisecond}).Run(s.ctx)
		must(t, err)
		s.opens(t, running)
	}
	if _, err := os.Stat(s.file + ".next"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the next key is left: %v", err)
	}
}

func testReplaceTexts(t *testing.T, b *bench) {
	_, err := b.PutKeyIfAbsent(b.ctx, "ca", []byte("old"))
	must(t, err)
	for _, c := range []struct {
		old  string
		want bool
	}{{"other", false}, {"old", true}, {"old", false}} {
		done, err := b.SwapKey(b.ctx, "ca", []byte(c.old), []byte("new"))
		must(t, err)
		same(t, "swapped "+c.old, done, c.want)
	}
	n, err := b.ReplaceTexts(b.ctx, "keys", []seal.Replacement{
		{Text: seal.Text{Key: []string{"ca"}, Sealed: []byte("changed meanwhile")}, Anew: []byte("x")},
		{Text: seal.Text{Key: []string{"gone"}, Sealed: []byte("new")}, Anew: []byte("x")},
	})
	must(t, err)
	got, err := b.Key(b.ctx, "ca")
	must(t, err)
	same(t, "replaced", []any{n, string(got)}, []any{0, "new"})
	names, err := b.KeyNames(b.ctx)
	must(t, err)
	same(t, "names", names, []string{"ca"})
}
