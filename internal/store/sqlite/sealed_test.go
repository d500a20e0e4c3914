package sqlite

import (
	"database/sql"
	"path/filepath"
	"slices"
	"testing"
)

// A table with sealed texts that a rotation does not know would be unreadable
// after it.
func TestEverySealedColumnIsRotated(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "stella.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	rows, err := d.QueryContext(t.Context(), `SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name LIKE '%sealed%' ORDER BY m.name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var have []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		have = append(have, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(slices.Values(s.SealedTables()))
	if !slices.Equal(have, want) {
		t.Errorf("tables with sealed texts: %v; those that a rotation goes through: %v", have, want)
	}
}
