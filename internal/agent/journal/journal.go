// Package journal is the agent's memory of its tasks and commands: what it has
// begun, how far it got, and what the server has not yet heard. It survives a
// crash of the agent and of its machine; every method that changes it returns
// when the change is on disk.
//
// No secret is in it: tasks are kept without payload, credentials and token, and
// commands by their ids.
package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

// Entry is one task that the agent has taken.
type Entry struct {
	Task       api.AgentTask  `json:"task"` // without payload, credentials, token
	AcceptedAt time.Time      `json:"acceptedAt"`
	Record     *deploy.Record `json:"record,omitempty"`
	// Result is set when the task has ended and the server does not know yet.
	Result *api.TaskResult `json:"result,omitempty"`
}

// Journal is the file. It is safe for concurrent use; one process may have it
// open at a time.
type Journal struct {
	db *bbolt.DB
	// OnWrite, when set, is called before and after each write: of a task's
	// record, and with a record of the step accept, result or forget when a task
	// is taken up, has ended, or is done with. The crash tests kill the process
	// there.
	OnWrite func(point string, rec *deploy.Record)
}

func (j *Journal) tell(point string, rec *deploy.Record) {
	if j.OnWrite != nil {
		j.OnWrite(point, rec)
	}
}

// around tells of a write that is of no step.
func (j *Journal) around(step, id string, write func() error) error {
	rec := &deploy.Record{Task: api.AgentTask{ID: id}, Step: step}
	j.tell("before", rec)
	err := write()
	if err == nil {
		j.tell("after", rec)
	}
	return err
}

var (
	tasksBucket = []byte("tasks")
	endedBucket = []byte("ended")
)

// keepEnded is how long an ended task is remembered, so that it does not run
// again if it is delivered again.
const keepEnded = 24 * time.Hour

// Open opens the journal at path, and makes it when there is none.
func Open(path string) (*Journal, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("journal %s: another agent runs with this data folder; stop it first, or give this one a folder of its own", path)
	}
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	j := &Journal{db: db}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{tasksBucket, commandsBucket, metaBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		ended, err := tx.CreateBucketIfNotExists(endedBucket)
		if err != nil {
			return err
		}
		return prune(ended, time.Now().Add(-keepEnded))
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("journal %s: %w", path, err), db.Close())
	}
	return j, nil
}

func prune(ended *bbolt.Bucket, before time.Time) error {
	var old [][]byte
	err := ended.ForEach(func(id, at []byte) error {
		if t, err := time.Parse(time.RFC3339, string(at)); err != nil || t.Before(before) {
			old = append(old, id)
		}
		return nil
	})
	for _, id := range old {
		err = errors.Join(err, ended.Delete(id))
	}
	return err
}

// Close closes the file.
func (j *Journal) Close() error { return j.db.Close() }

// Begin takes a task up. It returns the entry and false when the journal has
// the task already; a newer attempt of it then replaces the older number, for
// the task runs once, whatever the server counts. ended says that the task is
// over and was reported.
func (j *Journal) Begin(t *api.AgentTask) (e *Entry, begun, ended bool, err error) {
	err = j.around("accept", t.ID, func() error {
		return j.db.Update(func(tx *bbolt.Tx) error {
			if tx.Bucket(endedBucket).Get([]byte(t.ID)) != nil {
				ended = true
				return nil
			}
			b := tx.Bucket(tasksBucket)
			if e, err = get(b, t.ID); err != nil {
				return err
			}
			if e != nil {
				if t.Attempt <= e.Task.Attempt {
					return nil
				}
				e.Task.Attempt = t.Attempt
				return put(b, e)
			}
			begun = true
			e = &Entry{Task: *t, AcceptedAt: time.Now().UTC()}
			e.Task = deploy.Bare(t)
			return put(b, e)
		})
	})
	if err != nil {
		return nil, false, false, fmt.Errorf("journal task %s: %w", t.ID, err)
	}
	return e, begun, ended, nil
}

// Save keeps a record of how far a task got. It implements deploy.Journal.
func (j *Journal) Save(_ context.Context, rec *deploy.Record) error {
	j.tell("before", rec)
	err := j.update(rec.Task.ID, func(e *Entry) {
		cp := *rec
		cp.Task = e.Task
		e.Record = &cp
	})
	if err == nil {
		j.tell("after", rec)
	}
	return err
}

// Finish keeps a task's result until Forget.
func (j *Journal) Finish(id string, r *api.TaskResult) error {
	return j.around("result", id, func() error {
		return j.update(id, func(e *Entry) {
			r.Attempt = e.Task.Attempt
			e.Result, e.Record = r, nil
		})
	})
}

// Forget drops a task whose result the server has dealt with. It is
// idempotent.
func (j *Journal) Forget(id string) error {
	err := j.around("forget", id, func() error {
		return j.db.Update(func(tx *bbolt.Tx) error {
			if err := tx.Bucket(tasksBucket).Delete([]byte(id)); err != nil {
				return err
			}
			return tx.Bucket(endedBucket).Put([]byte(id), []byte(time.Now().UTC().Format(time.RFC3339)))
		})
	})
	if err != nil {
		return fmt.Errorf("journal task %s: %w", id, err)
	}
	return nil
}

// Check reads a little, to see whether the journal answers. It blocks as long as
// the journal does.
func (j *Journal) Check() error {
	err := j.db.View(func(tx *bbolt.Tx) error {
		tx.Bucket(tasksBucket).Cursor().First()
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	return nil
}

// Entries returns all tasks that the agent has taken and not forgotten.
func (j *Journal) Entries() ([]*Entry, error) {
	var out []*Entry
	err := j.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(tasksBucket).ForEach(func(id, data []byte) error {
			var e Entry
			if err := json.Unmarshal(data, &e); err != nil {
				return fmt.Errorf("task %s: %w", id, err)
			}
			out = append(out, &e)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	return out, nil
}

func (j *Journal) update(id string, change func(*Entry)) error {
	err := j.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(tasksBucket)
		e, err := get(b, id)
		if err != nil {
			return err
		}
		if e == nil {
			return errors.New("it is not in the journal")
		}
		change(e)
		return put(b, e)
	})
	if err != nil {
		return fmt.Errorf("journal task %s: %w", id, err)
	}
	return nil
}

func get(b *bbolt.Bucket, id string) (*Entry, error) {
	data := b.Get([]byte(id))
	if data == nil {
		return nil, nil
	}
	var e Entry
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, err
	}
	return &e, nil
}

func put(b *bbolt.Bucket, e *Entry) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return b.Put([]byte(e.Task.ID), data)
}
