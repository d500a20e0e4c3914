package sqlite_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"

	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/sqlite"
	"stella-ops.org/stella/internal/store/storetest"
)

// file is a database file of one test.
type file string

func fresh(t testing.TB) storetest.Database { return file(filepath.Join(t.TempDir(), "stella.db")) }

// Open implements storetest.Database.
func (f file) Open(ctx context.Context) (*store.Store, error) { return sqlite.Open(ctx, string(f)) }

// Exec implements storetest.Database.
func (f file) Exec(ctx context.Context, statement string) error {
	d, err := sql.Open("sqlite", string(f)+"?_busy_timeout=5000")
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = d.ExecContext(ctx, statement)
	return err
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, fresh)
}

func BenchmarkStore(b *testing.B) { storetest.Benchmark(b, fresh) }
