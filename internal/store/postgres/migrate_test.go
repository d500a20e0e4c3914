package postgres

import (
	"database/sql"
	"io/fs"
	"net/url"
	"testing"

	"github.com/google/uuid"
	"github.com/pressly/goose/v3"

	"stella-ops.org/stella/internal/testkit/peers"
)

// The audit log of an installation from before it was a chain is there after
// the upgrade, with the numbers that it had.
func TestAuditLogSurvivesTheUpgrade(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(peers.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	exec := func(d *sql.DB, statement string) {
		t.Helper()
		if _, err := d.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	admin, err := sql.Open("pgx", u.String())
	if err != nil {
		t.Fatal(err)
	}
	name := "stella_test_" + uuid.NewString()
	exec(admin, `CREATE DATABASE "`+name+`" TEMPLATE template0`)
	defer func() {
		exec(admin, `DROP DATABASE "`+name+`" WITH (FORCE)`)
		_ = admin.Close()
	}()
	u.Path = "/" + name
	d, err := sql.Open("pgx", u.String())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, d, dir, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	exec(d, `INSERT INTO audit (tenant_id, at, actor, action, object, remote, outcome, detail) VALUES
		('default', TIMESTAMPTZ '2026-03-01 12:00:00.123456Z', 'me', 'a', 'o1', 'r', 'ok', 'd'),
		('other', now(), 'me', 'a', 'o2', 'r', 'ok', 'd'), ('default', now(), 'me', 'a', 'o3', 'r', 'ok', 'd')`)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	last, err := s.LastUnchained(t.Context())
	if err != nil || len(last) != 2 || last["default"] != 3 || last["other"] != 2 {
		t.Errorf("the last lines are %v, %v", last, err)
	}
	lines, err := s.AuditLines(t.Context(), "default", 0, 100, 100)
	if err != nil || len(lines) != 2 || lines[0].Seq != 1 || lines[0].Object != "o1" || lines[1].Seq != 3 || lines[0].Hash != nil ||
		lines[0].At.UnixMicro() != 1772366400123456 {
		t.Errorf("%+v, %v", lines, err)
	}
}
