package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"stella-ops.org/stella/api"
)

// A request that may be repeated is tried this often, with waits that double
// from the first and are jittered, so that many clients do not come back at
// the same time.
const (
	attempts  = 4
	firstWait = 200 * time.Millisecond
	// mostAsked is the longest wait that a server may ask for; who is to wait for
	// longer is told so instead.
	mostAsked = time.Minute
)

// retry calls f, and again after an error that may be gone by then: after as long
// as the server asks for, if it does.
func retry(ctx context.Context, repeat bool, f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil || !repeat || attempt == attempts || !passing(err) {
			return err
		}
		if !await(ctx, err, backoff(attempt, 2*time.Second)) {
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

// await waits, after an error, before another try: as long as delay says. It reports
// false when there is not to be one.
func await(ctx context.Context, err error, otherwise time.Duration) bool {
	wait, worth := delay(ctx, err, otherwise)
	return worth && pause(ctx, wait) == nil
}

// delay is how long to wait after an error: otherwise, or as long as the server asks
// for, and a little more, so that not all whom it has told come at once. It is not
// worth waiting for longer than a minute, or than ctx lasts.
func delay(ctx context.Context, err error, otherwise time.Duration) (wait time.Duration, worth bool) {
	p, ok := errors.AsType[*api.Problem](err)
	if !ok || p.RetryAfter <= 0 {
		return otherwise, true
	}
	if p.RetryAfter > mostAsked {
		return 0, false
	}
	if end, limited := ctx.Deadline(); limited && time.Until(end) < p.RetryAfter {
		return 0, false
	}
	return p.RetryAfter + rand.N(p.RetryAfter/10+1), true //nolint:gosec // jitter is no secret
}

// retryAfter reads the header Retry-After (RFC 9110, section 10.2.3): seconds, or a
// date of HTTP. It is 0 for a date that has passed, and for what is neither.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
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
