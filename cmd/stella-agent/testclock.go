//go:build stella_test_clock

package main

import (
	"os"
	"time"
)

// A build for tests alone, which cannot set a machine's clock: STELLA_CLOCK_AHEAD
// is how far it is ahead, as in 8760h.
func init() {
	ahead, err := time.ParseDuration(os.Getenv("STELLA_CLOCK_AHEAD"))
	if err != nil {
		return
	}
	machineClock = func() time.Time { return time.Now().Add(ahead) }
}
