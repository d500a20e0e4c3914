package compose

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/hook"
)

// switchOver puts the files in their places and has compose make the project
// be as they say.
func (d *deployment) switchOver(ctx context.Context) error {
	s := d.state
	if err := s.Files.Place(ctx); err != nil {
		return err
	}
	// From here on an undo must bring the old containers back; before, it must
	// leave them alone.
	s.Touching = true
	if err := deploy.Checkpoint(ctx); err != nil {
		return err
	}
	d.env.Log.Line("system", fmt.Sprintf("starting %d services as the project %s", len(s.New.Services), d.project))
	res, err := d.up(ctx, s.New, true)
	if err != nil {
		return err
	}
	if res.ExitCode == 0 {
		return nil
	}
	// Compose has ended by itself, so that nothing is under way any more: what
	// it has not changed yet stays as it is.
	if after, err := d.containers(ctx); err == nil && same(d.before, after) {
		s.Touching = false
	}
	return d.upError(ctx, res)
}

// up has compose make the containers of a model and start them.
//
// All are made anew, even those whose settings have not changed: a service may
// read a file of the release at its start, and compose does not see that the
// file's content is another one.
func (d *deployment) up(ctx context.Context, m *model, start bool) (hook.Result, error) {
	how := "--detach"
	if !start {
		how = "--no-start"
	}
	return d.run(ctx, call{args: d.composeArgs(m, d.dir, "up", how, "--force-recreate", "--remove-orphans",
		"--no-build", "--pull", "never", "--timeout", d.stopTimeout())})
}

// upError says why compose could not start the new version, with the last
// words of what has ended.
func (d *deployment) upError(ctx context.Context, res hook.Result) error {
	says, hint, errType := orNothing(lastLine(res.Tail)), "", api.ErrSwitchFailed
	switch text := strings.ToLower(res.Tail); {
	case away(res.Tail):
		return refused(api.ErrSwitchFailed, "docker compose up", res.Tail)
	case strings.Contains(text, "is unhealthy"), strings.Contains(text, "didn't complete successfully"):
		// Another service waits for this one.
		errType = api.ErrHealthCheckFailed
	case strings.Contains(text, "port is already allocated"), strings.Contains(text, "address already in use"):
		hint = "; another container or program has this port: stop it, or choose another in the compose file"
	case strings.Contains(text, "network") && strings.Contains(text, "not found"):
		hint = "; make the network, or correct the compose file"
	}
	return d.explain(ctx, deploy.Fail(errType, "docker compose up: %s%s", says, hint))
}

// same says whether the containers are the same, and none was started anew.
func same(before, after []container) bool {
	return slices.EqualFunc(before, after, func(a, b container) bool {
		return a.ID == b.ID && a.State.StartedAt == b.State.StartedAt && a.State.Running == b.State.Running
	})
}

// switchBack brings the old version back, however far switchOver came.
func (d *deployment) switchBack(ctx context.Context) error {
	s := d.state
	nothing := s.Old == nil || !s.OldThere
	if s.Touching && nothing {
		if err := d.removeAll(ctx); err != nil {
			return err
		}
	}
	if err := s.Files.TakeBack(); err != nil {
		return fmt.Errorf("put the former files back: %w", err)
	}
	if !s.Touching {
		return nil
	}
	if !nothing {
		if err := d.upAgain(ctx); err != nil {
			return err
		}
	}
	return d.dropNetworks(ctx, s.OldNetworks)
}

// upAgain makes the old version's containers anew. Some may never have been
// touched; but the engine may still be at it with what a compose that was
// ended had asked for, so that only new ones are certain to stay.
func (d *deployment) upAgain(ctx context.Context) error {
	s := d.state
	if err := d.settle(ctx); err != nil {
		return fmt.Errorf("put right what compose has left: %w", err)
	}
	res, err := d.up(ctx, s.Old, s.OldRunning)
	if err != nil {
		return fmt.Errorf("start the previous version again: %w", err)
	}
	if res.ExitCode != 0 {
		return fmt.Errorf("start the previous version again: docker compose up: %s", orNothing(lastLine(res.Tail)))
	}
	all, err := d.containers(ctx)
	if err != nil {
		return err
	}
	count := map[string]int{}
	for i := range all {
		c := &all[i]
		old := s.Old.find(c.service())
		if old == nil || c.Config.Image != old.Image {
			return fmt.Errorf("the container %s (%s) is none of the previous version's", c.name(), c.Config.Image)
		}
		count[old.Name]++
	}
	for _, one := range s.Old.Services {
		if count[one.Name] != one.Count {
			return fmt.Errorf("the service %s of the previous version has %d containers instead of %d", one.Name, count[one.Name], one.Count)
		}
	}
	return nil
}

// removeAll removes the project's containers and networks where none were
// before. It needs no file, so that it works whatever is in the folder.
// Volumes with names stay, as with docker compose down; those without belong
// to containers that never were a version.
func (d *deployment) removeAll(ctx context.Context) error {
	of := "label=" + labelProject + "=" + d.project
	ids, err := d.ids(ctx, "ps", "--all", "--quiet", "--no-trunc", "--filter", of)
	if err != nil {
		return err
	}
	if len(ids) > 0 {
		d.env.Log.Line("system", fmt.Sprintf("removing %d containers of the project %s", len(ids), d.project))
		if err := d.do(ctx, slices.Concat([]string{"stop", "--time", d.stopTimeout()}, ids)...); err != nil {
			return err
		}
		if err := d.do(ctx, slices.Concat([]string{"rm", "--force", "--volumes"}, ids)...); err != nil {
			return err
		}
	}
	if ids, err = d.ids(ctx, "ps", "--all", "--quiet", "--filter", of); err == nil && len(ids) > 0 {
		err = fmt.Errorf("there are still %d containers of the project %s", len(ids), d.project)
	}
	return err
}
