package journal

import (
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"stella-ops.org/stella/api"
)

// Commands run once, even when the agent is restarted in between, or when
// somebody says an old one again. So the journal knows the ids of those that
// were begun, until nobody can say them any more: the server signs when a
// command was made and when it expires, and one that expired well before another
// one was made is old, whatever this machine's clock says.

var (
	commandsBucket = []byte("commands") // expiry, by id
	newestKey      = []byte("newest")   // in metaBucket: when the newest command was made
	metaBucket     = []byte("meta")
)

// clockSpread is by how much the clocks of servers may differ.
const clockSpread = 10 * time.Minute

// Why a command must not be run.
var (
	ErrCommandBegun = errors.New("this agent has begun it before, and was restarted since: what came of it then, it does not know")
	ErrCommandOld   = errors.New("it was made long before others that this agent has run, and is taken for an old one that somebody repeats: send a new one")
)

// BeginCommand notes that a command begins whose times the server has signed,
// and returns when that is on disk. The error is ErrCommandBegun or
// ErrCommandOld when it must not be run.
func (j *Journal) BeginCommand(c *api.AgentCommand) error {
	err := j.db.Update(func(tx *bbolt.Tx) error {
		commands, meta := tx.Bucket(commandsBucket), tx.Bucket(metaBucket)
		newest, err := timeIn(meta.Get(newestKey))
		switch {
		case err != nil:
			return err
		case commands.Get([]byte(c.ID)) != nil:
			return ErrCommandBegun
		case c.ExpiresAt.Add(clockSpread).Before(newest):
			return ErrCommandOld
		}
		if c.CreatedAt.After(newest) {
			if err := meta.Put(newestKey, timeOut(c.CreatedAt)); err != nil {
				return err
			}
			if err := forgetCommands(commands, c.CreatedAt.Add(-clockSpread)); err != nil {
				return err
			}
		}
		return commands.Put([]byte(c.ID), timeOut(c.ExpiresAt))
	})
	if err == nil || errors.Is(err, ErrCommandBegun) || errors.Is(err, ErrCommandOld) {
		return err
	}
	return fmt.Errorf("note it in the journal: %w", err)
}

// forgetCommands drops those that expired before a time: said again, they are
// old.
func forgetCommands(commands *bbolt.Bucket, before time.Time) error {
	var old [][]byte
	err := commands.ForEach(func(id, data []byte) error {
		expires, err := timeIn(data)
		if err == nil && expires.Before(before) {
			old = append(old, id)
		}
		return err
	})
	for _, id := range old {
		if err != nil {
			return err
		}
		err = commands.Delete(id)
	}
	return err
}

func timeOut(t time.Time) []byte { return []byte(t.UTC().Format(time.RFC3339Nano)) }

func timeIn(data []byte) (time.Time, error) {
	if data == nil {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339Nano, string(data))
}
