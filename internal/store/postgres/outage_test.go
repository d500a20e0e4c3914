package postgres_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/store/postgres"
	"stella-ops.org/stella/internal/testkit/peers"
)

// TestOutage takes the database away and gives it back.
func TestOutage(t *testing.T) {
	t.Parallel()
	d, ok := fresh(t).(database)
	if !ok {
		t.Fatal("no database")
	}
	s, err := d.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	admin := database(peers.Postgres(t))
	name := string(d)[strings.LastIndex(string(d), "/")+1:]
	name, _, _ = strings.Cut(name, "?")
	exec := func(statement string) {
		t.Helper()
		if err := admin.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	const cut = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%'`
	exec(`ALTER DATABASE "` + name + `" ALLOW_CONNECTIONS false`)
	exec(strings.ReplaceAll(cut, "%", name))
	for range 3 {
		if err := s.Ping(t.Context()); fault.CodeOf(err) != "store_unavailable" {
			t.Fatalf("the database takes no connections, and Ping says %v", err)
		}
	}
	exec(`ALTER DATABASE "` + name + `" ALLOW_CONNECTIONS true`)
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("the database is back, and Ping says %v", err)
	}
	// A replica that takes no writes is not ready.
	exec(`ALTER DATABASE "` + name + `" SET default_transaction_read_only = on`)
	exec(strings.ReplaceAll(cut, "%", name))
	if err := s.Ping(t.Context()); fault.CodeOf(err) != "store_unavailable" {
		// The first connection may be one that was just cut.
		if err = s.Ping(t.Context()); fault.CodeOf(err) != "store_unavailable" {
			t.Errorf("the database takes no writes, and Ping says %v", err)
		}
	}
}

func TestOpenKeepsThePasswordToItself(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, url := range []string{
		"postgres://stella:very-secret@127.0.0.1:1/stella?connect_timeout=2",
		"postgres://stella:very-secret@127.0.0.1:x/stella",
		"postgres://stella:very-secret@127.0.0.1/stella?sslmode=odd",
	} {
		s, err := postgres.Open(ctx, url)
		if err == nil {
			_ = s.Close()
			t.Fatalf("%s was opened", url)
		}
		if strings.Contains(err.Error(), "very-secret") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}
