package demo

import (
	"fmt"
	"strings"
	"time"

	"stella-ops.org/stella/internal/cli/out"
)

// show tells the story: numbered steps, the commands as they run, and what
// came of them.
type show struct {
	io    *out.IO
	began time.Time
	step  int
}

func newShow(streams *out.IO) *show { return &show{io: streams, began: time.Now()} }

// next begins a step.
func (s *show) next(what string) {
	s.step++
	s.io.Printf("\n%s\n", s.io.OutStyle.Bold(fmt.Sprintf("%d. %s", s.step, what)))
}

// say writes a line of the story.
func (s *show) say(format string, args ...any) { s.io.Printf(format+"\n", args...) }

// command shows a command as a person would type it.
func (s *show) command(words ...string) {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	s.io.Printf("%s\n", s.io.OutStyle.Faint("$ "+strings.Join(quoted, " ")))
}

// done says that a step did what it promised.
func (s *show) done(since time.Time, format string, args ...any) {
	s.io.Printf("%s %s %s\n", s.io.OutStyle.Good("✓"), fmt.Sprintf(format, args...), s.io.OutStyle.Faint(out.Seconds(time.Since(since))))
}

// tail shows the end of a log of a process that did not do what it should.
func (s *show) tail(name string, lines []string) {
	if len(lines) == 0 {
		return
	}
	s.io.Notef("the end of the log of %s:", name)
	for _, l := range lines {
		s.io.Notef("  %s %s", s.io.ErrStyle.Faint("│"), out.Plain(l))
	}
}

func quote(word string) string {
	if word == "" || strings.ContainsAny(word, " \t\n'\"\\$&|;<>()*?!#`") {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}
