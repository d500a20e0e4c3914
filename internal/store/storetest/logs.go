package storetest

import (
	"fmt"
	"strings"
	"testing"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/store"
	"stella-ops.org/stella/internal/task"
)

// lines makes log entries numbered from first, as an agent sends them.
func (b *bench) lines(first, n int) []api.LogEntry {
	list := make([]api.LogEntry, n)
	for i := range list {
		list[i] = api.LogEntry{At: b.now, Stream: "stdout", Text: fmt.Sprintf("line %d", first+i)}
	}
	return list
}

// log reads a task's whole log in small pages and returns its texts.
func (b *bench) log(t testing.TB, id string) []string {
	t.Helper()
	var texts []string
	position := int64(0)
	for {
		entries, next, err := b.Log(b.ctx, id, position, 3)
		must(t, err)
		for _, e := range entries {
			texts = append(texts, e.Text)
		}
		if len(entries) == 0 {
			if next != position {
				t.Errorf("the position moved from %d to %d without an entry", position, next)
			}
			return texts
		}
		position = next
	}
}

func texts(entries []api.LogEntry) []string {
	var list []string
	for _, e := range entries {
		list = append(list, e.Text)
	}
	return list
}

func testLogAppend(t *testing.T, b *bench) {
	k := b.insert(t, b.target(t, "web", "id-a").ID)
	ref := task.Ref{ID: k.ID, Attempt: 1}
	for _, step := range []struct {
		first, n int
		last     int64
	}{
		{1, 4, 4},
		{1, 4, 4},   // again
		{3, 4, 6},   // overlapping
		{2, 2, 6},   // old
		{7, 1, 7},   // the next
		{7, 0, 7},   // nothing
		{11, 2, 12}, // after a gap
		{1, 13, 13}, // all of it once more, and one
	} {
		last, err := b.AppendLog(b.ctx, ref, int64(step.first), b.lines(step.first, step.n), 1<<20)
		must(t, err)
		if last != step.last {
			t.Errorf("after %d entries from %d on the last is %d, want %d", step.n, step.first, last, step.last)
		}
	}
	want := append(b.lines(1, 7), b.lines(11, 3)...)
	same(t, "log", b.log(t, k.ID), texts(want))

	entries, position, err := b.Log(b.ctx, k.ID, 0, 100)
	must(t, err)
	if position != int64(len(want)) {
		t.Errorf("the position behind %d entries is %d", len(want), position)
	}
	for i := range want {
		want[i].Seq = int64(i + 1)
		if i >= 7 {
			want[i].Seq = int64(i + 4)
		}
	}
	same(t, "entries", entries, want)
}

func testLogLimit(t *testing.T, b *bench) {
	k := b.insert(t, b.target(t, "web", "id-a").ID)
	ref := task.Ref{ID: k.ID, Attempt: 1}
	const limit = 1000
	appendLines := func(first, n int) {
		t.Helper()
		last, err := b.AppendLog(b.ctx, ref, int64(first), b.lines(first, n), limit)
		must(t, err)
		if want := int64(first + n - 1); last != want {
			t.Fatalf("the last entry stored is %d, want %d: the agent would send it for ever", last, want)
		}
	}
	appendLines(1, 5)
	appendLines(6, 20)
	appendLines(26, 100)
	appendLines(100, 26) // again
	more := b.lines(126, 1)
	more[0].Lost = 9 // the agent had dropped some itself
	_, err := b.AppendLog(b.ctx, ref, 126, more, limit)
	must(t, err)

	entries, _, err := b.Log(b.ctx, k.ID, 0, 1000)
	must(t, err)
	marker := entries[len(entries)-1]
	kept := int64(len(entries) - 1)
	if marker.Stream != "system" || marker.Lost != 126-kept+9 || marker.Seq != kept+1 {
		t.Errorf("the last entry is %+v after %d that were kept, want one that counts the rest of 126 and 9", marker, kept)
	}
	if kept < 5 || kept > 20 {
		t.Errorf("%d lines fit into %d bytes", kept, limit)
	}
	same(t, "kept", texts(entries[:kept]), texts(b.lines(1, int(kept))))

	// Each attempt has its own room.
	_, err = b.AppendLog(b.ctx, task.Ref{ID: k.ID, Attempt: 2}, 1, b.lines(1, 1), limit)
	must(t, err)
	if got := b.log(t, k.ID); got[len(got)-1] != "line 1" {
		t.Errorf("the second attempt's line is not there: %v", got)
	}
}

func testLogAttempts(t *testing.T, b *bench) {
	k := b.insert(t, b.target(t, "web", "id-a").ID)
	for _, step := range []struct {
		attempt int64
		first   int
	}{{1, 1}, {2, 101}, {1, 3}, {2, 103}} {
		_, err := b.AppendLog(b.ctx, task.Ref{ID: k.ID, Attempt: step.attempt}, int64(step.first%100), b.lines(step.first, 2), 1<<20)
		must(t, err)
	}
	same(t, "log", b.log(t, k.ID), []string{"line 1", "line 2", "line 101", "line 102", "line 3", "line 4", "line 103", "line 104"})
}

// testLogConcurrent: chunks that come twice and at once, on two servers, for
// two attempts; each line is there once, in its attempt's order.
func testLogConcurrent(t *testing.T, b *bench) {
	k := b.insert(t, b.target(t, "web", "id-a").ID)
	stores := []*store.Store{b.Store, b.open(t)}
	const chunks = 20
	together(t, 8, func(i int) error {
		ref := task.Ref{ID: k.ID, Attempt: int64(1 + i%2)}
		for c := range chunks {
			entries := b.lines(c*5+1, 5)
			for j := range entries {
				entries[j].Text = fmt.Sprintf("%d: %s", ref.Attempt, entries[j].Text)
			}
			if _, err := stores[i/4].AppendLog(b.ctx, ref, int64(c*5+1), entries, 1<<20); err != nil {
				return err
			}
		}
		return nil
	})
	got := b.log(t, k.ID)
	if len(got) != 2*chunks*5 {
		t.Errorf("%d lines, want %d", len(got), 2*chunks*5)
	}
	for attempt := 1; attempt <= 2; attempt++ {
		n := 0
		for _, text := range got {
			if rest, ok := strings.CutPrefix(text, fmt.Sprintf("%d: line ", attempt)); ok {
				if n++; rest != fmt.Sprint(n) {
					t.Fatalf("attempt %d has line %s where %d belongs", attempt, rest, n)
				}
			}
		}
	}
}

func testLogAnyText(t *testing.T, b *bench) {
	k := b.insert(t, b.target(t, "web", "id-a").ID)
	odd := []api.LogEntry{{At: b.now, Stream: "stdout", Text: "nul \x00, \\u0000, \\\x00, <&>, \u2028, 漢字, 🙂, \x1b[31m"}}
	_, err := b.AppendLog(b.ctx, task.Ref{ID: k.ID, Attempt: 1}, 1, odd, 1<<20)
	must(t, err)
	same(t, "log", b.log(t, k.ID), []string{"nul \ufffd, \\u0000, \\\ufffd, <&>, \u2028, 漢字, 🙂, \x1b[31m"})
}
