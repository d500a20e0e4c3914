package store

import (
	"context"
	"fmt"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/store/internal/column"
	"stella-ops.org/stella/internal/store/internal/db"
	"stella-ops.org/stella/internal/task"
)

// AppendLog implements task.Store.
//
// A chunk is one row. What is over maxBytes is counted in one row that stands
// for all of it; once there is such a row, the attempt's log has ended.
func (s *Store) AppendLog(ctx context.Context, ref task.Ref, firstSeq int64, entries []api.LogEntry, maxBytes int64) (lastSeq int64, err error) {
	err = s.write(ctx, "append to log of task "+ref.ID, func(q *db.Queries) error {
		if _, ok, err := one(q.LockTask(ctx, ref.ID)); err != nil {
			return err
		} else if !ok {
			return taskNotFound(ref.ID)
		}
		tail, hasTail, err := one(q.LogTail(ctx, db.LogTailParams{TaskID: ref.ID, Attempt: ref.Attempt}))
		if err != nil {
			return err
		}
		w := logWriter{q: q, ref: ref, next: firstSeq}
		if hasTail {
			w.bytes, lastSeq = tail.TotalBytes, tail.LastSeq
			w.next = max(firstSeq, lastSeq+1)
		} else {
			lastSeq = 0
		}
		known := min(w.next-firstSeq, int64(len(entries)))
		fresh := entries[known:]
		if len(fresh) == 0 {
			return nil
		}
		lastSeq = w.next + int64(len(fresh)) - 1
		if hasTail && tail.Lost > 0 {
			return q.GrowLogMarker(ctx, db.GrowLogMarkerParams{
				TaskID: ref.ID, LastPosition: tail.LastPosition, LastSeq: lastSeq, Lost: tail.Lost + count(fresh),
			})
		}
		if w.position, _, err = one(q.LogEnd(ctx, ref.ID)); err != nil {
			return err
		}
		fits, size := fitting(fresh, maxBytes-w.bytes)
		if err := w.chunk(ctx, fresh[:fits], size); err != nil {
			return err
		}
		return w.marker(ctx, fresh[fits:], maxBytes)
	})
	if err != nil {
		return 0, err
	}
	return lastSeq, nil
}

// logWriter adds rows to the log of one attempt.
type logWriter struct {
	q        *db.Queries
	ref      task.Ref
	next     int64 // the number of the next entry of the attempt
	position int64 // of the last entry of the task
	bytes    int64 // of the attempt so far
}

// chunk adds a row with entries, numbered.
func (w *logWriter) chunk(ctx context.Context, entries []api.LogEntry, size int64) error {
	if len(entries) == 0 {
		return nil
	}
	numbered := make([]api.LogEntry, len(entries))
	for i, e := range entries {
		e.Seq = w.next + int64(i)
		numbered[i] = e
	}
	return w.insert(ctx, numbered, int64(len(entries)), size, 0)
}

// marker adds the row that stands for what is dropped.
func (w *logWriter) marker(ctx context.Context, dropped []api.LogEntry, maxBytes int64) error {
	if len(dropped) == 0 {
		return nil
	}
	m := api.LogEntry{
		Seq: w.next, At: dropped[0].At, Stream: "system",
		Text: fmt.Sprintf("the log has reached its limit of %d bytes: the rest was dropped", maxBytes),
	}
	return w.insert(ctx, []api.LogEntry{m}, int64(len(dropped)), 0, count(dropped))
}

// insert adds a row that stands for a number of the attempt's entries.
func (w *logWriter) insert(ctx context.Context, entries []api.LogEntry, n, size, lost int64) error {
	w.bytes += size
	if err := w.q.InsertLogChunk(ctx, db.InsertLogChunkParams{
		TaskID: w.ref.ID, Attempt: w.ref.Attempt, FirstSeq: w.next, LastSeq: w.next + n - 1,
		FirstPosition: w.position + 1, LastPosition: w.position + int64(len(entries)),
		Entries: column.Entries{V: entries}, Bytes: size, TotalBytes: w.bytes, Lost: lost,
	}); err != nil {
		return err
	}
	w.next += n
	w.position += int64(len(entries))
	return nil
}

// fitting returns how many of the entries fit, and their size.
func fitting(entries []api.LogEntry, room int64) (n int, size int64) {
	for _, e := range entries {
		// About what an entry takes as JSON.
		more := int64(64 + len(e.Text) + len(e.Phase))
		if size+more > room {
			break
		}
		size += more
		n++
	}
	return n, size
}

// count returns how many lines entries stand for.
func count(entries []api.LogEntry) int64 {
	n := int64(len(entries))
	for _, e := range entries {
		n += e.Lost
	}
	return n
}

// Log implements task.Store.
func (s *Store) Log(ctx context.Context, taskID string, after int64, limit int) ([]api.LogEntry, int64, error) {
	limit = page(limit)
	var entries []api.LogEntry
	position := after
	for {
		const few = 50 // a chunk often is more than a line
		chunks, err := s.read().LogChunks(ctx, db.LogChunksParams{TaskID: taskID, After: position, Page: few})
		if err != nil {
			return nil, 0, s.explain(ctx, "read log of task", err)
		}
		for _, c := range chunks {
			for i, e := range c.Entries.V {
				at := c.FirstPosition + int64(i)
				if at <= position {
					continue
				}
				if c.Lost > 0 {
					e.Lost = c.Lost
				}
				entries = append(entries, e)
				if position = at; len(entries) == limit {
					return entries, position, nil
				}
			}
		}
		if len(chunks) < few {
			break
		}
	}
	if len(entries) == 0 {
		if err := taskExists(ctx, s.read(), "", taskID); err != nil {
			return nil, 0, s.explain(ctx, "read log of task", err)
		}
	}
	return entries, position, nil
}
