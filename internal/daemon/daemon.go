// Package daemon runs a program's long-lived parts: all begin together, the
// first that fails ends all, and a panic is an error with its stack. It knows
// nothing of what the parts do.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
)

// Task is a long-lived part. It returns when ctx ends, with nil, or before
// with the reason.
type Task struct {
	Name string
	Run  func(ctx context.Context) error
}

// errDone ends the siblings of a task that returned early without an error.
var errDone = errors.New("daemon: a part has ended")

// Run starts every task and waits for all. The first error cancels the others
// and is returned; the end of ctx is no error.
func Run(ctx context.Context, tasks ...Task) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	for _, t := range tasks {
		wg.Go(func() {
			err := protect(ctx, t)
			// What is cancelled while nobody has ended ctx has failed by itself.
			if err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
				mu.Lock()
				if first == nil {
					first = fmt.Errorf("%s: %w", t.Name, err)
				}
				mu.Unlock()
			}
			if err == nil && ctx.Err() == nil {
				err = errDone
			}
			cancel(err)
		})
	}
	wg.Wait()
	return first
}

func protect(ctx context.Context, t Task) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return t.Run(ctx)
}

// SignalContext returns a context that ends at SIGINT or SIGTERM. A second
// signal ends the process at once.
func SignalContext(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the next signal has its default effect
	return ctx, stop
}
