package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/atomicfile"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/artifact"
	"stella-ops.org/stella/internal/executor/files"
	"stella-ops.org/stella/internal/executor/healthcheck"
	"stella-ops.org/stella/internal/executor/hook"
	"stella-ops.org/stella/internal/executor/sticker"
)

// stage brings the release's files into a folder beside the releases, and
// gives that folder its name once it is whole.
func (d *deployment) stage(ctx context.Context) error {
	if !d.state.Makes {
		_, err := d.tree().read(d.state.New)
		return err
	}
	staging := d.staging()
	if err := os.RemoveAll(staging); err != nil {
		return err
	}
	if err := os.MkdirAll(staging, 0o755); err != nil { //nolint:gosec // a release's files are for whoever runs it
		return deploy.Fail(api.ErrSwitchFailed, "make the new release's folder: %w", err)
	}
	root, err := os.OpenRoot(staging)
	if err != nil {
		return err
	}
	defer root.Close()
	meta := &release{
		ReleaseID: d.state.Sticker.ReleaseID, ReleaseName: d.state.Sticker.ReleaseName,
		TaskID: d.task.ID, DeployedAt: d.state.Sticker.DeployedAt, Previous: d.state.Old,
		Start: d.payload.Config.Start, Stop: d.payload.Config.Stop, Unit: d.payload.Config.Unit,
		Environment: d.payload.Config.Environment, HealthCheck: d.payload.Config.HealthCheck,
	}
	for i := range d.payload.Artifacts {
		a := &d.payload.Artifacts[i]
		size, err := files.Put(ctx, root, a.Name, a, d.env.Artifacts)
		if err != nil {
			return err
		}
		d.env.Log.Line("system", files.Said(a, size))
		if a.Type == artifact.TypeSystemdUnit {
			meta.Units = append(meta.Units, a.Name)
		}
	}
	if err := meta.write(staging); err != nil {
		return err
	}
	if err := os.Rename(staging, d.tree().release(d.state.New)); err != nil {
		return err
	}
	return atomicfile.SyncDir(d.tree().path(releasesDir))
}

func (d *deployment) staging() string {
	return d.tree().path(releasesDir, stagingPrefix+d.task.ID)
}

// unstage removes the new release, unless it is what current points to: then
// an earlier undo has failed, and removing it would leave nothing.
func (d *deployment) unstage(context.Context) error {
	if !d.state.Makes {
		return nil
	}
	if err := os.RemoveAll(d.staging()); err != nil {
		return err
	}
	current, err := d.tree().current()
	if err != nil {
		return err
	}
	if current == d.state.New {
		return fmt.Errorf("current still points to the new release %s, so its folder is kept", d.state.New)
	}
	meta, err := d.tree().read(d.state.New)
	if err != nil || meta.TaskID != d.task.ID {
		return nil //nolint:nilerr // never made, or not by this task
	}
	return os.RemoveAll(d.tree().release(d.state.New))
}

// backUp notes the former sticker and keeps the former units.
func (d *deployment) backUp(context.Context) error {
	former, err := sticker.Load(d.state.StickerPath)
	if err != nil {
		return deploy.Fail(api.ErrSwitchFailed, "%w", err)
	}
	d.state.Former = &former
	return d.backUpUnits()
}

func (d *deployment) dropBackup(context.Context) error {
	return os.RemoveAll(d.unitBackup())
}

// awaitHealth waits for the health check that the release has.
func (d *deployment) awaitHealth(ctx context.Context) error {
	meta, err := d.tree().read(d.state.New)
	if err != nil {
		return err
	}
	hc, probe := d.probe(meta)
	if probe == nil {
		return nil
	}
	err = healthcheck.Wait(ctx, hc, probe)
	if err == nil {
		return nil
	}
	lines := lastLines(path.Join(d.tree().release(d.state.New), startLog), 50)
	for _, line := range lines {
		d.env.Log.Line("stderr", line)
	}
	e := &deploy.Error{}
	if errors.As(err, &e) {
		return e.With("startLog", lines)
	}
	return err
}

// probe is what tells whether a release works; nil when nothing does.
func (d *deployment) probe(meta *release) (*api.HealthCheck, healthcheck.Probe) {
	hc := meta.HealthCheck
	switch {
	case hc != nil:
		return hc, d.probeOf(hc, d.tree().path(currentLink), meta.Environment)
	case meta.Unit != "":
		// A unit that fails at once is seen only when it is looked at twice.
		return &api.HealthCheck{Type: "systemd", IntervalMs: 1000, Timeout: 30, Successes: 2}, func(ctx context.Context) error {
			return d.active(ctx, meta.Unit)
		}
	}
	return nil, nil
}

// probeOf is the probe of a health check that is given; a command runs in dir.
func (d *deployment) probeOf(hc *api.HealthCheck, dir string, env map[string]string) healthcheck.Probe {
	switch hc.Type {
	case "http":
		return healthcheck.HTTP(hc)
	case "tcp":
		return healthcheck.TCP(hc)
	}
	return func(ctx context.Context) error {
		res, err := hook.Run(ctx, hook.Command{
			Argv: hc.Command, Dir: dir, Probe: true,
			Env: hook.Environ(env, map[string]string{hook.OfTask: d.task.ID}),
		}, d.env.Log)
		if err != nil {
			return err
		}
		if res.ExitCode != 0 {
			return fmt.Errorf("%s ended with exit code %d: %s", hc.Command[0], res.ExitCode, strings.TrimSpace(res.Tail))
		}
		return nil
	}
}

// writeSticker writes the sticker and compares what it reads back.
func (d *deployment) writeSticker(context.Context) error {
	if d.state.Former == nil {
		former, err := sticker.Load(d.state.StickerPath)
		if err != nil {
			return err
		}
		d.state.Former = &former
	}
	data, err := sticker.Encode(&d.state.Sticker)
	if err != nil {
		return err
	}
	return sticker.Write(d.state.StickerPath, data)
}

// restoreSticker puts the former sticker back.
func (d *deployment) restoreSticker(context.Context) error {
	if d.state.Former == nil {
		return nil
	}
	return sticker.Undo(d.state.StickerPath, &d.state.Sticker, *d.state.Former)
}

func lastLines(name string, n int) []string {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	const most = 64 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, 2)
	}
	data := make([]byte, most)
	read, _ := f.Read(data)
	return splitLines(data[:read], n)
}

func splitLines(data []byte, n int) []string {
	var lines []string
	for line := range bytes.Lines(data) {
		lines = append(lines, string(bytes.ToValidUTF8(bytes.TrimRight(line, "\r\n"), []byte("\uFFFD"))))
	}
	return lines[max(0, len(lines)-n):]
}

const systemctlTimeout = 90 * time.Second
