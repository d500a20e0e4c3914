package agent

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// clock is this machine's clock, and how far the server's is from it.
type clock struct {
	machine func() time.Time // time.Now, unless a test says else
	ahead   atomic.Int64     // of this machine's: the server's, in nanoseconds
}

// skewAllowed is how far the clocks may be from each other without a word.
const skewAllowed = 30 * time.Second

// now is this machine's time.
func (c *clock) now() time.Time {
	if c.machine == nil {
		return time.Now()
	}
	return c.machine()
}

// server is the server's time, as far as it is known.
func (c *clock) server() time.Time { return c.now().Add(time.Duration(c.ahead.Load())) }

// compare notes what the server's clock has just shown, and says so in the log
// when the two differ by much.
func (c *clock) compare(ctx context.Context, log *slog.Logger, server time.Time) {
	if server.IsZero() {
		return
	}
	ahead := server.Sub(c.now())
	c.ahead.Store(int64(ahead))
	if ahead.Abs() > skewAllowed {
		log.WarnContext(ctx, "this machine's clock and the server's differ: set this one right, or certificates will be refused",
			"server_ahead_by", ahead.Round(time.Second).String())
	}
}

// dateOf asks a server for its time, by the Date of an answer (RFC 9110, section
// 6.6.1). It is zero when there is none.
func dateOf(ctx context.Context, client *http.Client, server string) time.Time {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(server, "/")+"/healthz", http.NoBody)
	if err != nil {
		return time.Time{}
	}
	res, err := client.Do(req)
	if err != nil {
		return time.Time{}
	}
	defer res.Body.Close()
	at, err := http.ParseTime(res.Header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return at
}
