package obs

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

func TestTailKeepsTheEnd(t *testing.T) {
	t.Parallel()
	var tail Tail
	var written bytes.Buffer
	log := tail.Keep(slog.New(slog.NewTextHandler(&written, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if lines, lost := tail.Lines(10); lines == nil || len(lines) > 0 || lost > 0 {
		t.Errorf("of an empty log: %#v, %d lost", lines, lost)
	}
	log.Debug("too fine")
	log.Info("one")
	with := log.With("task", "t1").WithGroup("step")
	with.Warn("two\nlines", "name", "switch")
	lines, lost := tail.Lines(10)
	if len(lines) != 2 || lost != 0 || !strings.HasSuffix(lines[0], "level=INFO msg=one") ||
		!strings.HasSuffix(lines[1], `level=WARN msg="two\nlines" task=t1 step.name=switch`) {
		t.Errorf("%q, %d lost", lines, lost)
	}
	if lines, _ = tail.Lines(1); len(lines) != 1 || !strings.Contains(lines[0], "two") {
		t.Errorf("the last one: %q", lines)
	}
	if got := written.String(); strings.Contains(got, "one") || !strings.Contains(got, "two") {
		t.Errorf("the log itself is as it was set up: %q", got)
	}
}

func TestTailIsBounded(t *testing.T) {
	t.Parallel()
	var tail Tail
	log := tail.Keep(slog.New(slog.DiscardHandler))
	const n = 5000
	var group sync.WaitGroup
	for w := range 5 {
		group.Go(func() {
			for i := range n / 5 {
				log.Info("a line", "writer", w, "number", i)
			}
		})
	}
	group.Wait()
	log.Info("the last")
	lines, lost := tail.Lines(2 * n)
	if int64(len(lines))+lost != n+1 || lost == 0 || !strings.Contains(lines[len(lines)-1], "the last") {
		t.Errorf("%d lines and %d lost are not %d", len(lines), lost, n+1)
	}
	if size := len(strings.Join(lines, "")); size > maxTail || size < maxTail/2 {
		t.Errorf("%d bytes are kept", size)
	}
}

// One line does not take the place of all others.
func TestTailCutsLines(t *testing.T) {
	t.Parallel()
	var tail Tail
	log := tail.Keep(slog.New(slog.DiscardHandler))
	log.Info("before")
	log.Info("long", "text", strings.Repeat("é", maxTail), "and", "the \xff end")
	lines, lost := tail.Lines(10)
	if len(lines) != 2 || lost != 0 {
		t.Fatalf("%d lines, %d lost", len(lines), lost)
	}
	if got := lines[1]; len(got) > maxTailLine+100 || !utf8.ValidString(got) || !strings.HasSuffix(got, "bytes of this line are left out)") {
		t.Errorf("%d bytes: %s", len(got), fmt.Sprintf("%.40s … %s", got, got[len(got)-60:]))
	}
}
