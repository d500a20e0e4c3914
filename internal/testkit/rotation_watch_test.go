package testkit_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"stella-ops.org/stella/internal/fault"
)

// What a watch counts.
const (
	handshakeRefused = "refused handshakes"
	requestRefused   = "refused requests"
	linkEnded        = "links that ended without a next one"
	agentComplains   = "warnings and errors in agents' logs"
	serverComplains  = "warnings and errors in the server's log"
)

// counted are the names of all that, in the order of the report.
var counted = []string{handshakeRefused, requestRefused, linkEnded, agentComplains, serverComplains}

// watch reads the logs of a server and its agents for whatever an agent would
// notice of a connection or a certificate that was not good. It counts by
// phase, for what is wrong in one is the point of another. It is safe for
// concurrent use.
type watch struct {
	standstills *standstills

	mu    sync.Mutex
	phase string
	notes []note
}

// note is one thing that was seen.
type note struct {
	phase, name, of string
	at              time.Time
	words           string
}

const (
	// notesMost bounds what is kept.
	notesMost = 10_000
	// toldMost is how many of a phase are shown in words.
	toldMost = 40
)

func newWatch(phase string, s *standstills) *watch { return &watch{phase: phase, standstills: s} }

// enter begins a phase.
func (w *watch) enter(phase string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.phase = phase
}

// of is how many there were in a phase, but for what a machine that stood still
// explains.
func (w *watch) of(phase, name string) int {
	n := 0
	for _, seen := range w.seen(phase) {
		if seen.name == name {
			n++
		}
	}
	return n
}

func (w *watch) seen(phase string) (out []note) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.notes {
		if n.phase == phase && !w.standstills.explain(n.at) {
			out = append(out, n)
		}
	}
	return out
}

// none fails the test for whatever was seen in a phase.
func (w *watch) none(t *testing.T, phase string) {
	t.Helper()
	seen := w.seen(phase)
	for _, name := range counted {
		if n := w.of(phase, name); n > 0 {
			t.Errorf("%s: %d %s", phase, n, name)
		}
	}
	for _, n := range seen[:min(toldMost, len(seen))] {
		t.Logf("%s %s: %s", n.at.Format("15:04:05.000"), n.of, n.words)
	}
}

func (w *watch) note(name, of string, at time.Time, words string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.notes) < notesMost {
		w.notes = append(w.notes, note{w.phase, name, of, at, words})
	}
}

// server and agent return loggers that are watched; nothing else is done with
// what they get.
func (w *watch) server() *slog.Logger {
	return slog.New(&watched{watch: w, of: "server", from: slog.LevelDebug})
}

func (w *watch) agent(name string) *slog.Logger {
	return slog.New(&watched{watch: w, of: name, from: slog.LevelWarn})
}

// watched is one log of a watch.
type watched struct {
	watch *watch
	of    string
	from  slog.Level
}

var _ slog.Handler = (*watched)(nil)

func (h *watched) Enabled(_ context.Context, level slog.Level) bool { return level >= h.from }
func (h *watched) WithAttrs([]slog.Attr) slog.Handler               { return h }
func (h *watched) WithGroup(string) slog.Handler                    { return h }

// Handle implements slog.Handler.
func (h *watched) Handle(_ context.Context, r slog.Record) error {
	if name := h.name(&r); name != "" {
		h.watch.note(name, h.of, r.Time, words(&r))
	}
	return nil
}

// name is what a line counts as; "" for one that counts as nothing.
func (h *watched) name(r *slog.Record) string {
	switch {
	case r.Level >= slog.LevelWarn && h.of == "server":
		return serverComplains
	case r.Level >= slog.LevelWarn:
		return agentComplains
	case r.Message == "a TLS handshake did not come about":
		return handshakeRefused
	case r.Message == "a request was refused":
		return requestRefused
	case r.Message == "agent disconnected":
		// An agent that hands its link over has it replaced, and no more.
		if err, ok := attribute(r, "reason").Any().(error); !ok || fault.CodeOf(err) != "link_replaced" {
			return linkEnded
		}
	}
	return ""
}

func attribute(r *slog.Record, key string) (v slog.Value) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == key {
			v = a.Value
		}
		return a.Key != key
	})
	return v
}

func words(r *slog.Record) string {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%q", a.Key, a.Value.String())
		return true
	})
	return b.String()
}
