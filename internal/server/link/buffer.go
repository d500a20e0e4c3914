package link

import (
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

// grow adds n bytes, whatever they are.
func (b *buffer) grow(n int) { b.b = slices.Grow(b.b, n)[:len(b.b)+n] }
