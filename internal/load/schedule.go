package load

import (
	"context"
	"math"
	"runtime"
	"sync"
	"time"
)

// openLoop calls send for each of n senders in turn, rate times a second in
// all, for the duration (for ever when it is 0), and returns how often it was
// to be called. Each call has its time, fixed beforehand: one that comes late
// moves none of those after it, and is told when it was due.
//
// The senders are shared out among a few goroutines, so send must not wait for
// an answer.
func openLoop(ctx context.Context, n int, rate float64, duration time.Duration, send func(i int, due time.Time)) (asked int64) {
	if n < 1 || rate <= 0 {
		return 0
	}
	workers := min(n, 2*runtime.GOMAXPROCS(0))
	interval := float64(time.Second) / rate
	asked = -1
	if duration > 0 {
		asked = int64(math.Ceil(float64(duration)/interval - 1e-6))
	}
	start := time.Now()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			// Call k is sender k%n's; worker w has the senders w, w+workers, …
			for round := int64(0); ; round += int64(n) {
				for i := w; i < n; i += workers {
					k := round + int64(i)
					if asked >= 0 && k >= asked {
						return
					}
					due := start.Add(time.Duration(float64(k) * interval))
					if pause(ctx, time.Until(due)) != nil {
						return
					}
					send(i, due)
				}
			}
		})
	}
	wg.Wait()
	return max(asked, 0)
}
