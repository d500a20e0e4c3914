package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/healthcheck"
)

const (
	// steadyFor is how long a container without any health check must have
	// run: one that crashes at its start is gone by then.
	steadyFor = 1500 * time.Millisecond
	// lastWords is how many of its last lines a failed container leaves.
	lastWords = 50
)

func hasCheck(hc *container.HealthConfig) bool {
	return hc != nil && len(hc.Test) > 0 && hc.Test[0] != "NONE"
}

// awaitHealth waits until the new container works.
func (d *deployment) awaitHealth(ctx context.Context) error {
	var hc *api.HealthCheck
	if d.payload != nil {
		hc = d.payload.Config.HealthCheck
	}
	err := d.wait(ctx, d.state.New, hc)
	if err == nil || ctx.Err() != nil {
		return err
	}
	lines := d.lastLines(context.WithoutCancel(ctx), d.state.New)
	d.env.Log.Line("system", fmt.Sprintf("the last %d lines of the failed container:", len(lines)))
	for _, line := range lines {
		d.env.Log.Line("stderr", line)
	}
	var failed *deploy.Error
	if errors.As(err, &failed) && len(lines) > 0 {
		failed.Message += fmt.Sprintf("; the container's last line: %q", lines[len(lines)-1])
		return failed.With("containerLogs", lines)
	}
	return err
}

// wait waits for a container's health: by the given check, by the image's
// HEALTHCHECK, or until it has kept running for a while.
func (t *target) wait(ctx context.Context, id string, hc *api.HealthCheck) error {
	c, err := t.find(ctx, id)
	if err != nil {
		return err
	}
	if c == nil {
		return deploy.Fail(api.ErrHealthCheckFailed, "the container %.12s is gone", id)
	}
	if hc == nil && hasCheck(c.Config.Healthcheck) {
		hc = &api.HealthCheck{Type: "docker", IntervalMs: 200, Timeout: patience(c.Config.Healthcheck)}
	}
	switch {
	case hc == nil:
		return healthcheck.Wait(ctx, &api.HealthCheck{Type: "running", IntervalMs: 100, Timeout: 15}, t.steady(id, c.RestartCount))
	case hc.Type == "docker" && !hasCheck(c.Config.Healthcheck):
		return invalid("the health check is of type docker, but the container %s has no HEALTHCHECK", nameOf(c))
	}
	probe := map[string]healthcheck.Probe{
		"http": healthcheck.HTTP(hc), "tcp": healthcheck.TCP(hc),
		"command": t.commandProbe(id, hc.Command), "docker": func(context.Context) error { return nil },
	}[hc.Type]
	return healthcheck.Wait(ctx, hc, func(ctx context.Context) error {
		// A container that has ended is not waited for.
		c, err := t.alive(ctx, id)
		if err != nil {
			return err
		}
		if hc.Type == "docker" {
			return healthOf(c)
		}
		return probe(ctx)
	})
}

// patience is how long an image's own HEALTHCHECK may take to come to a
// verdict, in seconds.
func patience(hc *container.HealthConfig) int64 {
	interval, timeout, retries := hc.Interval, hc.Timeout, hc.Retries
	if interval == 0 {
		interval = 30 * time.Second
	}
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	if retries == 0 {
		retries = 3
	}
	all := hc.StartPeriod + time.Duration(retries)*(interval+timeout) + 5*time.Second
	return int64(max(all, healthcheck.DefaultTimeout) / time.Second)
}

// alive returns the container, or an error when it does not run; one that will
// not run again is a final error.
func (t *target) alive(ctx context.Context, id string) (*container.InspectResponse, error) {
	c, err := t.find(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case c == nil:
		return nil, healthcheck.Dead(fmt.Errorf("the container %.12s is gone", id))
	case c.State.Restarting:
		return nil, fmt.Errorf("the container %s is restarting after exit code %d", nameOf(c), c.State.ExitCode)
	case !c.State.Running:
		why := ""
		if c.State.OOMKilled {
			why = ", out of memory"
		}
		return nil, healthcheck.Dead(fmt.Errorf("the container %s has ended with exit code %d%s", nameOf(c), c.State.ExitCode, why))
	}
	return c, nil
}

func healthOf(c *container.InspectResponse) error {
	if c.State.Health == nil {
		return errors.New("the engine has no health of it yet")
	}
	if c.State.Health.Status == container.Healthy {
		return nil
	}
	last := ""
	if n := len(c.State.Health.Log); n > 0 {
		last = ": " + strings.TrimSpace(c.State.Health.Log[n-1].Output)
	}
	err := fmt.Errorf("the image's HEALTHCHECK says %s%s", c.State.Health.Status, last)
	if c.State.Health.Status == container.Unhealthy {
		// The engine has used up the retries that the image allows.
		return healthcheck.Dead(err)
	}
	return err
}

// steady passes once a container has run for a while without a restart.
func (t *target) steady(id string, restarts int) healthcheck.Probe {
	began := time.Now()
	return func(ctx context.Context) error {
		c, err := t.alive(ctx, id)
		switch {
		case err != nil && c == nil && strings.Contains(err.Error(), "restarting"):
			return healthcheck.Dead(err)
		case err != nil:
			return err
		case c.RestartCount > restarts:
			return healthcheck.Dead(fmt.Errorf("the container %s was restarted %d times", nameOf(c), c.RestartCount-restarts))
		case time.Since(began) < steadyFor:
			return errors.New("it runs, but for too short a time to tell")
		}
		return nil
	}
}

// commandProbe runs a command in the container.
func (t *target) commandProbe(id string, argv []string) healthcheck.Probe {
	return func(ctx context.Context) error {
		var out bytes.Buffer
		code, err := t.exec(ctx, id, client.ExecCreateOptions{Cmd: argv}, &out, &out)
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("%s ended with exit code %d: %.200s", argv[0], code, strings.TrimSpace(out.String()))
		}
		return nil
	}
}

// lastLines are the last lines that a container has written.
func (t *target) lastLines(ctx context.Context, id string) []string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	logs, err := t.engine.ContainerLogs(ctx, id, client.ContainerLogsOptions{
		ShowStdout: true, ShowStderr: true, Tail: fmt.Sprint(lastWords),
	})
	if err != nil {
		return []string{"(its log cannot be read: " + err.Error() + ")"}
	}
	defer logs.Close()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &out, logs); err != nil && out.Len() == 0 {
		return []string{"(its log cannot be read: " + err.Error() + ")"}
	}
	var lines []string
	for line := range strings.Lines(strings.ToValidUTF8(out.String(), "\uFFFD")) {
		line = strings.TrimRight(line, "\r\n")
		if len(line) > 1000 {
			line = strings.ToValidUTF8(line[:1000], "") + "…"
		}
		lines = append(lines, line)
	}
	return lines[max(0, len(lines)-lastWords):]
}
