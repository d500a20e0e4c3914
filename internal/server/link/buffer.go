package link

import (
	"io"
	"slices"
	"sync"
)

// buffer holds one message while it is read or written. Buffers are shared by
// all connections: at most as many are in use as messages are under way.
type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, 1024)} }}

// keepBuffers is the size up to which a buffer is used again.
const keepBuffers = 64 << 10

func takeBuffer() *buffer {
	b, _ := buffers.Get().(*buffer)
	b.b = b.b[:0]
	return b
}

func (b *buffer) release() {
	if cap(b.b) <= keepBuffers {
		buffers.Put(b)
	}
}

// read adds n bytes of r, and has each arrival heard. There is room only for
// what has come: who claims much and sends little must not cost much.
func (b *buffer) read(r io.Reader, n int, heard func()) error {
	for n > 0 {
		if len(b.b) == cap(b.b) {
			b.b = slices.Grow(b.b, min(n, max(len(b.b), 1024)))
		}
		got, err := r.Read(b.b[len(b.b):min(len(b.b)+n, cap(b.b))])
		b.b = b.b[:len(b.b)+got]
		n -= got
		if got > 0 {
			heard()
		}
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}
