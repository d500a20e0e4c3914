package journal

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"stella-ops.org/stella/api"
)

// A command begins once, whatever becomes of the agent in between, and however
// long ago it was said for the first time.
func TestCommandsBeginOnce(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	j := open(t, path)
	at := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC) // the server's clock is its own business
	order := func(id string, made, life time.Duration) *api.AgentCommand {
		return &api.AgentCommand{ID: id, CreatedAt: at.Add(made), ExpiresAt: at.Add(made + life)}
	}
	begin := func(c *api.AgentCommand, want error) {
		t.Helper()
		if err := j.BeginCommand(c); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", c.ID, err, want)
		}
	}
	begin(order("first", 0, time.Minute), nil)
	begin(order("long", 0, 24*time.Hour), nil)
	begin(order("first", 0, time.Minute), ErrCommandBegun)
	must(t, j.Close())
	j = open(t, path)
	begin(order("first", 0, time.Minute), ErrCommandBegun)
	// One that another server made, or that was late.
	begin(order("earlier", -5*time.Minute, time.Minute), nil)

	begin(order("next", time.Hour, time.Minute), nil)
	begin(order("first", 0, time.Minute), ErrCommandOld)
	begin(order("never seen", 0, time.Minute), ErrCommandOld)
	begin(order("long", 0, 24*time.Hour), ErrCommandBegun)
	begin(order("late, and still good", 0, 2*time.Hour), nil)
	must(t, j.Close())
	j = open(t, path)
	begin(order("first", 0, time.Minute), ErrCommandOld)
	begin(order("long", 0, 24*time.Hour), ErrCommandBegun)
}

// What cannot be repeated any more is not kept.
func TestCommandsAreForgotten(t *testing.T) {
	t.Parallel()
	j := open(t, newPath(t))
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 200 {
		made := at.Add(time.Duration(i) * time.Minute)
		must(t, j.BeginCommand(&api.AgentCommand{ID: fmt.Sprint(i), CreatedAt: made, ExpiresAt: made.Add(time.Minute)}))
	}
	must(t, j.db.View(func(tx *bbolt.Tx) error {
		if n := tx.Bucket(commandsBucket).Stats().KeyN; n > 15 {
			t.Errorf("%d are kept", n)
		}
		return nil
	}))
}
