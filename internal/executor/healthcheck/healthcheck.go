// Package healthcheck waits until a version works: it tries a probe every
// interval until it has passed often enough in a row, or time is up.
//
// It knows no executor; a probe that needs one (a program in a container, an
// image's own HEALTHCHECK) is given to Wait by the executor.
package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

// The defaults of a health check.
const (
	DefaultInterval = time.Second
	DefaultTimeout  = 60 * time.Second
	// probeTimeout is the longest that a single try may take.
	probeTimeout = 10 * time.Second
)

// Probe tries once. Its error says what was seen instead of health.
type Probe func(ctx context.Context) error

// dead is a probe's error after which no other try can help.
type dead struct{ error }

func (d dead) Unwrap() error { return d.error }

// Dead marks a probe's error as final: the version has ended and will not come
// back.
func Dead(err error) error { return dead{err} }

// Wait tries the probe until it has passed hc.Successes times in a row. Its
// error is a deploy.Error of type health_check_failed that says the last
// answer seen.
func Wait(ctx context.Context, hc *api.HealthCheck, probe Probe) error {
	interval, timeout := DefaultInterval, DefaultTimeout
	if hc.IntervalMs > 0 {
		interval = time.Duration(hc.IntervalMs) * time.Millisecond
	}
	if hc.Timeout > 0 {
		timeout = time.Duration(hc.Timeout) * time.Second
	}
	needed := max(hc.Successes, 1)
	all, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	last := errors.New("it was not tried")
	for passed, tries := 0, 1; ; tries++ {
		err := try(all, probe)
		var d dead
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			if passed++; passed >= needed {
				return nil
			}
			last = fmt.Errorf("%d of %d passes in a row", passed, needed)
		case errors.As(err, &d):
			return deploy.Fail(api.ErrHealthCheckFailed, "the new version is not healthy: %w", err)
		default:
			passed = 0
			// What cut the last try short says less than the try before it.
			if all.Err() == nil || tries == 1 {
				last = err
			}
		}
		select {
		case <-all.Done():
		case <-tick.C:
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case all.Err() != nil:
			return deploy.Fail(api.ErrHealthCheckFailed,
				"the version is not healthy after %v (%s check, tried %d times); last seen: %w", timeout, hc.Type, tries, last)
		}
	}
}

func try(ctx context.Context, probe Probe) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return probe(ctx)
}

// HTTP makes the probe of an http check.
func HTTP(hc *api.HealthCheck) Probe {
	// A client of its own, without kept connections: each try must reach what
	// runs now, not what ran at the try before.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, hc.URL, nil)
		if err != nil {
			return Dead(err)
		}
		req.Header.Set("User-Agent", "stella-agent")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			return fmt.Errorf("%s while reading the answer: %w", resp.Status, err)
		}
		ok := resp.StatusCode >= 200 && resp.StatusCode <= 399
		if hc.ExpectedStatus != 0 {
			ok = resp.StatusCode == hc.ExpectedStatus
		}
		if !ok {
			return fmt.Errorf("%s answered %s: %s", hc.URL, resp.Status, excerpt(string(body)))
		}
		if !strings.Contains(string(body), hc.ExpectedBody) {
			return fmt.Errorf("%s answered %s without %q: %s", hc.URL, resp.Status, hc.ExpectedBody, excerpt(string(body)))
		}
		return nil
	}
}

// TCP makes the probe of a tcp check.
func TCP(hc *api.HealthCheck) Probe {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", hc.Address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// Validate says what is wrong with a health check; types are those that the
// executor can do.
func Validate(hc *api.HealthCheck, types ...string) error {
	if hc == nil {
		return nil
	}
	known := false
	for _, t := range types {
		known = known || t == hc.Type
	}
	if !known {
		return deploy.Fail(api.ErrInvalidPayload, "healthCheck.type %q is not possible here; use one of %s", hc.Type, strings.Join(types, ", "))
	}
	switch hc.Type {
	case "http":
		u, err := url.Parse(hc.URL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return deploy.Fail(api.ErrInvalidPayload, "healthCheck.url %q is no http or https URL", hc.URL)
		}
	case "tcp":
		if _, _, err := net.SplitHostPort(hc.Address); err != nil {
			return deploy.Fail(api.ErrInvalidPayload, "healthCheck.address %q is no host:port: %w", hc.Address, err)
		}
	case "command":
		if len(hc.Command) == 0 || hc.Command[0] == "" {
			return deploy.Fail(api.ErrInvalidPayload, "healthCheck.command is empty; name the program and its arguments")
		}
	}
	return nil
}

func excerpt(body string) string {
	body = strings.Join(strings.Fields(strings.ToValidUTF8(body, "\uFFFD")), " ")
	if len(body) > 200 {
		body = strings.ToValidUTF8(body[:200], "") + "…"
	}
	if body == "" {
		return "(empty)"
	}
	return body
}
