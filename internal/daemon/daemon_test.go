package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"stella-ops.org/stella/internal/daemon"
)

// waits is a part that lives until it is told to end.
func waits(ended *atomic.Int32) daemon.Task {
	return daemon.Task{Name: "waits", Run: func(ctx context.Context) error {
		<-ctx.Done()
		ended.Add(1)
		return ctx.Err() // as many do, instead of nil
	}}
}

func fails(name string, err error) daemon.Task {
	return daemon.Task{Name: name, Run: func(context.Context) error { return err }}
}

func TestFirstErrorEndsAll(t *testing.T) {
	t.Parallel()
	var ended atomic.Int32
	cause := errors.New("the disk is gone")
	late := daemon.Task{Name: "late", Run: func(ctx context.Context) error {
		<-ctx.Done()
		if context.Cause(ctx) == nil || errors.Is(context.Cause(ctx), context.Canceled) {
			t.Errorf("the others are not told why: %v", context.Cause(ctx))
		}
		return errors.New("and I fell over it")
	}}
	err := daemon.Run(t.Context(), waits(&ended), fails("store", cause), late)
	if !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "store: ") {
		t.Errorf("Run: %v", err)
	}
	if ended.Load() != 1 {
		t.Error("a part still runs")
	}
}

func TestEndOfContextIsNoError(t *testing.T) {
	t.Parallel()
	var ended atomic.Int32
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := daemon.Run(ctx, waits(&ended), waits(&ended)); err != nil || ended.Load() != 2 {
		t.Errorf("Run: %v, %d have ended", err, ended.Load())
	}
	// But a part that fails on the way out is one.
	failure := errors.New("not everything is on disk")
	err := daemon.Run(ctx, waits(&ended), daemon.Task{Name: "store", Run: func(ctx context.Context) error {
		<-ctx.Done()
		return failure
	}})
	if !errors.Is(err, failure) {
		t.Errorf("Run: %v", err)
	}
}

// Something inside a part was cancelled, and not the part: that is a failure
// like any other.
func TestCancelledByItselfIsAnError(t *testing.T) {
	t.Parallel()
	var ended atomic.Int32
	err := daemon.Run(t.Context(), waits(&ended), fails("link", fmt.Errorf("call: %w", context.Canceled)))
	if err == nil || !strings.HasPrefix(err.Error(), "link: ") {
		t.Errorf("Run: %v", err)
	}
}

func TestPanicIsAnError(t *testing.T) {
	t.Parallel()
	var ended atomic.Int32
	err := daemon.Run(t.Context(), waits(&ended), daemon.Task{Name: "http", Run: func(context.Context) error { panic("boom") }})
	if err == nil || !strings.Contains(err.Error(), "http: panic: boom") || !strings.Contains(err.Error(), "daemon_test.go") {
		t.Errorf("Run: %v", err)
	}
}

func TestPartThatReturnsEarlyEndsTheOthers(t *testing.T) {
	t.Parallel()
	var ended atomic.Int32
	if err := daemon.Run(t.Context(), waits(&ended), fails("short", nil)); err != nil || ended.Load() != 1 {
		t.Errorf("Run: %v, %d have ended", err, ended.Load())
	}
	if err := daemon.Run(t.Context()); err != nil {
		t.Errorf("Run of nothing: %v", err)
	}
}
