package out

import (
	"fmt"
	"os"
	"strings"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"
)

// Board is a block of lines on a terminal that is drawn again in its place.
// Without a terminal it draws nothing. It is for one goroutine; Keep must be
// called.
type Board struct {
	io    *IO
	drawn int // lines on the screen
}

// Board begins a block of lines on Err.
func (s *IO) Board() *Board { return &Board{io: s} }

// Draws says whether there is a terminal to draw on.
func (b *Board) Draws() bool { return b.io.ErrTTY }

// Room is how many lines fit on the terminal at once.
func (b *Board) Room() int {
	const usual = 24
	f, ok := b.io.Err.(*os.File)
	if !ok {
		return usual
	}
	_, h, err := term.GetSize(int(f.Fd()))
	if err != nil || h < 5 {
		return usual
	}
	return h - 1
}

// Draw replaces what was drawn last. Lines are cut at the terminal's width: one
// that wraps could not be replaced.
func (b *Board) Draw(lines []string) {
	if !b.io.ErrTTY {
		return
	}
	var text strings.Builder
	if b.drawn > 0 {
		fmt.Fprintf(&text, "\x1b[%dA", b.drawn)
	}
	for _, line := range lines {
		if w := b.io.width(); w > 1 && lipgloss.Width(line) >= w {
			line = lipgloss.NewStyle().MaxWidth(w - 1).Render(line)
		}
		text.WriteString("\r" + strings.ReplaceAll(line, "\n", " ") + "\x1b[K\n")
	}
	text.WriteString("\x1b[J")
	b.drawn = len(lines)
	fmt.Fprint(b.io.Err, text.String())
}

// Keep leaves the block as it is: what is written next comes below it.
func (b *Board) Keep() { b.drawn = 0 }

// Lines makes the lines of a table, for a board.
func (t *Table) Lines(s Style) []string {
	var text strings.Builder
	columns(&text, t.fit(s))
	return strings.Split(strings.TrimRight(text.String(), "\n"), "\n")
}
