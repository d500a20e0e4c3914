// Package postgres opens a store in a PostgreSQL database, which several
// servers may share. It owns the driver, the connections' settings and the
// migrations, and knows nothing of what is kept.
package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"stella-ops.org/stella/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// maxConnections bounds what one server takes of PostgreSQL's usual hundred.
const maxConnections = 20

// Open opens the store in the database that a postgres:// URL names, and
// brings its tables up to date; servers that start together wait for the one
// that does so. What libpq understands in the URL (sslmode, connect_timeout
// and so on) holds here too.
func Open(ctx context.Context, url string) (*store.Store, error) {
	s, err := open(ctx, url)
	if err != nil {
		// The driver leaves passwords out of its errors.
		return nil, fmt.Errorf("open PostgreSQL store: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, url string) (_ *store.Store, err error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{
		"application_name": "stella",
		// A server that vanished in the middle of a transaction must not keep
		// its locks.
		"idle_in_transaction_session_timeout": "60s",
	} {
		if _, said := config.RuntimeParams[name]; !said {
			config.RuntimeParams[name] = value
		}
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second
	}
	d := stdlib.OpenDB(*config)
	d.SetMaxOpenConns(maxConnections)
	d.SetMaxIdleConns(maxConnections)
	d.SetConnMaxIdleTime(5 * time.Minute)
	// After a failover, connections must find their way to the new primary.
	d.SetConnMaxLifetime(time.Hour)
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := migrate(ctx, d); err != nil {
		return nil, err
	}
	return store.New(ctx, engine{}, d, d)
}

func migrate(ctx context.Context, d *sql.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	// The lock is the session's: it goes with a server that dies here.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120))
	if err != nil {
		return fmt.Errorf("make lock: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, d, dir,
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
