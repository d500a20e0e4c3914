package out

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"charm.land/lipgloss/v2"
)

// Progress shows on a terminal what is being done now, in a last line that
// moves, with what was done above it. Without a terminal it writes only what
// was done. It is safe for concurrent use; Stop must be called.
type Progress struct {
	io   *IO
	now  func() time.Time
	stop chan struct{}
	done sync.WaitGroup

	mu     sync.Mutex
	status string // what is being done
	since  time.Time
	frame  int
	drawn  bool // the moving line is on the screen
}

var frames = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// Progress begins to show progress on Err.
func (s *IO) Progress() *Progress {
	p := &Progress{io: s, now: time.Now, stop: make(chan struct{})}
	if s.ErrTTY {
		p.done.Go(p.spin)
	}
	return p
}

// Stop takes the moving line away. It may be called twice.
func (p *Progress) Stop() {
	p.mu.Lock()
	p.status = ""
	p.wipe()
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	p.mu.Unlock()
	p.done.Wait()
}

// Status sets what is being done since when; an empty one takes it away.
func (p *Progress) Status(text string, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.since = text, since
	p.draw()
}

// Linef writes a line that stays.
func (p *Progress) Linef(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	fmt.Fprintf(p.io.Err, format+"\n", args...)
	p.draw()
}

func (p *Progress) spin() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			p.mu.Lock()
			p.frame++
			p.draw()
			p.mu.Unlock()
		}
	}
}

func (p *Progress) draw() {
	if !p.io.ErrTTY {
		return
	}
	p.wipe()
	if p.status == "" {
		return
	}
	line := p.status
	if took := p.now().Sub(p.since); took >= 100*time.Millisecond {
		line += "  " + p.io.ErrStyle.Faint(Seconds(took))
	}
	// A line that wraps could not be wiped.
	if w := p.io.width(); w > 4 && lipgloss.Width(line) > w-3 {
		line = lipgloss.NewStyle().MaxWidth(w - 3).Render(line)
	}
	fmt.Fprint(p.io.Err, frames[p.frame%len(frames)]+" "+strings.ReplaceAll(line, "\n", " "))
	p.drawn = true
}

func (p *Progress) wipe() {
	if p.drawn {
		fmt.Fprint(p.io.Err, "\r\x1b[K")
		p.drawn = false
	}
}
