package sqlite

import (
	"database/sql"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/pressly/goose/v3"
)

// The audit log of an installation from before it was a chain is there after
// the upgrade, with the numbers that it had.
func TestAuditLogSurvivesTheUpgrade(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "stella.db")
	d, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, d, dir, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`INSERT INTO audit (tenant_id, at, actor, action, object, remote, outcome, detail) VALUES
			('default', 1772366400123456, 'me', 'a', 'o1', 'r', 'ok', 'd'), ('other', 1, 'me', 'a', 'o2', 'r', 'ok', 'd'), ('default', 2, 'me', 'a', 'o3', 'r', 'ok', 'd')`,
	} {
		if _, err := d.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), path)
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
