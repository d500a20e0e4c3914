package agent

import (
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/seal"
)

// Bounds of what is kept of a task's log on the agent.
const (
	maxLine    = 16 << 10 // bytes of a line
	maxPending = 10_000   // lines that wait for the server
	maxChunk   = 500      // lines sent at once
	maxUnacked = 4        // chunks sent and not acknowledged
	tailBytes  = 64 << 10 // of the log's end, which goes with the result
)

// taskLog takes a task's log: masks secrets, keeps the end for the result, and
// holds lines until the server has them. Lines that do not fit are counted,
// and the count goes with the next line. It is safe for concurrent use.
type taskLog struct {
	mask   atomic.Pointer[seal.Masker]
	notify func() // something is to be sent; must not block

	mu      sync.Mutex
	pending []*stellav1.LogEntry // not sent yet
	unacked []*stellav1.LogChunk // sent, not acknowledged, oldest first
	resend  int                  // how many of unacked are to be sent again
	nextSeq int64
	lost    int64
	tail    []string
	tailLen int
}

var _ deploy.Log = (*taskLog)(nil)

func newTaskLog(mask *seal.Masker, notify func()) *taskLog {
	l := &taskLog{notify: notify, nextSeq: 1}
	l.mask.Store(mask)
	return l
}

// hide adds to what is masked from now on: a task that is taken up after a
// restart learns its secrets only then.
func (l *taskLog) hide(secrets ...string) { l.mask.Store(l.masker().With(secrets...)) }

func (l *taskLog) masker() *seal.Masker { return l.mask.Load() }

// Line logs one line.
func (l *taskLog) Line(stream, text string) {
	text = l.masker().Mask(strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) > maxLine {
		cut := maxLine
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + " … (line cut)"
	}
	l.add(&stellav1.LogEntry{At: timestamppb.Now(), Stream: stream, Text: text}, text)
}

// Phase logs that a phase began or ended.
func (l *taskLog) Phase(name, state string) {
	text := name + " " + state
	l.add(&stellav1.LogEntry{At: timestamppb.Now(), Stream: "system", Text: text, Phase: name, PhaseState: state}, text)
}

func (l *taskLog) add(e *stellav1.LogEntry, text string) {
	l.mu.Lock()
	l.tail = append(l.tail, text)
	l.tailLen += len(text) + 1
	for l.tailLen > tailBytes && len(l.tail) > 1 {
		l.tailLen -= len(l.tail[0]) + 1
		l.tail = l.tail[1:]
	}
	if len(l.pending) >= maxPending {
		// The oldest go: the end of a log says how it ended.
		l.lost += l.pending[0].GetLost() + 1
		l.pending = l.pending[1:]
		l.pending[0].Lost += l.lost
		l.lost = 0
	}
	l.pending = append(l.pending, e)
	l.mu.Unlock()
	l.notify()
}

// end returns the end of the log as text.
func (l *taskLog) end() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.tail, "\n")
}

// next returns the next chunk to send, or nil when there is none, or when the
// server has not acknowledged enough of what it was sent.
func (l *taskLog) next(ref *stellav1.TaskRef) *stellav1.LogChunk {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.resend > 0 {
		c := l.unacked[len(l.unacked)-l.resend]
		l.resend--
		c.Ref = ref
		return c
	}
	if len(l.pending) == 0 || len(l.unacked) >= maxUnacked {
		return nil
	}
	n := min(len(l.pending), maxChunk)
	c := &stellav1.LogChunk{Ref: ref, FirstSeq: l.nextSeq, Entries: l.pending[:n:n]}
	l.pending = l.pending[n:]
	l.nextSeq += int64(n)
	l.unacked = append(l.unacked, c)
	return c
}

// acked drops what the server has stored.
func (l *taskLog) acked(lastSeq int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.unacked) > 0 {
		c := l.unacked[0]
		if c.GetFirstSeq()+int64(len(c.GetEntries()))-1 > lastSeq {
			return
		}
		l.unacked = l.unacked[1:]
		l.resend = min(l.resend, len(l.unacked))
	}
}

// reconnected makes what was sent and not acknowledged be sent again; the
// server drops what it has already.
func (l *taskLog) reconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resend = len(l.unacked)
}

// idle reports whether all that was logged has been sent.
func (l *taskLog) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending) == 0 && l.resend == 0
}
