// Package sqlite opens a store in one SQLite file: all that one server needs.
// It owns the driver, the file's settings and the migrations, and knows
// nothing of what is kept.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver

	"stella-ops.org/stella/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed statements.sql
var statements string

// Open opens the store in a file, which it makes when there is none (readable
// by its owner only), and brings its tables up to date.
//
// Every commit is on the disk when it returns. Several processes may open one
// file, but all must run on one machine.
func Open(ctx context.Context, path string) (*store.Store, error) {
	s, err := open(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open SQLite store %s: %w", path, err)
	}
	return s, nil
}

func open(ctx context.Context, path string) (_ *store.Store, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	info, err := makeFile(path)
	if err != nil {
		return nil, err
	}
	// SQLite takes one writer at a time. With one connection they queue up
	// here, in order, and not by trying again and again.
	writer, err := sql.Open("sqlite", dsn(path, "_txlock=immediate"))
	if err != nil {
		return nil, err
	}
	writer.SetMaxOpenConns(1)
	reader, err := sql.Open("sqlite", dsn(path, "_query_only=1"))
	if err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	readers := max(4, 2*runtime.GOMAXPROCS(0))
	reader.SetMaxOpenConns(readers)
	reader.SetMaxIdleConns(readers)
	defer func() {
		if err != nil {
			err = errors.Join(err, reader.Close(), writer.Close())
		}
	}()
	if err := migrate(ctx, writer); err != nil {
		return nil, err
	}
	e := &engine{path: path, file: info, own: store.ParseStatements(statements)}
	return store.New(ctx, e, writer, reader)
}

// makeFile sees to it that the file is there and only its owner reads it: it
// holds sealed keys. SQLite gives the files beside it the same mode.
func makeFile(path string) (os.FileInfo, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if runtime.GOOS != "windows" {
		if err := f.Chmod(0o600); err != nil {
			return nil, err
		}
	}
	return f.Stat()
}

// dsn says how every connection is set up; most pragmas hold for one
// connection only.
func dsn(path string, more ...string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // a drive letter
	}
	query := append([]string{
		"_busy_timeout=10000", // for another process, or a backup
		"_journal_mode=WAL",
		"_synchronous=FULL", // a commit survives a power cut
		"_foreign_keys=1",
		"_pragma=journal_size_limit(67108864)",
		"_pragma=cache_size(-16384)", // KiB
		"_pragma=temp_store(MEMORY)",
		// Times are integers, microseconds since 1970, so that they compare
		// and sort.
		"_time_integer_format=unix_micro",
		"_inttotime=1",
		"_timezone=UTC",
		"_dqs=0",       // a double-quoted text is a mistake, not a string
		"_defensive=1", // no statement can corrupt the file
		"_error_rc=1",
	}, more...)
	u := url.URL{Scheme: "file", Path: path, RawQuery: strings.Join(query, "&")}
	return u.String()
}

func migrate(ctx context.Context, d *sql.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, d, dir, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	// goose has no lock on SQLite: with each of the migrations, another process
	// that opened the file at the same time may be faster.
	for range 4 * len(p.ListSources()) {
		if _, err = p.Up(ctx); err == nil {
			return nil
		}
	}
	return fmt.Errorf("migrate: %w", err)
}
