package agent

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/seal"
)

func testLog() *taskLog { return newTaskLog(seal.NewMasker(), func() {}) }

var someRef = &stellav1.TaskRef{TaskId: "t", Attempt: 1}

// server stores a log as the real one does: by number, each line once.
type logServer struct {
	last  int64
	lines []string
	lost  int64
}

func (s *logServer) store(t interface{ Fatalf(string, ...any) }, c *stellav1.LogChunk) {
	if c.GetFirstSeq() > s.last+1 {
		t.Fatalf("the chunk begins with %d, and %d was the last", c.GetFirstSeq(), s.last)
	}
	for i, e := range c.GetEntries() {
		if seq := c.GetFirstSeq() + int64(i); seq > s.last {
			s.last = seq
			s.lines = append(s.lines, e.GetText())
			s.lost += e.GetLost()
		}
	}
}

// Whatever happens to the connection, the server gets every line once, in
// order, and no more is under way than the window takes.
func TestLogReachesTheServer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l, s, logged := testLog(), &logServer{}, 0
		var sent []*stellav1.LogChunk // on this connection, not yet stored
		settle := func() {
			for _, c := range sent {
				s.store(t, c)
			}
			sent = nil
		}
		t.Repeat(map[string]func(*rapid.T){
			"log": func(t *rapid.T) {
				if len(l.pending) > maxPending/2 {
					t.Skip("so much is lost; another test looks at that")
				}
				for range rapid.SampledFrom([]int{1, 10, maxChunk, 3 * maxChunk}).Draw(t, "lines") {
					l.Line("stdout", fmt.Sprint(logged))
					logged++
				}
			},
			"send": func(t *rapid.T) {
				if c := l.next(someRef); c != nil {
					sent = append(sent, c)
				}
				if n := len(l.unacked); n > maxUnacked {
					t.Fatalf("%d chunks are under way", n)
				}
			},
			"store and acknowledge": func(*rapid.T) { settle(); l.acked(s.last) },
			"acknowledgement lost":  func(*rapid.T) { settle(); l.reconnected() },
			"connection lost":       func(*rapid.T) { sent = nil; l.reconnected() },
			"late acknowledgement":  func(t *rapid.T) { l.acked(rapid.Int64Range(0, s.last).Draw(t, "seq")) },
		})
		for !l.idle() || len(sent) > 0 || len(l.unacked) > 0 {
			if c := l.next(someRef); c != nil {
				sent = append(sent, c)
				continue
			}
			if len(sent) == 0 {
				l.reconnected() // its last connection took what was sent with it
				continue
			}
			settle()
			l.acked(s.last)
		}
		if len(s.lines) != logged || s.lost != 0 {
			t.Fatalf("%d of %d lines came, and %d are said to be lost", len(s.lines), logged, s.lost)
		}
		for i, line := range s.lines {
			if line != fmt.Sprint(i) {
				t.Fatalf("line %d is %q", i, line)
			}
		}
	})
}

// When the server is away for long, the oldest lines go, and exactly as many
// are said to be lost.
func TestLogCountsWhatIsLost(t *testing.T) {
	t.Parallel()
	l, s := testLog(), &logServer{}
	const before, during = 700, maxPending + 2345
	total := 0
	log := func(n int) {
		for range n {
			l.Line("stdout", fmt.Sprint(total))
			total++
		}
	}
	log(before)
	first := l.next(someRef) // is under way when the server goes
	log(during)
	l.reconnected()
	for c := l.next(someRef); c != nil; c = l.next(someRef) {
		s.store(t, c)
		l.acked(s.last)
		if total < before+during+300 { // and it goes on
			log(100)
		}
	}
	if len(first.GetEntries()) != maxChunk || !l.idle() {
		t.Fatalf("%d lines were under way", len(first.GetEntries()))
	}
	if int64(len(s.lines))+s.lost != int64(total) || s.lost == 0 {
		t.Fatalf("%d lines came and %d are said to be lost, of %d", len(s.lines), s.lost, total)
	}
	// In order, with one gap; the end is all there.
	if s.lines[maxChunk-1] != fmt.Sprint(maxChunk-1) || s.lines[maxChunk] != fmt.Sprint(int64(maxChunk)+s.lost) || s.lines[len(s.lines)-1] != fmt.Sprint(total-1) {
		t.Errorf("around the gap: %s, %s; the end: %s", s.lines[maxChunk-1], s.lines[maxChunk], s.lines[len(s.lines)-1])
	}
}

func TestLongLineIsCutBetweenCharacters(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		strings.Repeat("a", maxLine), strings.Repeat("a", maxLine+1), strings.Repeat("ä", maxLine), "x" + strings.Repeat("ä", maxLine),
		"xx" + strings.Repeat("€", maxLine), strings.Repeat("😀", maxLine), "\xff" + strings.Repeat("\xc3a", maxLine),
	} {
		l := testLog()
		l.Line("stdout", text)
		got := l.next(someRef).GetEntries()[0].GetText()
		if !utf8.ValidString(got) {
			t.Errorf("%.10q…: it is cut within a character", text)
		}
		if len(text) == maxLine && utf8.ValidString(text) {
			if got != text {
				t.Errorf("%.10q…: it was cut for nothing", text)
			}
			continue
		}
		if body, ok := strings.CutSuffix(got, " … (line cut)"); !ok || len(body) > maxLine || len(body) < maxLine-3 {
			t.Errorf("%.10q…: %d bytes are left, cut %v", text, len(body), ok)
		}
	}
}

// A secret is not logged, not even by its half at the place where a long line
// is cut, and it is not in the end of the log either.
func TestLogIsMasked(t *testing.T) {
	t.Parallel()
	l := newTaskLog(seal.NewMasker("hunter2-secret"), func() {})
	l.Line("stdout", "login with hunter2-secret")
	l.Line("stderr", strings.Repeat("a", maxLine-5)+"hunter2-secret")
	for _, e := range l.next(someRef).GetEntries() {
		if strings.Contains(e.GetText(), "hunte") {
			t.Errorf("logged: %.60s…%s", e.GetText(), e.GetText()[len(e.GetText())-30:])
		}
	}
	if strings.Contains(l.end(), "hunte") {
		t.Error("the end of the log tells")
	}
}

// The result carries the end of the log, of bounded size.
func TestEndOfLog(t *testing.T) {
	t.Parallel()
	l := testLog()
	l.Phase("pull", "started")
	if got := l.end(); got != "pull started" {
		t.Errorf("end: %q", got)
	}
	for i := range 5000 {
		l.Line("stdout", fmt.Sprintf("line %d of a log that is longer than what goes with the result", i))
	}
	got := l.end()
	if len(got) > tailBytes || len(got) < tailBytes-200 || !strings.HasSuffix(got, "line 4999 of a log that is longer than what goes with the result") || !strings.HasPrefix(got, "line ") {
		t.Errorf("the end has %d bytes: %.40s", len(got), got)
	}
}

func TestPhasesAreMarked(t *testing.T) {
	t.Parallel()
	l := testLog()
	l.Phase("switch", "failed")
	e := l.next(someRef).GetEntries()[0]
	if e.GetPhase() != "switch" || e.GetPhaseState() != "failed" || e.GetStream() != "system" || e.GetText() != "switch failed" {
		t.Errorf("%v", e)
	}
}
