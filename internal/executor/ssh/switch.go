package ssh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/hook"
)

// switchOver stops the old release, puts the new one's files into their places,
// runs its scripts and starts it. From the first script on, .stella-switching
// says that all this is to be undone.
func (d *deployment) switchOver(ctx context.Context) error {
	body := d.inStage() + "write .stella-switching 644 " + quote(d.task.ID+"\n") + "\n"
	if d.old != nil && d.old.Stop != "" {
		// The stop command says something, which goes into the log: it is a
		// program of its own, and the script is in two parts.
		if _, err := d.script(ctx, body); err != nil {
			return err
		}
		if err := d.stopCommand(ctx, d.old); err != nil {
			return err
		}
		body = d.inStage()
	}
	if d.old != nil {
		d.env.Log.Line("system", "stopping release "+d.old.ReleaseID)
		body += d.endRelease(d.old)
	}
	if d.state.Restores {
		body += "fill_from .stella-previous\n"
	} else {
		body += d.place()
	}
	d.env.Log.Line("system", "putting the files of release "+d.next.ReleaseID+" into their places")
	found, err := d.script(ctx, body)
	if err != nil {
		return err
	}
	d.sayKilled(found, d.old)
	return d.bringUp(ctx, d.next, deploy.PhaseSwitch)
}

// place is a script that renames the staged files into their places, and takes
// those away that only the old release had.
func (d *deployment) place() string {
	var b strings.Builder
	has := map[string]bool{}
	for i := range d.next.Files {
		f := &d.next.Files[i]
		has[f.Name] = true
		fmt.Fprintf(&b, "fits %s %s\n", quote(f.Name), quote(f.folder()))
	}
	if dirs := folders(d.next.Files); len(dirs) > 0 {
		fmt.Fprintf(&b, "mkdir -p %s || exit\n", quoteAll(dotted(dirs)))
	}
	for i := range d.next.Files {
		fmt.Fprintf(&b, "put \"$stage/new/%d\" %s\n", i, quote(d.next.Files[i].Name))
	}
	if d.old != nil {
		var gone []file
		for _, f := range d.old.Files {
			if !has[f.Name] {
				gone = append(gone, f)
				fmt.Fprintf(&b, "drop %s %s\n", quote(f.Name), quote(f.folder()))
			}
		}
		// Folders that are empty now go too; others stay.
		for _, dir := range dotted(folders(gone)) {
			fmt.Fprintf(&b, "rmdir %s 2>/dev/null\n", quote(dir))
		}
	}
	b.WriteString("put \"$stage/release\" .stella-release.json\nsync_file .\n")
	return b.String()
}

// dotted keeps names from being taken for options.
func dotted(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = "./" + name
	}
	return out
}

// switchBack makes the folder what it was and starts the old release again,
// however far switchOver came.
func (d *deployment) switchBack(ctx context.Context) error {
	seen, err := d.see(ctx, d.state.StickerPath, `
[ ! -e .stella-switching ] || value switching "$(cat .stella-switching)"
`)
	if err != nil {
		return err
	}
	if seen.values["switching"] != d.task.ID {
		return nil // it was never begun, or is undone
	}
	if seen.current != nil {
		d.env.Log.Line("system", "stopping what is in "+d.dir)
		if err := d.stopCommand(ctx, seen.current); err != nil {
			return err
		}
	}
	body := d.endHooks() + "end_marked " + quote(mark(hook.OfRelease, d.task.ID)) + " 0\n"
	if seen.current != nil {
		body = d.endRelease(seen.current) + body
	}
	d.env.Log.Line("system", "restoring the files in "+d.dir)
	found, err := d.script(ctx, body+"restore\nsection release .stella-release.json\n")
	if err != nil {
		return err
	}
	d.sayKilled(found, seen.current)
	old, err := found.release("release")
	if err != nil {
		return fmt.Errorf("read the restored %s: %w", metaFile, err)
	}
	if old != nil {
		// It may have been stopped, half stopped or not at all; after this it
		// is stopped, and one start is right.
		if _, err := d.script(ctx, d.endRelease(old)); err != nil {
			return err
		}
		if err := d.bringUp(ctx, old, "rollback"); err != nil {
			return fmt.Errorf("start release %s again: %w", old.ReleaseID, err)
		}
	}
	_, err = d.script(ctx, "rm -f .stella-switching || exit\n")
	return err
}

// bringUp runs a release's deploy scripts, if it is new or has no other way to
// start, and its start command.
func (d *deployment) bringUp(ctx context.Context, rel *release, phase string) error {
	if !d.state.Restores && phase == deploy.PhaseSwitch || rel.Start == "" {
		for _, name := range rel.scripts() {
			if err := d.runScript(ctx, rel, name, phase); err != nil {
				return err
			}
		}
	}
	if rel.Start == "" {
		return nil
	}
	d.env.Log.Line("system", "starting release "+rel.ReleaseID)
	return d.start(ctx, rel)
}

// runScript runs a deploy script in the folder. What it leaves running belongs
// to the release, and ends with it.
func (d *deployment) runScript(ctx context.Context, rel *release, name, phase string) error {
	timeout := scriptTimeout
	if rel.ScriptTimeout > 0 {
		timeout = time.Duration(rel.ScriptTimeout) * time.Second
	}
	env := d.variables(rel.ReleaseID, phase)
	maps.Copy(env, rel.Environment)
	res, err := d.run(ctx, program{argv: []string{"./" + name}, dir: d.dir, env: env, timeout: timeout, release: rel.TaskID})
	switch {
	case err != nil && isAway(err):
		return err
	case err != nil:
		return deploy.Fail(api.ErrSwitchFailed, "the deploy script %s: %w", name, err)
	case res.code != 0:
		return deploy.Fail(api.ErrSwitchFailed, "the deploy script %s %s%s; its output is in the log", name, res.exit, saying(res.tail)).With("exitCode", res.code)
	}
	return nil
}

// start starts a release. Its command must return; what it leaves behind gets a
// session of its own and writes to a file, so that it needs no connection.
func (d *deployment) start(ctx context.Context, rel *release) error {
	env := d.variables(rel.ReleaseID, "")
	maps.Copy(env, rel.Environment)
	env[hook.OfRelease] = rel.TaskID + ";"
	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	found, err := d.script(limited, `
rm -f .stella-start.log && (umask 077 && : >.stella-start.log) || exit
(
umask "$mask"
unset STELLA_SHELL_OF LC_ALL
[ -z "$lc" ] || export LC_ALL="$lc"
`+exports(env)+`
own=
! command -v setsid >/dev/null || own=setsid
exec $own sh -c `+quote(rel.Start)+` >>.stella-start.log 2>&1
)
value code $?
if [ -n "$(marked `+quote(mark(hook.OfRelease, rel.TaskID))+`)" ]; then : >.stella-started; else rm -f .stella-started; fi
`+showStartLog)
	switch {
	case err != nil && ctx.Err() == nil && errors.Is(limited.Err(), context.DeadlineExceeded):
		return deploy.Fail(api.ErrSwitchFailed, "the start command of release %s had not returned after %v; it must leave the release running and return", rel.ReleaseID, startTimeout)
	case err != nil:
		return err
	}
	for _, line := range found.lines {
		d.env.Log.Line("stdout", line)
	}
	if code := found.values["code"]; code != "0" {
		last := ""
		if n := len(found.lines); n > 0 {
			last = ": " + found.lines[n-1]
		}
		return deploy.Fail(api.ErrSwitchFailed, "the start command of release %s ended with exit code %s%s", rel.ReleaseID, code, last)
	}
	return nil
}

// stopCommand runs a release's own stop command. One that fails does not keep
// the next release from starting: the release may have ended long ago.
func (d *deployment) stopCommand(ctx context.Context, rel *release) error {
	if rel.Stop == "" {
		return nil
	}
	env := d.variables(rel.ReleaseID, "")
	maps.Copy(env, rel.Environment)
	res, err := d.run(ctx, program{argv: []string{"sh", "-c", rel.Stop}, dir: d.dir, env: env, timeout: d.state.StopTimeout})
	switch {
	case ctx.Err() != nil || err != nil && isAway(err):
		return err
	case err != nil:
		d.env.Log.Line("system", fmt.Sprintf("the stop command of release %s: %v", rel.ReleaseID, err))
	case res.code != 0:
		d.env.Log.Line("system", fmt.Sprintf("the stop command of release %s %s%s", rel.ReleaseID, res.exit, saying(res.tail)))
	}
	return nil
}

// endRelease is a script that sees to it that nothing of a release runs on.
func (d *deployment) endRelease(rel *release) string {
	if !rel.runs() {
		return ""
	}
	return fmt.Sprintf("end_marked %s %d\n", quote(mark(hook.OfRelease, rel.TaskID)), d.state.StopTimeout/(100*time.Millisecond))
}

func (d *deployment) sayKilled(f *found, rel *release) {
	if n := f.values["killed"]; n != "" && n != "0" && rel != nil {
		d.env.Log.Line("system", fmt.Sprintf("release %s had not stopped after %v; %s of its processes were killed", rel.ReleaseID, d.state.StopTimeout, n))
	}
}
