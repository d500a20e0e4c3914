package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

func open(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := Open(path)
	must(t, err)
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "journal.db") }

func task(attempt int64) *api.AgentTask {
	return &api.AgentTask{
		ID: "t1", Attempt: attempt, Type: api.TaskDeploy, TargetID: "target", Timeout: 60, Token: "token-secret",
		Payload:     json.RawMessage(`{"config":{"environment":{"PASSWORD":"payload-secret"}}}`),
		Credentials: &api.Credentials{Registry: &api.RegistryAuth{Username: "user-secret", Password: "registry-secret", Token: "bearer-secret"}},
	}
}

func entries(t *testing.T, j *Journal) []*Entry {
	t.Helper()
	es, err := j.Entries()
	must(t, err)
	return es
}

// All that the agent must remember is there when its process was killed: every
// call is on disk when it returns.
func TestReopen(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	j := open(t, path)
	reopen := func() {
		must(t, j.Close())
		j = open(t, path)
	}
	e, begun, ended, err := j.Begin(task(1))
	if err != nil || !begun || ended || e.AcceptedAt.IsZero() {
		t.Fatalf("Begin: %+v, begun %v, ended %v, %v", e, begun, ended, err)
	}
	reopen()
	if es := entries(t, j); len(es) != 1 || es[0].Task.ID != "t1" || !es[0].AcceptedAt.Equal(e.AcceptedAt) || es[0].Record != nil || es[0].Result != nil {
		t.Fatalf("begun: %+v", es)
	}
	rec := &deploy.Record{Task: deploy.Bare(task(1)), Step: "switch", State: json.RawMessage(`{"old":"c1"}`), Committed: true}
	must(t, j.Save(t.Context(), rec))
	reopen()
	if es := entries(t, j); es[0].Record == nil || es[0].Record.Step != "switch" || !es[0].Record.Committed || string(es[0].Record.State) != `{"old":"c1"}` {
		t.Fatalf("saved: %+v", es[0].Record)
	}
	must(t, j.Finish("t1", &api.TaskResult{Success: true, Attempt: 9}))
	reopen()
	if es := entries(t, j); es[0].Result == nil || !es[0].Result.Success || es[0].Result.Attempt != 1 || es[0].Record != nil {
		t.Fatalf("finished: %+v", es[0])
	}
	must(t, j.Forget("t1"))
	must(t, j.Forget("t1"))
	reopen()
	if es := entries(t, j); len(es) != 0 {
		t.Fatalf("forgotten: %+v", es)
	}
	if _, begun, ended, err := j.Begin(task(2)); err != nil || begun || !ended {
		t.Errorf("delivered again: begun %v, ended %v, %v", begun, ended, err)
	}
}

// A newer attempt replaces the number, an older one does not.
func TestAttempts(t *testing.T) {
	t.Parallel()
	j := open(t, newPath(t))
	for _, c := range []struct {
		attempt, want int64
		begun         bool
	}{{2, 2, true}, {2, 2, false}, {1, 2, false}, {5, 5, false}, {4, 5, false}} {
		e, begun, _, err := j.Begin(task(c.attempt))
		if err != nil || begun != c.begun || e.Task.Attempt != c.want {
			t.Errorf("attempt %d: %+v, begun %v, %v", c.attempt, e, begun, err)
		}
	}
	// A record that an executor saves does not bring the old number back.
	old := deploy.Bare(task(1))
	must(t, j.Save(t.Context(), &deploy.Record{Task: old, Step: "pull"}))
	if es := entries(t, j); es[0].Task.Attempt != 5 || es[0].Record.Task.Attempt != 5 {
		t.Errorf("%+v", es[0])
	}
	must(t, j.Finish("t1", &api.TaskResult{}))
	if es := entries(t, j); es[0].Result.Attempt != 5 {
		t.Errorf("the result is of attempt %d", es[0].Result.Attempt)
	}
}

// No secret is in the file, whatever is written to it.
func TestNoSecretIsInTheFile(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	j := open(t, path)
	secrets := []string{"token-secret", "payload-secret", "user-secret", "registry-secret", "bearer-secret"}
	look := func(when string) {
		t.Helper()
		data, err := os.ReadFile(path)
		must(t, err)
		if !bytes.Contains(data, []byte(`"t1"`)) {
			t.Fatalf("%s: the task is not in the file, so nothing is proved", when)
		}
		for _, s := range secrets {
			if bytes.Contains(data, []byte(s)) {
				t.Errorf("%s: %s is in the file", when, s)
			}
		}
	}
	whole := task(1)
	_, _, _, err := j.Begin(whole)
	must(t, err)
	look("begun")
	if whole.Token == "" || whole.Credentials == nil || len(whole.Payload) == 0 {
		t.Error("the caller's task was altered")
	}
	// Not even when an executor saves the whole of the task.
	must(t, j.Save(t.Context(), &deploy.Record{Task: *whole, Step: "pull"}))
	look("saved")
	_, _, _, err = j.Begin(task(2))
	must(t, err)
	look("delivered again")
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// Two agents on one data folder would both run its tasks.
func TestSecondAgentIsKeptOff(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	open(t, path)
	if j, err := Open(path); err == nil {
		_ = j.Close()
		t.Fatal("two have the journal open")
	} else if !strings.Contains(err.Error(), "another agent runs with this data folder") || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

func TestFileThatIsNone(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	must(t, os.WriteFile(path, bytes.Repeat([]byte("not a journal. "), 1000), 0o600))
	if j, err := Open(path); err == nil {
		_ = j.Close()
		t.Error("it is opened")
	} else if !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

// What is not begun cannot go on, and does not begin by that.
func TestUnknownTask(t *testing.T) {
	t.Parallel()
	j := open(t, newPath(t))
	if err := j.Save(t.Context(), &deploy.Record{Task: api.AgentTask{ID: "x"}}); err == nil {
		t.Error("Save takes it")
	}
	if err := j.Finish("x", &api.TaskResult{}); err == nil {
		t.Error("Finish takes it")
	}
	if es := entries(t, j); len(es) != 0 {
		t.Errorf("%+v", es)
	}
}

// The hooks of crash tests stand around each write.
func TestOnWrite(t *testing.T) {
	t.Parallel()
	j := open(t, newPath(t))
	_, _, _, err := j.Begin(task(1))
	must(t, err)
	var points []string
	j.OnWrite = func(point string, rec *deploy.Record) {
		saved := entries(t, j)[0].Record != nil
		points = append(points, point+" "+rec.Step)
		if saved != (point == "after") {
			t.Errorf("%s: saved %v", point, saved)
		}
	}
	must(t, j.Save(context.WithoutCancel(t.Context()), &deploy.Record{Task: api.AgentTask{ID: "t1"}, Step: "pull"}))
	if !slices.Equal(points, []string{"before pull", "after pull"}) {
		t.Errorf("%q", points)
	}
}

// What ended long ago is forgotten when the agent starts, so that the file
// does not grow for ever; what ended lately is not.
func TestPrune(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	j := open(t, path)
	for _, id := range []string{"new", "old", "older"} {
		must(t, j.Forget(id))
	}
	must(t, j.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(endedBucket)
		at := func(d time.Duration) []byte { return []byte(time.Now().UTC().Add(-d).Format(time.RFC3339)) }
		if err := b.Put([]byte("older"), at(100*keepEnded)); err != nil {
			return err
		}
		if err := b.Put([]byte("broken"), []byte("no time")); err != nil {
			return err
		}
		return b.Put([]byte("old"), at(keepEnded+time.Minute))
	}))
	must(t, j.Close())
	j = open(t, path)
	var kept []string
	must(t, j.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(endedBucket).ForEach(func(id, _ []byte) error {
			kept = append(kept, string(id))
			return nil
		})
	}))
	if diff := cmp.Diff([]string{"new"}, kept); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}
