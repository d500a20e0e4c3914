package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"stella-ops.org/stella/internal/fault"
)

func TestFileIsPrivate(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no file modes")
	}
	path := filepath.Join(t.TempDir(), "data", "stella.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %o, want 600", filepath.Base(name), mode)
		}
	}
}

// TestOddPath: nothing in a path is taken for a setting.
func TestOddPath(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a b.db", "100%.db", "what?mode=memory", "#1.db", "ü.db", ":memory:"} {
		path := filepath.Join(t.TempDir(), name)
		s, err := Open(t.Context(), path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := s.Ping(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%s: there is no database in the file (error %v)", name, err)
		}
	}
}

// TestSettings: what makes a commit durable holds on every connection.
func TestSettings(t *testing.T) {
	t.Parallel()
	d, err := sql.Open("sqlite", dsn(filepath.Join(t.TempDir(), "stella.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for range 3 {
		c, err := d.Conn(t.Context()) // kept, so that each is another one
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
			var got string
			if err := c.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s is %s, want %s (error %v)", pragma, got, want, err)
			}
		}
	}
}

// TestPingSeesThatTheFileIsGone: SQLite itself would go on writing into the
// deleted file, and all of it would be lost.
func TestPingSeesThatTheFileIsGone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not delete files that are open")
	}
	path := filepath.Join(t.TempDir(), "stella.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); fault.CodeOf(err) != "store_unavailable" {
		t.Errorf("the file is deleted, and Ping says %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); fault.CodeOf(err) != "store_unavailable" {
		t.Errorf("the file was replaced, and Ping says %v", err)
	}
}

func TestOpenRefusesWhatIsNoDatabase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notes.txt")
	text := []byte("these are my notes, and they must stay as they are, whatever somebody gives as the path of the database\n")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(t.Context(), path); err == nil {
		_ = s.Close()
		t.Error("a text file was opened as a database")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != string(text) {
		t.Errorf("the text file was changed (error %v)", err)
	}
}

// TestJudge makes the troubles and asks what they are.
func TestJudge(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "stella.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, statements := range map[string][]string{
		"full":      {"PRAGMA max_page_count = 1", "INSERT INTO keys (name, sealed) VALUES ('x', zeroblob(10000000))"},
		"read-only": {"PRAGMA query_only = 1", "INSERT INTO keys (name, sealed) VALUES ('x', '')"},
		"locked":    {"PRAGMA busy_timeout = 0", "BEGIN IMMEDIATE"},
	} {
		err := func() error {
			if name == "locked" {
				release, err := hold(t.Context(), path)
				if err != nil {
					t.Fatal(err)
				}
				defer release()
			}
			return run(t.Context(), path, statements)
		}()
		if v := (&engine{}).Judge(err); !v.Unavailable {
			t.Errorf("%s: %v is not taken for a store that is unavailable", name, err)
		}
	}
	if v := (&engine{}).Judge(run(t.Context(), path, []string{"SELECT nonsense"})); v.Unavailable || v.Retry || v.Violated != "" {
		t.Errorf("a mistake of our own is taken for %+v", v)
	}
	if v := (&engine{}).Judge(errors.New("other")); v.Unavailable {
		t.Errorf("another error is taken for %+v", v)
	}
}

// run executes statements on one connection of its own and returns the first
// error.
func run(ctx context.Context, path string, statements []string) error {
	d, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return err
	}
	defer d.Close()
	d.SetMaxOpenConns(1)
	for _, st := range statements {
		if _, err := d.ExecContext(ctx, st); err != nil {
			return err
		}
	}
	return nil
}

// hold takes the lock for writing.
func hold(ctx context.Context, path string) (release func(), err error) {
	d, err := sql.Open("sqlite", dsn(path, "_txlock=immediate"))
	if err != nil {
		return nil, err
	}
	held, err := d.BeginTx(ctx, nil)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return func() { _, _ = held.Rollback(), d.Close() }, nil
}
