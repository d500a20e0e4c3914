package out

import (
	"fmt"
	"io"
	"strings"

	"charm.land/lipgloss/v2"
)

// Table is rows below a heading, in columns as wide as they need.
type Table struct {
	heading []string
	rows    [][]string
}

// NewTable returns a table with the headings of its columns.
func NewTable(heading ...string) *Table { return &Table{heading: heading} }

// Row adds a row. Cells may be coloured. What could break the table's lines,
// or play with the terminal, is shown as an escape.
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
	heading := make([]string, len(t.heading))
	for i, h := range t.heading {
		heading[i] = s.OutStyle.Faint(h)
	}
	columns(s.Out, append([][]string{heading}, t.rows...))
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
			rows = append(rows, []string{s.OutStyle.Faint(p[0]), strings.ReplaceAll(p[1], "\n", "\n  ")})
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

// Plain makes a text from elsewhere fit to be shown: control characters, with
// which it could play with the terminal, are replaced.
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, text)
}
