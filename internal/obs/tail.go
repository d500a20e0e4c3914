package obs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// Tail keeps the end of a program's own log, for those who cannot reach its
// file. It is safe for concurrent use.
type Tail struct {
	mu    sync.Mutex
	lines []string
	bytes int
	lost  int64
}

const (
	// maxTail bounds what is kept, in bytes.
	maxTail = 96 << 10
	// maxTailLine is where a line is cut, so that one does not take the place
	// of all others.
	maxTailLine = 8 << 10
)

// Keep returns a logger that logs as log does, and keeps the end of it, at
// level info and above.
func (t *Tail) Keep(log *slog.Logger) *slog.Logger {
	return slog.New(&keeping{Handler: log.Handler(), text: slog.NewTextHandler(lineWriter{t}, nil)})
}

// Lines returns the last lines, n at the most, and how many are kept no more.
func (t *Tail) Lines(n int) (lines []string, lost int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := max(0, len(t.lines)-n)
	return append([]string{}, t.lines[from:]...), t.lost
}

// lineWriter takes one line with each write, as slog's handlers give them.
type lineWriter struct{ t *Tail }

func (w lineWriter) Write(p []byte) (int, error) {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	line := string(bytes.TrimRight(p, "\n"))
	if over := len(line) - maxTailLine; over > 0 {
		line = fmt.Sprintf("%s… (%d bytes of this line are left out)", strings.ToValidUTF8(line[:maxTailLine], ""), over)
	}
	w.t.lines = append(w.t.lines, line)
	w.t.bytes += len(line)
	drop := 0
	for w.t.bytes > maxTail && drop < len(w.t.lines) {
		w.t.bytes -= len(w.t.lines[drop])
		drop++
	}
	if drop > 0 {
		w.t.lines = append([]string{}, w.t.lines[drop:]...)
		w.t.lost += int64(drop)
	}
	return len(p), nil
}

// keeping is a handler that writes to another as well.
type keeping struct {
	slog.Handler
	text slog.Handler
}

// Enabled implements slog.Handler.
func (k *keeping) Enabled(ctx context.Context, l slog.Level) bool {
	return k.Handler.Enabled(ctx, l) || k.text.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (k *keeping) Handle(ctx context.Context, r slog.Record) error {
	if k.text.Enabled(ctx, r.Level) {
		_ = k.text.Handle(ctx, r.Clone()) // it goes into memory
	}
	if !k.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return k.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (k *keeping) WithAttrs(as []slog.Attr) slog.Handler {
	return &keeping{k.Handler.WithAttrs(as), k.text.WithAttrs(as)}
}

// WithGroup implements slog.Handler.
func (k *keeping) WithGroup(name string) slog.Handler {
	return &keeping{k.Handler.WithGroup(name), k.text.WithGroup(name)}
}
