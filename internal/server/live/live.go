// Package live writes streams of server-sent events (the HTML standard, section
// 9.2): each event with a deadline of its own, and a sign of life while there
// is nothing to say.
//
// It knows nothing of what the events mean.
package live

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

const (
	// KeepAlive is how often a stream that has nothing to say shows that it
	// lives.
	KeepAlive = 15 * time.Second
	// writeWithin is how long a reader may take for what is written; one that
	// takes longer is too slow.
	writeWithin = 10 * time.Second
)

// Writer writes one stream. It is for one goroutine.
type Writer struct {
	w       http.ResponseWriter
	control *http.ResponseController
	buf     bytes.Buffer
}

// New begins a stream: from here on, the answer is one of status 200.
func New(w http.ResponseWriter) (*Writer, error) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // for a proxy that collects answers
	l := &Writer{w: w, control: http.NewResponseController(w)}
	w.WriteHeader(http.StatusOK)
	return l, l.Comment("ok")
}

// Event writes one event. Its data is one line, as JSON is.
func (l *Writer) Event(id uint64, kind string, data []byte) error {
	l.buf.Reset()
	l.buf.WriteString("id: ")
	l.buf.WriteString(strconv.FormatUint(id, 10))
	l.buf.WriteString("\nevent: ")
	l.buf.WriteString(kind)
	l.buf.WriteString("\ndata: ")
	l.buf.Write(data)
	l.buf.WriteString("\n\n")
	return l.flush()
}

// Comment writes a line that readers pass over.
func (l *Writer) Comment(text string) error {
	l.buf.Reset()
	fmt.Fprintf(&l.buf, ": %s\n\n", text)
	return l.flush()
}

// flush sends what is in the buffer. When the reader does not take it in time,
// the error is os.ErrDeadlineExceeded.
func (l *Writer) flush() error {
	began := time.Now()
	if err := l.control.SetWriteDeadline(began.Add(writeWithin)); err != nil {
		return fmt.Errorf("limit the time of writing: %w", err)
	}
	_, err := l.w.Write(l.buf.Bytes())
	if err == nil {
		err = l.control.Flush()
	}
	if err != nil {
		if time.Since(began) >= writeWithin { // HTTP/2 says only that the stream is closed
			return errors.Join(os.ErrDeadlineExceeded, err)
		}
		return err
	}
	// Over HTTP/2 a deadline that passes ends the stream even when nothing is
	// being written.
	return l.control.SetWriteDeadline(time.Time{})
}
