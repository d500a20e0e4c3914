package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"

	"stella-ops.org/stella/internal/atomicfile"
	"stella-ops.org/stella/internal/executor/hook"
)

var unitPattern = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,200}\.(service|socket|timer|path|target|mount)$`)

// unitFile is a unit that the new release installs.
type unitFile struct {
	Name    string `json:"name"`
	Existed bool   `json:"existed,omitempty"`
}

// unitBackup keeps the units that a deployment replaces, in the new release's
// folder, until it stands.
func (d *deployment) unitBackup() string {
	return filepath.Join(d.tree().release(d.state.New), ".stella-units")
}

func (d *deployment) backUpUnits() error {
	r, err := d.tree().read(d.state.New)
	if err != nil || len(r.Units) == 0 {
		return err
	}
	if err := os.RemoveAll(d.unitBackup()); err != nil {
		return err
	}
	if err := os.Mkdir(d.unitBackup(), 0o700); err != nil {
		return err
	}
	d.state.Units = nil
	for _, artifact := range r.Units {
		u := unitFile{Name: path.Base(artifact)}
		data, err := os.ReadFile(filepath.Join(d.unitDir, u.Name))
		switch {
		case err == nil:
			u.Existed = true
			if err := atomicfile.Write(filepath.Join(d.unitBackup(), u.Name), data, 0o600); err != nil {
				return err
			}
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("back up the unit %s: %w", u.Name, err)
		}
		d.state.Units = append(d.state.Units, u)
	}
	return nil
}

func (d *deployment) installUnits(ctx context.Context, r *release) error {
	if len(r.Units) == 0 {
		return nil
	}
	for _, artifact := range r.Units {
		data, err := os.ReadFile(filepath.Join(d.tree().release(r.Folder), filepath.FromSlash(artifact)))
		if err != nil {
			return err
		}
		if err := atomicfile.Write(filepath.Join(d.unitDir, path.Base(artifact)), data, 0o644); err != nil {
			return err
		}
	}
	return d.call(ctx, "daemon-reload")
}

func (d *deployment) restoreUnits(ctx context.Context) error {
	if len(d.state.Units) == 0 {
		return nil
	}
	for _, u := range d.state.Units {
		installed := filepath.Join(d.unitDir, u.Name)
		if !u.Existed {
			if err := remove(installed); err != nil {
				return err
			}
			continue
		}
		data, err := os.ReadFile(filepath.Join(d.unitBackup(), u.Name))
		if err != nil {
			return err
		}
		if err := atomicfile.Write(installed, data, 0o644); err != nil {
			return err
		}
	}
	return d.call(ctx, "daemon-reload")
}

// call has systemctl do something.
func (d *deployment) call(ctx context.Context, args ...string) error {
	res, err := hook.Run(ctx, hook.Command{
		Argv: append([]string{d.systemctl}, args...), Env: hook.Environ(), Timeout: systemctlTimeout,
	}, d.env.Log)
	if err != nil {
		return err
	}
	if res.ExitCode != 0 {
		return fmt.Errorf("%s %v ended with exit code %d: %s", d.systemctl, args, res.ExitCode, res.Tail)
	}
	return nil
}

// active says whether a unit runs.
func (d *deployment) active(ctx context.Context, unit string) error {
	res, err := hook.Run(ctx, hook.Command{
		Argv: []string{d.systemctl, "is-active", unit}, Env: hook.Environ(), Probe: true,
	}, d.env.Log)
	if err != nil {
		return err
	}
	if res.ExitCode != 0 {
		return fmt.Errorf("the unit %s is %s", unit, res.Tail)
	}
	return nil
}
