package link

import (
	"context"
	"runtime"
)

// crew is the goroutines that do what needs much stack. A goroutine keeps the
// stack that it once needed, so that one for each of ten thousand connections
// should do no more than wait and read: this halves what it holds.
type crew struct{ jobs chan func() }

// hire starts the crew, which works until ctx ends.
func (c *crew) hire(ctx context.Context) {
	c.jobs = make(chan func())
	for range 4 * runtime.GOMAXPROCS(0) {
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case run := <-c.jobs:
					run()
				}
			}
		}()
	}
}

// do has run done, and returns when it is. done has room for one value, and is
// the caller's alone.
func (c *crew) do(done chan struct{}, run func()) {
	c.start(func() {
		run()
		done <- struct{}{}
	})
	<-done
}

// start has run done by somebody. When all of the crew have work, perhaps work
// that waits, somebody joins for this once.
func (c *crew) start(run func()) {
	select {
	case c.jobs <- run:
	default:
		go run()
	}
}
