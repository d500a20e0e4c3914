package postgres_test

import (
	"database/sql"
	"slices"
	"testing"

	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/store/postgres"
)

// A change that was begun before another one, and is committed behind it, is not
// missed by who has looked in between.
func TestChangesThatAreCommittedInAnotherOrder(t *testing.T) {
	t.Parallel()
	url, ok := fresh(t).(database)
	if !ok {
		t.Fatal("it is no database")
	}
	st, err := postgres.Open(t.Context(), string(url))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	d, err := sql.Open("pgx", string(url))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const note = "INSERT INTO agent_changes (tenant_id, agent_id) VALUES ('default', $1)"
	slow, err := d.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Rollback()
	if _, err := slow.ExecContext(t.Context(), note, "slow"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ExecContext(t.Context(), note, "fast"); err != nil {
		t.Fatal(err)
	}
	agents := func(changes []fleet.Change) (ids []string) {
		for _, c := range changes {
			ids = append(ids, c.AgentID)
		}
		return ids
	}
	first, next, err := st.AgentChanges(t.Context(), 0)
	if err != nil || !slices.Equal(agents(first), []string{"fast"}) {
		t.Fatalf("%+v, %v", first, err)
	}
	if err := slow.Commit(); err != nil {
		t.Fatal(err)
	}
	second, _, err := st.AgentChanges(t.Context(), next)
	if err != nil || !slices.Contains(agents(second), "slow") {
		t.Fatalf("%+v, %v", second, err)
	}
}
