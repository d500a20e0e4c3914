package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/artifact"
	"stella-ops.org/stella/internal/executor/hook"
)

const (
	// scriptTimeout is how long a deploy script may take; the task's own
	// timeout lies above it.
	scriptTimeout = 30 * time.Minute
	// startTimeout is how long a start command may take to return.
	startTimeout = 2 * time.Minute
)

// switchOver runs the new release's script, stops the old release, moves the
// link and starts the new one.
func (d *deployment) switchOver(ctx context.Context) error {
	if err := d.runScripts(ctx); err != nil {
		return err
	}
	// From here on an undo must start the old release again; before, it must
	// leave it alone.
	d.state.Stopping = true
	if err := deploy.Checkpoint(ctx); err != nil {
		return err
	}
	next, err := d.tree().read(d.state.New)
	if err != nil {
		return err
	}
	if d.state.Old != "" {
		d.env.Log.Line("system", "stopping release "+d.state.Old)
		if err := d.stop(ctx, d.state.Old, next.Unit); err != nil {
			return deploy.Fail(api.ErrSwitchFailed, "stop release %s: %w", d.state.Old, err)
		}
	}
	if err := d.installUnits(ctx, next); err != nil {
		return deploy.Fail(api.ErrSwitchFailed, "install the units of release %s: %w", d.state.New, err)
	}
	d.env.Log.Line("system", "making release "+d.state.New+" current")
	if err := d.tree().point(d.state.New); err != nil {
		return deploy.Fail(api.ErrSwitchFailed, "make release %s current: %w", d.state.New, err)
	}
	d.env.Log.Line("system", "starting release "+d.state.New)
	if err := d.start(ctx, d.state.New); err != nil {
		return deploy.Fail(api.ErrSwitchFailed, "start release %s: %w", d.state.New, err)
	}
	return nil
}

// switchBack brings the old release back, however far switchOver came.
func (d *deployment) switchBack(ctx context.Context) error {
	current, err := d.tree().current()
	if err != nil {
		return err
	}
	if !d.state.Stopping && current != d.state.New {
		return nil
	}
	oldUnit := ""
	if d.state.Old != "" {
		old, err := d.tree().read(d.state.Old)
		if err != nil {
			return err
		}
		oldUnit = old.Unit
	}
	if current == d.state.New {
		if err := d.stop(ctx, d.state.New, oldUnit); err != nil {
			return fmt.Errorf("stop the new release: %w", err)
		}
	}
	if err := d.restoreUnits(ctx); err != nil {
		return fmt.Errorf("restore the former units: %w", err)
	}
	if err := d.tree().point(d.state.Old); err != nil {
		return err
	}
	if d.state.Old == "" {
		return nil
	}
	// The old release may have been stopped, half stopped or not at all;
	// after this it is stopped, and one start is right.
	if err := d.stop(ctx, d.state.Old, oldUnit); err != nil {
		return fmt.Errorf("stop release %s before it is started again: %w", d.state.Old, err)
	}
	if err := d.start(ctx, d.state.Old); err != nil {
		return fmt.Errorf("start release %s again: %w", d.state.Old, err)
	}
	return nil
}

// runScripts runs the deploy scripts in the new release's folder.
func (d *deployment) runScripts(ctx context.Context) error {
	if !d.state.Makes {
		return nil
	}
	dir := d.tree().release(d.state.New)
	for i := range d.payload.Artifacts {
		a := &d.payload.Artifacts[i]
		if a.Type != artifact.TypeDeployScript {
			continue
		}
		res, err := hook.Run(ctx, hook.Command{
			Argv: []string{filepath.Join(dir, filepath.FromSlash(a.Name))}, Dir: dir, Timeout: scriptTimeout,
			Env: hook.Environ(d.payload.Config.Environment, d.variables(d.state.Sticker.ReleaseID,
				map[string]string{"STELLA_PHASE": deploy.PhaseSwitch, hook.OfTask: d.task.ID})),
		}, d.env.Log)
		if err != nil {
			return deploy.Fail(api.ErrSwitchFailed, "the deploy script %s: %w", a.Name, err)
		}
		if res.ExitCode != 0 {
			return deploy.Fail(api.ErrSwitchFailed, "the deploy script %s ended with exit code %d; its output is in the log", a.Name, res.ExitCode).
				With("exitCode", res.ExitCode)
		}
	}
	return nil
}

// stop stops a release by its own unit or command, and sees to it that what
// its start had left running is gone. A unit that the next release restarts is
// left running until then. A stop command that fails does not keep the next
// release from starting: the release may have ended long ago.
func (d *deployment) stop(ctx context.Context, folder, nextUnit string) error {
	r, err := d.tree().read(folder)
	if err != nil {
		return err
	}
	if r.Unit != "" {
		if r.Unit == nextUnit {
			return nil
		}
		return d.call(ctx, "stop", r.Unit)
	}
	limit := d.state.StopTimeout
	if r.Stop != "" {
		res, err := hook.Run(ctx, hook.Command{
			Argv: []string{"sh", "-c", r.Stop}, Dir: d.workDir(folder), Timeout: limit,
			Env: append(d.environ(r), hook.OfTask+"="+d.task.ID),
		}, d.env.Log)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			d.env.Log.Line("system", fmt.Sprintf("the stop command of release %s: %v", folder, err))
		case res.ExitCode != 0:
			d.env.Log.Line("system", fmt.Sprintf("the stop command of release %s ended with exit code %d", folder, res.ExitCode))
		}
	}
	if r.Start == "" {
		return nil
	}
	if killed := hook.EndMarked(ctx, hook.OfRelease, r.TaskID, limit); killed > 0 {
		d.env.Log.Line("system", fmt.Sprintf("release %s had not stopped after %v; %d of its processes were killed", folder, limit, killed))
	}
	return nil
}

// workDir is where a release's commands run: in current, so that they see the
// path that stays, or in its folder while current points elsewhere.
func (d *deployment) workDir(folder string) string {
	if current, err := d.tree().current(); err == nil && current == folder {
		return d.tree().path(currentLink)
	}
	return d.tree().release(folder)
}

// start starts a release. Its command must return; what it leaves behind must
// not end with the agent, so that it gets a session of its own, and writes to
// a file instead of to a pipe of the agent's.
func (d *deployment) start(ctx context.Context, folder string) error {
	r, err := d.tree().read(folder)
	if err != nil {
		return err
	}
	if r.Unit != "" {
		return d.call(ctx, "restart", r.Unit)
	}
	if r.Start == "" {
		return nil
	}
	out, err := os.OpenFile(filepath.Join(d.tree().release(folder), startLog), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cmd := exec.CommandContext(limited, "sh", "-c", r.Start)
	cmd.Dir = d.tree().path(currentLink)
	cmd.Env = append(d.environ(r), "PWD="+cmd.Dir, hook.OfRelease+"="+r.TaskID)
	cmd.Stdout, cmd.Stderr = out, out
	ownSession(cmd)
	err = cmd.Run()
	lines := lastLines(out.Name(), 200)
	for _, line := range lines {
		d.env.Log.Line("stdout", line)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case limited.Err() != nil:
		return fmt.Errorf("the start command had not returned after %v; it must leave the release running and return", startTimeout)
	case err != nil && len(lines) > 0:
		return fmt.Errorf("the start command failed (%w): %s", err, lines[len(lines)-1])
	case err != nil:
		return fmt.Errorf("the start command failed: %w", err)
	}
	return nil
}

// environ is the environment that a release's commands run in.
func (d *deployment) environ(r *release) []string {
	return hook.Environ(d.variables(r.ReleaseID, nil), r.Environment)
}
