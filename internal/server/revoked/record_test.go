package revoked_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/server/revoked"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/sqlite"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func entry(serial, why string, notAfter time.Time) *enroll.Ended {
	return &enroll.Ended{Serial: serial, TenantID: "default", AgentID: "a", At: notAfter.Add(-time.Hour), NotAfter: notAfter, Why: why}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "revoked.jsonl")
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	open := func(forgetBefore time.Time) (*revoked.Record, []*enroll.Ended) {
		t.Helper()
		r, ended, err := revoked.Open(path, forgetBefore)
		must(t, err)
		return r, ended
	}
	r, ended := open(now)
	if len(ended) != 0 {
		t.Errorf("no file has %v", ended)
	}
	one, two := entry("1", enroll.WhyReplaced, now.Add(time.Hour)), entry("2", enroll.WhyReplaced, now.Add(2*time.Hour))
	must(t, r.Add(nil))
	must(t, r.Add([]*enroll.Ended{one, two}))
	must(t, r.Add([]*enroll.Ended{one}))
	graver := entry("2", enroll.WhyRevoked, now.Add(2*time.Hour))
	must(t, r.Add([]*enroll.Ended{graver}))
	must(t, r.Add([]*enroll.Ended{two}))
	text, err := os.ReadFile(path)
	must(t, err)
	if n := strings.Count(string(text), "\n"); n != 3 {
		t.Errorf("the file has %d lines, want 3:\n%s", n, text)
	}
	for range 2 { // the first time it is tidied up
		must(t, os.Chmod(path, 0o644))
		_, ended = open(now)
		if diff := cmp.Diff([]*enroll.Ended{one, graver}, ended); diff != "" {
			t.Error(diff)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
	// What is worth nothing any more goes, and the rest stays.
	r, ended = open(now.Add(90 * time.Minute))
	if diff := cmp.Diff([]*enroll.Ended{graver}, ended); diff != "" {
		t.Error(diff)
	}
	must(t, r.Add([]*enroll.Ended{graver, one}))
	if _, ended = open(now); len(ended) != 2 {
		t.Errorf("%v", ended)
	}

	good, err := os.ReadFile(path)
	must(t, err)
	for what, bad := range map[string]string{
		"no JSON":           "{",
		"another field":     `{"serial":"1","at":"2026-03-01T12:00:00Z","notAfter":"2026-03-01T12:00:00Z","why":"revoked","colour":"red"}`,
		"no serial":         `{"at":"2026-03-01T12:00:00Z","notAfter":"2026-03-01T12:00:00Z","why":"revoked"}`,
		"no serial either":  `{"serial":"xyz","at":"2026-03-01T12:00:00Z","notAfter":"2026-03-01T12:00:00Z","why":"revoked"}`,
		"no reason":         `{"serial":"1","at":"2026-03-01T12:00:00Z","notAfter":"2026-03-01T12:00:00Z","why":""}`,
		"nothing in a line": "",
	} {
		must(t, os.WriteFile(path, []byte(string(good)+bad+"\n"), 0o600))
		if _, _, err := revoked.Open(path, now); err == nil || !strings.Contains(err.Error(), "line 3") || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// bench is a guard over a real store.
type bench struct {
	*revoked.Guard
	st     *store.Store
	folder string
	audit  []access.Event
}

// Audit implements access.Auditor.
func (b *bench) Audit(_ context.Context, e access.Event) { b.audit = append(b.audit, e) }

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{folder: filepath.Join(t.TempDir(), "data")}
	must(t, os.Mkdir(b.folder, 0o700))
	var err error
	b.st, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
	must(t, err)
	t.Cleanup(func() { _ = b.st.Close() })
	record, _, err := revoked.Open(filepath.Join(b.folder, "revoked.jsonl"), time.Now())
	must(t, err)
	b.Guard = revoked.NewGuard(record, b.st, b, time.Hour, time.Now, slog.New(slog.DiscardHandler))
	return b
}

// agent adds one, whose certificate has a serial.
func (b *bench) agent(t *testing.T, id, serial string) {
	t.Helper()
	now := time.Now()
	must(t, b.st.Enrol(t.Context(), &enroll.Enrolment{
		Agent: &fleet.Agent{ID: id, TenantID: "default", Name: id, Lifecycle: api.LifecycleActive, Liveness: api.Live, CreatedAt: now, UpdatedAt: now},
		Cert:  enroll.Issued{Fingerprint: "cert-" + serial, Serial: serial, NotBefore: now, NotAfter: now.Add(time.Hour)}, At: now,
	}))
}

// A revocation that cannot be written down is done, and its author is told; it is
// written down as soon as that can be.
func TestRevocationThatIsNotWrittenDown(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.agent(t, "a", "a1")
	b.agent(t, "d", "d1")
	agents := b.Agents(b.st)
	must(t, os.Remove(b.folder))
	revoke := func() error {
		_, err := agents.SetLifecycle(t.Context(), "default", "a", []api.Lifecycle{api.LifecycleActive}, api.LifecycleRevoked, time.Now())
		return err
	}
	for what, err := range map[string]error{"revoked": revoke(), "again": revoke(), "deleted": agents.DeleteAgent(t.Context(), "default", "d")} {
		if fault.CodeOf(err) != "revocation_not_recorded" || fault.KindOf(err) != fault.Unavailable || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if a, err := b.st.Agent(t.Context(), "default", "a"); err != nil || a.Lifecycle != api.LifecycleRevoked {
		t.Errorf("%+v, %v", a, err)
	}
	changes, _, err := b.st.AgentChanges(t.Context(), 0)
	must(t, err)
	if err := b.AgentsChanged(t.Context(), changes); err == nil {
		t.Error("it was written down into nothing")
	}
	must(t, os.Mkdir(b.folder, 0o700))
	must(t, b.AgentsChanged(t.Context(), changes))
	_, ended, err := revoked.Open(filepath.Join(b.folder, "revoked.jsonl"), time.Now())
	if err != nil || len(ended) != 2 {
		t.Errorf("%+v, %v", ended, err)
	}
}

// An id that was deleted and registered again has nothing to do with what was
// ended before.
func TestRestoreLetsBeWhoRegisteredAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.agent(t, "host-7", "new")
	b.agent(t, "host-8", "8a")
	soon := time.Now().Add(time.Hour)
	ended := []*enroll.Ended{
		{Serial: "01d", TenantID: "default", AgentID: "host-7", At: time.Now(), NotAfter: soon, Why: enroll.WhyDeleted},
		{Serial: "8a", TenantID: "default", AgentID: "host-8", At: time.Now(), NotAfter: soon, Why: enroll.WhyReplaced},
	}
	for i, want := range []revoked.Restored{{Certificates: 1, Unknown: 1}, {}} {
		done, err := b.Restore(t.Context(), ended, "a test")
		must(t, err)
		if diff := cmp.Diff(&want, done); diff != "" {
			t.Errorf("time %d: %s", i+1, diff)
		}
	}
	for _, id := range []string{"host-7", "host-8"} {
		if a, err := b.st.Agent(t.Context(), "default", id); err != nil || a.Lifecycle != api.LifecycleActive {
			t.Errorf("%+v, %v", a, err)
		}
	}
	if c, err := b.st.Credential(t.Context(), "cert-new"); err != nil || c.Ended(time.Now().Add(time.Minute)) {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := b.st.Credential(t.Context(), "cert-8a"); err != nil || !c.Ended(time.Now().Add(time.Minute)) {
		t.Errorf("%+v, %v", c, err)
	}
	if len(b.audit) != 0 {
		t.Errorf("%+v", b.audit)
	}
}
