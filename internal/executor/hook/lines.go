package hook

import (
	"bytes"
	"fmt"
	"strings"

	"stella-ops.org/stella/internal/deploy"
)

// MaxLine is the length in bytes at which a line of output is cut.
const MaxLine = 16 << 10

// Lines is a writer that gives each line written to it to a log. Close gives
// a last line that has no end. It is for one goroutine.
type Lines struct {
	log    deploy.Log
	stream string
	buf    []byte
	cut    int // bytes of the line at hand that were dropped
}

// NewLines makes a writer for one stream (stdout, stderr or system).
func NewLines(log deploy.Log, stream string) *Lines {
	return &Lines{log: log, stream: stream}
}

// Write never fails.
func (l *Lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		room := min(MaxLine-len(l.buf), len(line))
		l.buf = append(l.buf, line[:room]...)
		l.cut += len(line) - room
		if ended {
			l.flush()
		}
		p = rest
	}
	return n, nil
}

// Close gives what is left.
func (l *Lines) Close() error {
	if len(l.buf) > 0 {
		l.flush()
	}
	return nil
}

func (l *Lines) flush() {
	text := strings.ToValidUTF8(strings.TrimSuffix(string(l.buf), "\r"), "\uFFFD")
	if l.cut > 0 {
		text += fmt.Sprintf(" … (%d bytes of this line are left out)", l.cut)
	}
	l.log.Line(l.stream, text)
	l.buf, l.cut = l.buf[:0], 0
}
