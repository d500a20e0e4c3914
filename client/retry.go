package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"stella-ops.org/stella/api"
)

// A request that may be repeated is tried this often, with waits that double
// from the first and are jittered, so that many clients do not come back at
// the same time.
const (
	attempts  = 4
	firstWait = 200 * time.Millisecond
)

// retry calls f, and again after an error that may be gone by then.
func retry(ctx context.Context, repeat bool, f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil || !repeat || attempt == attempts || !passing(err) {
			return err
		}
		if pause(ctx, backoff(attempt, 2*time.Second)) != nil {
			return err
		}
	}
}

// passing reports whether an error may be gone when the request is repeated.
func passing(err error) bool {
	if connect, ok := errors.AsType[*ConnectError](err); ok {
		return !connect.Untrusted && !errors.Is(err, context.DeadlineExceeded)
	}
	if p, ok := errors.AsType[*api.Problem](err); ok {
		switch p.Status {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
	}
	return false
}

// backoff is how long to wait after so many failed attempts.
func backoff(attempt int, most time.Duration) time.Duration {
	wait := min(firstWait<<min(attempt-1, 10), most)
	return wait/2 + rand.N(wait/2) //nolint:gosec // jitter is no secret
}

// pause waits, or returns the reason why the context has ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
