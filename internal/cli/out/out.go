// Package out writes what a user of the command line sees: data as a table,
// JSON or YAML, and progress beside it. It knows nothing of the API and of
// what the words mean.
package out

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// IO is where a command reads and writes: data on Out, all else on Err.
type IO struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer

	// InTTY, OutTTY and ErrTTY say behind which of them a person sits.
	InTTY  bool
	OutTTY bool
	ErrTTY bool
	// OutStyle and ErrStyle colour what goes there, or do not.
	OutStyle Style
	ErrStyle Style
}

// System returns the process's own streams. NO_COLOR (see no-color.org) and a
// dumb terminal are respected.
func System() *IO {
	s := &IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	s.InTTY, s.OutTTY, s.ErrTTY = isTerminal(os.Stdin), isTerminal(os.Stdout), isTerminal(os.Stderr)
	colour := os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	s.OutStyle, s.ErrStyle = Style{s.OutTTY && colour}, Style{s.ErrTTY && colour}
	return s
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// Printf writes data.
func (s *IO) Printf(format string, args ...any) { fmt.Fprintf(s.Out, format, args...) }

// Println writes a line of data.
func (s *IO) Println(args ...any) { fmt.Fprintln(s.Out, args...) }

// Notef writes a line for the person beside the data. What others said in it is
// made fit to be shown, as Plain does.
func (s *IO) Notef(format string, args ...any) {
	fmt.Fprintln(s.Err, s.ErrStyle.fitLines(fmt.Sprintf(format, args...), "\n"))
}

// Ask asks a question that is answered by yes or no; anything but yes is no.
func (s *IO) Ask(format string, args ...any) (bool, error) {
	fmt.Fprintf(s.Err, format+" [y/N] ", args...)
	line, err := s.ReadLine()
	if err != nil {
		return false, err
	}
	switch strings.ToLower(line) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}

// ReadLine reads one line of the input, without the spaces around it. Nothing
// behind the line is taken away.
func (s *IO) ReadLine() (string, error) {
	line, err := bufio.NewReaderSize(oneByOne{s.In}, 16).ReadString('\n')
	if err != nil && line == "" {
		return "", err
	}
	return strings.TrimSpace(line), nil
}

// oneByOne keeps a buffered reader from reading ahead.
type oneByOne struct{ io.Reader }

func (r oneByOne) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1)]) }

// ReadSecret reads a line that a terminal does not show.
func (s *IO) ReadSecret(prompt string) (string, error) {
	f, ok := s.In.(*os.File)
	if !ok || !s.InTTY {
		return s.ReadLine()
	}
	fmt.Fprint(s.Err, prompt)
	secret, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(s.Err)
	return strings.TrimSpace(string(secret)), err
}

// width is how many columns the person's terminal has; 0 when nobody knows.
func (s *IO) width() int {
	f, ok := s.Err.(*os.File)
	if !ok {
		return 0
	}
	w, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return w
}
