package load

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// call is one that openLoop made.
type call struct {
	sender  int
	due, at time.Duration // since the start
}

// record runs an open loop in which every call takes a while.
func record(t *testing.T, n int, rate float64, duration, takes time.Duration) (calls []call, asked int64) {
	t.Helper()
	var mu sync.Mutex
	start := time.Now()
	asked = openLoop(t.Context(), n, rate, duration, func(i int, due time.Time) {
		mu.Lock()
		calls = append(calls, call{i, due.Sub(start), time.Since(start)})
		mu.Unlock()
		time.Sleep(takes) //nolint:forbidigo // instant in the bubble
	})
	return calls, asked
}

// However long a call takes, the times of the others stay as they were: what
// waits is seen as late, and nothing is left out.
func TestOpenLoopDoesNotWait(t *testing.T) {
	t.Parallel()
	for _, takes := range []time.Duration{0, 50 * time.Millisecond, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			const n, rate = 7, 100
			calls, asked := record(t, n, rate, 2*time.Second, takes)
			if int64(len(calls)) != asked || asked != 200 {
				t.Fatalf("%s each: %d calls of %d asked, want 200", takes, len(calls), asked)
			}
			slices.SortFunc(calls, func(a, b call) int { return int(a.due - b.due) })
			each := map[int]int{}
			for k, c := range calls {
				want := time.Duration(k) * time.Second / rate
				if (c.due - want).Abs() > time.Microsecond {
					t.Errorf("%s each: call %d was due at %s, want %s", takes, k, c.due, want)
				}
				if c.at < c.due {
					t.Errorf("%s each: call %d came %s early", takes, k, c.due-c.at)
				}
				each[c.sender]++
			}
			for i := range n {
				if each[i] < 200/n-1 || each[i] > 200/n+2 {
					t.Errorf("sender %d was called %d times of 200", i, each[i])
				}
			}
			if last := calls[len(calls)-1]; takes > time.Second && last.at-last.due < time.Second {
				t.Errorf("the last call was only %s late, with calls that take %s", last.at-last.due, takes)
			}
		})
	}
}

func TestOpenLoopIsAsExactAsItsRate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n    int
		rate float64
		for_ time.Duration
		want int64
	}{{1, 1, 10 * time.Second, 10}, {10_000, 333, 3 * time.Second, 999}, {3, 0.5, 5 * time.Second, 3}, {5, 0, time.Second, 0}, {0, 10, time.Second, 0}} {
		synctest.Test(t, func(t *testing.T) {
			calls, asked := record(t, c.n, c.rate, c.for_, 0)
			if asked != c.want || int64(len(calls)) != c.want {
				t.Errorf("%d senders at %v for %s: %d asked, %d called, want %d", c.n, c.rate, c.for_, asked, len(calls), c.want)
			}
		})
	}
}

func TestOpenLoopEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1450*time.Millisecond)
		defer cancel()
		var mu sync.Mutex
		n := 0
		openLoop(ctx, 2, 10, 0, func(int, time.Time) {
			mu.Lock()
			defer mu.Unlock()
			n++
		})
		if n != 15 {
			t.Errorf("%d calls in 1.45 s at 10 a second", n)
		}
	})
}
