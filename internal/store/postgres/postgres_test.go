package postgres_test

import (
	"context"
	"database/sql"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // for statements behind the store's back

	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/store/postgres"
	"stella-ops.org/stella/internal/store/storetest"
	"stella-ops.org/stella/internal/testkit/peers"
)

// database is the URL of a database of one test.
type database string

// fresh makes a database, and removes it when the test is over.
func fresh(t testing.TB) storetest.Database {
	t.Helper()
	admin, err := url.Parse(peers.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	name := "stella_test_" + uuid.NewString()
	quoted := pgx.Identifier{name}.Sanitize()
	run := func(ctx context.Context, statement string) {
		t.Helper()
		if err := database(admin.String()).Exec(ctx, statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	// Not the cluster's own template: somebody may be connected to that one.
	run(t.Context(), "CREATE DATABASE "+quoted+" TEMPLATE template0")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		run(ctx, "DROP DATABASE "+quoted+" WITH (FORCE)")
	})
	own := *admin
	own.Path = "/" + name
	return database(own.String())
}

// Open implements storetest.Database.
func (d database) Open(ctx context.Context) (*store.Store, error) {
	return postgres.Open(ctx, string(d))
}

// Exec implements storetest.Database.
func (d database) Exec(ctx context.Context, statement string) error {
	c, err := sql.Open("pgx", string(d))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.ExecContext(ctx, statement)
	return err
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, fresh)
}

func BenchmarkStore(b *testing.B) { storetest.Benchmark(b, fresh) }
