package compose

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/internal/executor/docker/engine"
)

// The labels that compose puts on what it makes.
const (
	labelProject = "com.docker.compose.project"
	labelService = "com.docker.compose.service"
	labelOneOff  = "com.docker.compose.oneoff"
)

// container is what the engine says of one, as far as it matters here.
type container struct {
	ID    string `json:"Id"`
	Name  string
	Image string
	State struct {
		Status     string
		Running    bool
		Restarting bool
		OOMKilled  bool
		ExitCode   int
		StartedAt  string
		Health     *struct {
			Status string
			Log    []struct{ Output string }
		}
	}
	RestartCount int
	Config       struct {
		Image       string
		Labels      map[string]string
		Healthcheck *struct {
			Test                           []string
			Interval, Timeout, StartPeriod time.Duration
			Retries                        int
		}
	}
	HostConfig struct {
		RestartPolicy struct{ Name string }
	}
}

func (c *container) service() string { return c.Config.Labels[labelService] }

func (c *container) name() string { return strings.TrimPrefix(c.Name, "/") }

func (c *container) hasCheck() bool {
	hc := c.Config.Healthcheck
	return hc != nil && len(hc.Test) > 0 && hc.Test[0] != "NONE"
}

// containers are those of the project's services, by service and name; those
// that `compose run` made are not among them.
func (t *target) containers(ctx context.Context) ([]container, error) {
	all, err := engine.Containers[container](ctx, t.engines, t.engine, labelProject+"="+t.project)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(c container) bool { return strings.EqualFold(c.Config.Labels[labelOneOff], "true") })
	slices.SortFunc(all, func(a, b container) int {
		return cmp.Or(cmp.Compare(a.service(), b.service()), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

// halfway is how compose calls a container until it takes the place of another:
// by the beginning of that one's id, and by its name.
var halfway = regexp.MustCompile(`^([0-9a-f]{12})_(.+)$`)

// settle puts right what a compose that was ended while it replaced containers
// has left, and would stumble over: what was to come is removed. Where what was
// before is gone already it stays, under the name that it was to get, because it
// has the other's volumes.
func (t *target) settle(ctx context.Context) error {
	all, err := t.containers(ctx)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for i := range all {
		names[all[i].name()] = true
	}
	for i := range all {
		m := halfway.FindStringSubmatch(all[i].name())
		if m == nil {
			continue
		}
		if names[m[2]] {
			err = t.do(ctx, "rm", "--force", all[i].ID)
		} else {
			err = t.do(ctx, "rename", all[i].ID, m[2])
		}
		if err != nil {
			return err
		}
		names[m[2]] = true
	}
	return nil
}

// networks are the names of those that compose has made for the project.
func (t *target) networks(ctx context.Context) ([]string, error) {
	return engine.Networks(ctx, t.engines, t.engine, labelProject+"="+t.project)
}

// dropOldNetworks removes the networks of the old version that the new one does
// not have.
func (d *deployment) dropOldNetworks(ctx context.Context) error {
	gone := slices.ContainsFunc(d.state.OldNetworks, func(n string) bool { return !slices.Contains(d.state.New.Networks, n) })
	if !gone {
		return nil
	}
	return d.dropNetworks(ctx, d.state.New.Networks)
}

// dropNetworks removes the project's networks but those to keep. One that
// something else is connected to stays, and the log says so.
func (t *target) dropNetworks(ctx context.Context, keep []string) error {
	all, err := t.networks(ctx)
	if err != nil {
		return err
	}
	for _, name := range all {
		if slices.Contains(keep, name) {
			continue
		}
		if err := t.do(ctx, "network", "rm", name); err != nil {
			t.env.Log.Line("system", fmt.Sprintf("the network %s is left: %v", name, err))
		}
	}
	return nil
}

// lastLines are the last lines that a container has written; 4 KiB at most.
func (t *target) lastLines(ctx context.Context, c *container, n int) []string {
	res, err := t.run(ctx, call{args: []string{"logs", "--tail", fmt.Sprint(n), c.ID}, quiet: true})
	if err != nil {
		return []string{"(its log cannot be read: " + err.Error() + ")"}
	}
	var lines []string
	for line := range strings.Lines(res.Tail) {
		lines = append(lines, strings.TrimRight(line, "\r\n"))
	}
	return lines[max(0, len(lines)-n):]
}
