package client

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"stella-ops.org/stella/api"
)

func TestRetryAfterIsRead(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"7":                             7 * time.Second,
		"3600":                          time.Hour,
		"-1":                            0,
		"1.5":                           0,
		"soon":                          0,
		"99999999999999999999":          0,
		"Sun, 01 Mar 2026 12:00:30 GMT": 30 * time.Second,
		"Sun, 01 Mar 2026 11:59:30 GMT": 0, // it has passed
		// The forms of old, which RFC 9110 wants read.
		"Sunday, 01-Mar-26 12:00:30 GMT": 30 * time.Second,
		"Sun Mar  1 12:00:30 2026":       30 * time.Second,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

// A client comes back when the server has asked it to, and not before.
func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]func() (value string, at time.Time){
		"seconds": func() (string, time.Time) { return "1", time.Now().Add(time.Second) },
		"a date": func() (string, time.Time) {
			at := time.Now().Add(2 * time.Second).Truncate(time.Second)
			return at.UTC().Format(http.TimeFormat), at
		},
	} {
		for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
			t.Run(name+" with "+http.StatusText(status), func(t *testing.T) {
				t.Parallel()
				var calls atomic.Int64
				var notBefore time.Time
				c := newTestClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					if calls.Add(1) == 1 {
						value, at := header()
						notBefore = at
						w.Header().Set("Retry-After", value)
						w.WriteHeader(status)
						return
					}
					if early := time.Until(notBefore); early > 0 {
						t.Errorf("it came %s too early", early)
					}
					_, _ = w.Write([]byte(`{}`))
				}))
				if _, err := c.Task(t.Context(), "x"); err != nil || calls.Load() != 2 {
					t.Errorf("%d calls, %v", calls.Load(), err)
				}
			})
		}
	}
}

// Nobody waits for longer than a minute, or than there is time: they are told at
// once, and for how long they would have to.
func TestRetryAfterThatIsTooLong(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		header string
		within time.Duration
	}{
		"an hour":                 {"3600", 0},
		"longer than the context": {"20", 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			c := newTestClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				calls.Add(1)
				w.Header().Set("Retry-After", tc.header)
				w.WriteHeader(http.StatusTooManyRequests)
			}))
			ctx := t.Context()
			if tc.within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tc.within)
				defer cancel()
			}
			began := time.Now()
			_, err := c.Task(ctx, "x")
			p, ok := errors.AsType[*api.Problem](err)
			if !ok || p.Status != http.StatusTooManyRequests || p.RetryAfter < 20*time.Second || calls.Load() != 1 || time.Since(began) > 10*time.Second {
				t.Errorf("%d calls, after %s: %v", calls.Load(), time.Since(began), err)
			}
		})
	}
}
