package client

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"stella-ops.org/stella/api"
)

// A follower that gets nowhere tries so often, with at most so long between:
// enough for a server that is being restarted.
const (
	followAttempts = 20
	followWait     = 3 * time.Second
)

// maxLine is what one entry of a log may be long.
const maxLine = 4 << 20

// FollowTaskLogs walks the log of a task from its beginning, waits for what is
// still to come, and ends when the task is over. A connection that is lost on
// the way is made again, and no entry comes twice. An error ends the walk; so
// does the end of ctx, with its error.
func (c *Client) FollowTaskLogs(ctx context.Context, id string) iter.Seq2[api.LogEntry, error] {
	return func(yield func(api.LogEntry, error) bool) {
		f := &follower{client: c, id: id, yield: yield}
		if err := f.run(ctx); err != nil && !f.stopped {
			yield(api.LogEntry{}, err)
		}
	}
}

// follower walks one log. A log only grows, so that the number of entries seen
// says where to go on; their own numbers begin again with each attempt at the
// task.
type follower struct {
	client  *Client
	id      string
	yield   func(api.LogEntry, error) bool
	seen    int
	stopped bool // the consumer wants no more
}

func (f *follower) run(ctx context.Context) error {
	for failures := 0; ; {
		before := f.seen
		err := f.stream(ctx)
		if f.stopped || ctx.Err() != nil {
			return ctx.Err()
		}
		if f.seen > before {
			failures = 0
		}
		if err == nil {
			// Either the task is over, or the server is going down.
			over, lookErr := f.over(ctx)
			if over || lookErr != nil && !passing(lookErr) {
				return lookErr
			}
			err = lookErr
		}
		if err != nil && !passing(err) {
			return err
		}
		if failures++; failures == followAttempts {
			if err == nil {
				err = fmt.Errorf("the log of task %s ends again and again although the task is not over", f.id)
			}
			return err
		}
		if !await(ctx, err, backoff(failures, followWait)) {
			return cmp.Or(ctx.Err(), err)
		}
	}
}

// stream reads the log until it ends or the connection does.
func (f *follower) stream(ctx context.Context) error {
	path, err := item(tasksPath, f.id, "logs")
	if err != nil {
		return err
	}
	q := afterEntries(f.seen)
	q.Set("follow", "true")
	op := call{method: http.MethodGet, path: path, query: q}
	res, err := f.client.send(ctx, op, nil, "application/x-ndjson")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue // a sign of life
		}
		var entry api.LogEntry
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil {
			// A line that was cut off belongs to a connection that was.
			return f.client.connectError(ctx, fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err))
		}
		if !f.give(entry) {
			return nil
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("the log of task %s has an entry of more than %d bytes", f.id, maxLine)
	} else if err != nil {
		return f.client.connectError(ctx, err)
	}
	return nil
}

// over reports whether the task is over, and then gives what a server that
// went down may have kept.
func (f *follower) over(ctx context.Context) (bool, error) {
	task, err := f.client.Task(ctx, f.id)
	if err != nil {
		return false, err
	}
	if !task.State.Final() {
		return false, nil
	}
	logs, err := f.client.taskLogs(ctx, f.id, f.seen)
	if err != nil {
		return false, err
	}
	for _, entry := range logs.Entries {
		if !f.give(entry) {
			break
		}
	}
	return true, nil
}

func afterEntries(n int) url.Values {
	q := url.Values{}
	if n > 0 {
		q.Set("after", strconv.Itoa(n))
	}
	return q
}

func (f *follower) give(entry api.LogEntry) bool {
	f.seen++
	f.stopped = !f.yield(entry, nil)
	return !f.stopped
}
