package compose

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/healthcheck"
	"stella-ops.org/stella/internal/executor/hook"
)

const (
	// steadyFor is how long a container without any health check must have
	// run: one that crashes at its start is gone by then.
	steadyFor = 1500 * time.Millisecond
	// lastWords is how many of its last lines a failed container leaves, and
	// lastSpeakers how many containers are heard.
	lastWords    = 50
	lastSpeakers = 8
)

// finding is what is wrong with a service.
type finding struct {
	service, says string
	// final says that waiting does not help.
	final bool
}

// Error says which service, and what.
func (f finding) Error() string { return fmt.Sprintf("the service %s %s", f.service, f.says) }

// judge says what is wrong with the services of a model. One that has done its
// work and ended well is not wrong, if it is not to be started again.
func judge(m *model, all []container) []finding {
	var bad []finding
	for _, s := range m.Services {
		have := 0
		for i := range all {
			if all[i].service() != s.Name {
				continue
			}
			have++
			if says, final := wrong(&all[i]); says != "" {
				bad = append(bad, finding{s.Name, says, final})
			}
		}
		if have < s.Count {
			bad = append(bad, finding{s.Name, fmt.Sprintf("has %d containers instead of %d", have, s.Count), false})
		}
	}
	return bad
}

// wrong says what is wrong with a container; "" when nothing is.
func wrong(c *container) (says string, final bool) {
	st, policy := &c.State, c.HostConfig.RestartPolicy.Name
	switch {
	case st.Restarting:
		return fmt.Sprintf("is restarting after exit code %d", st.ExitCode), false
	case st.Running && c.hasCheck():
		return unhealthy(c)
	case st.Running:
		return "", false
	case st.Status == "created":
		return "was not started", false
	case st.ExitCode == 0 && (policy == "" || policy == "no" || policy == "on-failure"):
		return "", false
	case st.OOMKilled:
		return fmt.Sprintf("has ended with exit code %d, out of memory", st.ExitCode), true
	}
	return fmt.Sprintf("has ended with exit code %d", st.ExitCode), true
}

func unhealthy(c *container) (says string, final bool) {
	h := c.State.Health
	if h == nil {
		return "has no health yet", false
	}
	if h.Status == "healthy" {
		return "", false
	}
	last := ""
	if n := len(h.Log); n > 0 {
		last = ": " + strings.TrimSpace(h.Log[n-1].Output)
	}
	// Unhealthy means that the engine has used up the retries that it allows.
	return fmt.Sprintf("is %s by its HEALTHCHECK%s", h.Status, last), h.Status == "unhealthy"
}

// awaitHealth waits until the new version works, and makes sure that it is
// what was released.
func (d *deployment) awaitHealth(ctx context.Context) error {
	all, err := d.wait(ctx, d.state.New, d.release.HealthCheck)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return d.explain(ctx, err)
	}
	return d.verifyRunning(ctx, all)
}

// wait waits for the services of a model: until all run, and those with a
// HEALTHCHECK are healthy, and the given check passes; without a check, until
// those without a HEALTHCHECK have kept running for a while. It returns the
// containers as they were when all was well.
func (t *target) wait(ctx context.Context, m *model, hc *api.HealthCheck) (seen []container, err error) {
	first, err := t.containers(ctx)
	if err != nil {
		return nil, err
	}
	seen = first
	patience, checked := int64(0), 0
	for i := range first {
		if first[i].hasCheck() {
			checked++
			patience = max(patience, patienceOf(&first[i]))
		}
	}
	var probe healthcheck.Probe
	switch {
	case hc == nil:
		hc = &api.HealthCheck{Type: "services", IntervalMs: 200, Timeout: max(patience, 15)}
		probe = steady()
	case hc.Type == "docker" && checked == 0:
		return nil, invalid("the health check is of type docker, but no service of the project has a HEALTHCHECK; use http, tcp or command")
	case hc.Type == "http":
		probe = healthcheck.HTTP(hc)
	case hc.Type == "tcp":
		probe = healthcheck.TCP(hc)
	case hc.Type == "command":
		probe = t.commandProbe(hc.Command)
	}
	restarts := map[string]int{}
	for i := range first {
		restarts[first[i].ID] = first[i].RestartCount
	}
	err = healthcheck.Wait(ctx, hc, func(ctx context.Context) error {
		all := first
		if first = nil; all == nil {
			if all, err = t.containers(ctx); err != nil {
				return err
			}
		}
		seen = all
		bad := judge(m, all)
		for _, f := range bad {
			if f.final {
				return healthcheck.Dead(f)
			}
		}
		if len(bad) > 0 {
			return bad[0]
		}
		if hc.Type == "services" {
			for i := range all {
				if n := all[i].RestartCount - restarts[all[i].ID]; n > 0 {
					return healthcheck.Dead(finding{all[i].service(), fmt.Sprintf("was restarted %d times, after exit code %d", n, all[i].State.ExitCode), true})
				}
			}
			if checked == len(all) {
				return nil
			}
		}
		if probe == nil {
			return nil
		}
		return probe(ctx)
	})
	return seen, err
}

// steady passes a while after it was made.
func steady() healthcheck.Probe {
	began := time.Now()
	return func(context.Context) error {
		if time.Since(began) < steadyFor {
			return errors.New("all services run, but for too short a time to tell")
		}
		return nil
	}
}

// patienceOf is how long a container's HEALTHCHECK may take to come to a
// verdict, in seconds.
func patienceOf(c *container) int64 {
	or := func(d, otherwise time.Duration) time.Duration {
		if d == 0 {
			return otherwise
		}
		return d
	}
	hc := c.Config.Healthcheck
	retries := hc.Retries
	if retries == 0 {
		retries = 3
	}
	all := hc.StartPeriod + time.Duration(retries)*(or(hc.Interval, 30*time.Second)+or(hc.Timeout, 30*time.Second)) + 5*time.Second
	return int64(max(all, healthcheck.DefaultTimeout) / time.Second)
}

// commandProbe runs a command on the agent's host, in the target's folder.
func (t *target) commandProbe(argv []string) healthcheck.Probe {
	return func(ctx context.Context) error {
		res, err := hook.Run(ctx, hook.Command{
			Argv: argv, Dir: t.dir, Probe: true, Env: hook.Environ(map[string]string{hook.OfTask: t.task.ID}),
		}, t.env.Log)
		if err != nil {
			return err
		}
		if res.ExitCode != 0 {
			return fmt.Errorf("%s ended with exit code %d: %s", argv[0], res.ExitCode, strings.TrimSpace(res.Tail))
		}
		return nil
	}
}

// verifyRunning compares what runs with what was released, by the images'
// digests and not by their names alone.
func (d *deployment) verifyRunning(ctx context.Context, all []container) error {
	ids := d.images
	if ids == nil { // a rollback pulls nothing
		var err error
		if ids, err = d.imageIDs(ctx, d.state.New.Services); err != nil {
			return err
		}
	}
	for i := range all {
		c := &all[i]
		want := d.state.New.find(c.service())
		if want == nil {
			return deploy.Fail(api.ErrDigestMismatch, "the container %s is of the service %s, which the release does not have", c.name(), c.service())
		}
		if c.Config.Image != want.Image || c.Image != ids[want.Image] {
			return deploy.Fail(api.ErrDigestMismatch, "the container %s runs %s (%.19s), and the release has %s for the service %s: find out who changed it",
				c.name(), c.Config.Image, c.Image, want.Image, want.Name)
		}
	}
	return nil
}

// explain adds to an error which services are not well, and their last words;
// where all are well, the last words of all.
func (d *deployment) explain(ctx context.Context, err error) error {
	failed := &deploy.Error{}
	if !errors.As(err, &failed) {
		return err
	}
	all, lookErr := d.containers(ctx)
	if lookErr != nil {
		return err
	}
	bad := judge(d.state.New, all)
	// One that is started again and again runs, for the moment, when it is
	// looked at now.
	if f, ok := errors.AsType[finding](err); ok && !slices.ContainsFunc(bad, func(b finding) bool { return b.service == f.service }) {
		bad = append(bad, f)
	}
	states := make([]string, len(bad))
	for i, f := range bad {
		states[i] = f.Error()
		d.env.Log.Line("system", states[i])
	}
	var lines []string
	heard := 0
	for i := range all {
		c := &all[i]
		ofBad := slices.ContainsFunc(bad, func(b finding) bool { return b.service == c.service() })
		if len(bad) > 0 && !ofBad || heard == lastSpeakers {
			continue
		}
		heard++
		words := d.lastLines(ctx, c, lastWords)
		d.env.Log.Line("system", fmt.Sprintf("the last %d lines of %s:", len(words), c.name()))
		for _, line := range words {
			d.env.Log.Line("stderr", line)
			lines = append(lines, c.name()+": "+line)
		}
	}
	if len(states) > 0 {
		if !strings.Contains(failed.Message, states[0]) {
			failed.Message += "; " + strings.Join(states, "; ")
		}
		failed = failed.With("failedServices", states)
	}
	if len(lines) > 0 {
		failed.Message += fmt.Sprintf("; last line of %q", lines[len(lines)-1])
		failed = failed.With("containerLogs", lines)
	}
	return failed
}
