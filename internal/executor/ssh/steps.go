package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/healthcheck"
	"stella-ops.org/stella/internal/executor/hook"
	"stella-ops.org/stella/internal/executor/sticker"
)

// backUp copies all that is in the folder. Where an earlier deployment was cut
// off in its switch, and no agent came back to undo it, the version before that
// one is restored first: what is in the folder is of two versions then.
func (d *deployment) backUp(ctx context.Context) error {
	found, err := d.script(ctx, `
if [ -e .stella-switching ]; then
  read -r cut <.stella-switching || :
  value cut "$cut"
  end_marked "`+hook.OfRelease+`=$cut;" 50
  restore
  rm -f .stella-switching || exit
fi
back_up
section release .stella-release.json
`)
	if err != nil {
		return err
	}
	if d.old, err = found.release("release"); err != nil {
		return fmt.Errorf("read %s of %s: %w", metaFile, d.dir, err)
	}
	d.state.Old = ""
	if d.old != nil {
		d.state.Old = d.old.ReleaseID
	}
	if cut := found.values["cut"]; cut != "" {
		d.env.Log.Line("system", fmt.Sprintf("the deployment %s was cut off and never undone; the version before it, %s, was restored first", cut, orNothing(d.state.Old)))
	}
	return nil
}

// dropBackup removes the backup, unless a switch is still to be undone.
func (d *deployment) dropBackup(ctx context.Context) error {
	return d.leftForLater(ctx, backupDir, `
[ -d "$dir" ] || exit 0
cd "$dir" || exit
[ -e .stella-switching ] || rm -rf .stella-backup .stella-backup.part
`)
}

// cleanUp removes what is not needed any more, or keeps it for a rollback.
func (d *deployment) cleanUp(ctx context.Context) error {
	body := "rm -f .stella-switching || exit\n"
	if d.state.Keeps {
		body += `
if [ -d .stella-backup ]; then
  rm -rf .stella-previous || exit
  [ ! -e .stella-backup/.stella-release.json ] || mv .stella-backup .stella-previous || exit
fi
`
	} else {
		body += "rm -rf .stella-previous || exit\n"
	}
	_, err := d.script(ctx, d.inStage()+body+`rm -rf .stella-backup .stella-backup.part .stella-trash "$stage" || exit`+"\n")
	return err
}

// awaitHealth waits for the health check that the release has.
func (d *deployment) awaitHealth(ctx context.Context) error {
	if d.next.HealthCheck == nil {
		return nil
	}
	err := healthcheck.Wait(ctx, d.next.HealthCheck, d.probe(d.next.HealthCheck, d.next))
	if err == nil || ctx.Err() != nil {
		return err
	}
	if d.link != nil && !d.link.alive() {
		return d.link.lost()
	}
	found, looked := d.script(ctx, showStartLog)
	if looked != nil {
		return err
	}
	for _, line := range found.lines {
		d.env.Log.Line("stderr", line)
	}
	e := &deploy.Error{}
	if errors.As(err, &e) {
		return e.With("startLog", found.lines)
	}
	return err
}

// showStartLog prints the end of what the start command said.
const showStartLog = `
[ ! -f .stella-start.log ] || tail -c 65536 .stella-start.log | tail -n 50 | sed 's/^/>/'
echo
`

// probe tries a health check: http and tcp from the agent's host, a command on
// the remote one.
func (r *remote) probe(hc *api.HealthCheck, rel *release) healthcheck.Probe {
	switch hc.Type {
	case "http":
		return healthcheck.HTTP(hc)
	case "tcp":
		return healthcheck.TCP(hc)
	}
	env := r.variables(rel.ReleaseID, deploy.PhaseHealthCheck)
	maps.Copy(env, rel.Environment)
	return func(ctx context.Context) error {
		res, err := r.run(ctx, program{argv: hc.Command, dir: r.dir, probe: true, env: env})
		switch {
		case err != nil && r.link != nil && !r.link.alive():
			return healthcheck.Dead(err)
		case err != nil:
			return err
		case res.code != 0:
			return fmt.Errorf("%s %s: %s", hc.Command[0], res.exit, strings.TrimSpace(res.tail))
		}
		return nil
	}
}

// putSticker writes the sticker and compares what it reads back.
func (d *deployment) putSticker(ctx context.Context) error {
	if d.state.Former == nil {
		seen, err := d.see(ctx, d.state.StickerPath, "")
		if err != nil {
			return err
		}
		d.state.Former = &seen.sticker
		// The undo must know what was there before it is gone.
		if err := deploy.Checkpoint(ctx); err != nil {
			return err
		}
	}
	data, err := sticker.Encode(&d.state.Sticker)
	if err != nil {
		return err
	}
	return d.storeSticker(ctx, data)
}

func (d *deployment) storeSticker(ctx context.Context, data []byte) error {
	at := quote(d.state.StickerPath)
	found, err := d.anywhere(ctx, "write "+at+" 644 "+quote(string(data))+"\nsection sticker "+at+"\n")
	if err != nil {
		return err
	}
	if !bytes.Equal(found.files["sticker"], data) {
		return deploy.Fail(api.ErrSwitchFailed, "the sticker %s on %s reads back differently; something else writes it", d.state.StickerPath, d.config.Host)
	}
	return nil
}

// restoreSticker puts the former sticker back, if this task's is there.
// Another's is left alone: this one was never written.
func (d *deployment) restoreSticker(ctx context.Context) error {
	if d.state.Former == nil {
		return nil
	}
	seen, err := d.see(ctx, d.state.StickerPath, "")
	if err != nil {
		return err
	}
	mine, err := sticker.Encode(&d.state.Sticker)
	if err != nil {
		return err
	}
	if !seen.sticker.Existed || !bytes.Equal(seen.sticker.Data, mine) {
		return nil
	}
	if d.state.Former.Existed {
		return d.storeSticker(ctx, d.state.Former.Data)
	}
	_, err = d.anywhere(ctx, "rm -f "+quote(d.state.StickerPath)+" || exit\n")
	return err
}
