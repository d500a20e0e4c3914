package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"stella-ops.org/stella/api"
)

// EventFilter picks events.
type EventFilter struct {
	// Kinds are kinds of events, as in task.failed, or what they begin with,
	// as in agent; none stands for all.
	Kinds []string
	// Agent is an id or name.
	Agent string
	// Connected, when set, is called each time that the stream stands: what
	// happens from then on is told. What happened while it did not stand is
	// not told; the lists have it.
	Connected func()
	// Lost, when set, is called when the stream stands no more, and each time
	// that it could not be made again, before another try. The error is nil
	// when the server ended the stream.
	Lost func(err error)
}

const eventsPath = "/api/v1/events"

// silence is how long a stream may say nothing: the server shows a sign of life
// every 15 seconds.
const silence = 45 * time.Second

// Events walks what happens, as it happens. It ends with ctx, whose error is
// the last that it gives, or with an error that trying again does not mend. A
// connection that is lost is made again.
func (c *Client) Events(ctx context.Context, f EventFilter) iter.Seq2[api.Event, error] {
	q := url.Values{"kind": f.Kinds}
	if f.Agent != "" {
		q.Set("agent", f.Agent)
	}
	return func(yield func(api.Event, error) bool) {
		failures := 0
		for {
			stopped := false
			err := c.stream(ctx, q, func() {
				failures = 0
				if f.Connected != nil {
					f.Connected()
				}
			}, func(e api.Event) bool {
				stopped = !yield(e, nil)
				return !stopped
			})
			if stopped {
				return
			}
			if ctx.Err() != nil {
				yield(api.Event{}, ctx.Err())
				return
			}
			failures++
			wait, worth := delay(ctx, err, backoff(failures, followWait))
			if err != nil && (!passing(err) || !worth || failures == followAttempts) {
				yield(api.Event{}, err)
				return
			}
			if f.Lost != nil {
				f.Lost(err)
			}
			if err := pause(ctx, wait); err != nil {
				yield(api.Event{}, err)
				return
			}
		}
	}
}

// stream reads one stream of events until it ends, or take wants no more.
func (c *Client) stream(ctx context.Context, q url.Values, connected func(), take func(api.Event) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	res, err := c.send(ctx, call{method: http.MethodGet, path: eventsPath, query: q}, nil, "text/event-stream")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	watch := time.AfterFunc(silence, func() { cancel(fmt.Errorf("the stream has said nothing for %s", silence)) })
	defer watch.Stop()
	connected()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		watch.Reset(silence)
		data, ok := strings.CutPrefix(lines.Text(), "data:")
		if !ok {
			continue // the kind and the number are in the data, too
		}
		var e api.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return c.connectError(ctx, fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err))
		}
		if !take(e) {
			return nil
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, context.Canceled) {
		return c.connectError(ctx, err)
	}
	return nil
}
