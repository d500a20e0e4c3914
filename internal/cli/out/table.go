package out

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"

	"charm.land/lipgloss/v2"
)

// Table is rows below a heading, in columns as wide as they need.
type Table struct {
	heading []string
	rows    [][]string
}

// NewTable returns a table with the headings of its columns.
func NewTable(heading ...string) *Table { return &Table{heading: heading} }

// Row adds a row. Cells may be coloured. What could break the table's lines is
// shown as an escape, and what could play with the terminal is replaced.
func (t *Table) Row(cells ...string) {
	for i, c := range cells {
		cells[i] = strings.ReplaceAll(c, "\n", `\n`)
	}
	t.rows = append(t.rows, cells)
}

// Len is how many rows there are.
func (t *Table) Len() int { return len(t.rows) }

// Table writes a table; one without rows is only the note that says so.
func (s *IO) Table(t *Table, empty string) {
	if len(t.rows) == 0 {
		s.Notef("%s", empty)
		return
	}
	columns(s.Out, t.fit(s.OutStyle))
}

// fit returns the heading and the rows as they can be shown.
func (t *Table) fit(style Style) [][]string {
	heading := make([]string, len(t.heading))
	for i, h := range t.heading {
		heading[i] = style.Faint(h)
	}
	rows := [][]string{heading}
	for _, row := range t.rows {
		fit := make([]string, len(row))
		for i, c := range row {
			fit[i] = style.fit(c)
		}
		rows = append(rows, fit)
	}
	return rows
}

// NoteTable writes a table for the person beside the data.
func (s *IO) NoteTable(t *Table) {
	beside := *s
	beside.Out, beside.OutStyle = s.Err, s.ErrStyle
	beside.Table(t, "")
}

// Pairs writes names with their values, one a line; those without a value are
// left out. It is how one thing is shown.
func (s *IO) Pairs(pairs ...[2]string) {
	var rows [][]string
	for _, p := range pairs {
		if p[1] != "" {
			rows = append(rows, []string{s.OutStyle.Faint(p[0]), s.OutStyle.fitLines(p[1], "\n  ")})
		}
	}
	columns(s.Out, rows)
}

func columns(w io.Writer, rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], lipgloss.Width(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-lipgloss.Width(cell)+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// Plain makes a text from elsewhere fit to be shown: what it could play with the
// terminal by, control characters and those that turn the direction of a line,
// is replaced.
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// colours are the escapes that Style makes: ECMA-48's SGR, and nothing else.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// fit is Plain for a text that may be coloured, where colours are on.
func (s Style) fit(text string) string {
	if !s.On {
		return Plain(text)
	}
	var b strings.Builder
	from := 0
	for _, at := range colours.FindAllStringIndex(text, -1) {
		b.WriteString(Plain(text[from:at[0]]))
		b.WriteString(text[at[0]:at[1]])
		from = at[1]
	}
	b.WriteString(Plain(text[from:]))
	return b.String()
}

// fitLines is fit for a text of several lines.
func (s Style) fitLines(text, separator string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = s.fit(line)
	}
	return strings.Join(lines, separator)
}
