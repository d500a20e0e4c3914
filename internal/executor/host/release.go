package host

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/atomicfile"
)

const (
	releasesDir   = "releases"
	currentLink   = "current"
	currentTmp    = ".stella-current"
	stagingPrefix = ".stella-new-"
	metaFile      = ".stella-release.json"
	envFile       = ".stella.env"
	startLog      = ".stella-start.log"
)

var releaseIDPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$`)

// release is what a release's folder says of itself. It holds the release's
// environment and stays in that folder, 0600.
type release struct {
	ReleaseID   string            `json:"releaseId"`
	ReleaseName string            `json:"releaseName,omitempty"`
	TaskID      string            `json:"taskId"`
	DeployedAt  time.Time         `json:"deployedAt"`
	Previous    string            `json:"previous,omitempty"`
	Start       string            `json:"start,omitempty"`
	Stop        string            `json:"stop,omitempty"`
	Unit        string            `json:"unit,omitempty"`
	Units       []string          `json:"units,omitempty"` // the systemd_unit artifacts' names
	Environment map[string]string `json:"environment,omitempty"`
	HealthCheck *api.HealthCheck  `json:"healthCheck,omitempty"`
	// Folder is the folder's own name.
	Folder string `json:"-"`
}

// tree is a target's folder.
type tree string

func (t tree) path(elem ...string) string {
	return filepath.Join(append([]string{string(t)}, elem...)...)
}

func (t tree) release(folder string) string { return t.path(releasesDir, folder) }

// read returns what a release's folder says of itself.
func (t tree) read(folder string) (*release, error) {
	data, err := os.ReadFile(filepath.Join(t.release(folder), metaFile))
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", folder, err)
	}
	r := &release{Folder: folder}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("read release %s: %w", folder, err)
	}
	return r, nil
}

// write puts a release's own file into a folder that holds its files.
func (r *release) write(folder string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(folder, metaFile), append(data, '\n'), 0o600); err != nil {
		return err
	}
	if len(r.Environment) == 0 {
		return nil
	}
	return atomicfile.Write(filepath.Join(folder, envFile), []byte(environmentFile(r.Environment)), 0o600)
}

// environmentFile is an environment as systemd's EnvironmentFile= reads it, so
// that a unit can have the release's.
func environmentFile(env map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(env)) {
		value := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", "$", `\$`).Replace(env[name])
		fmt.Fprintf(&b, "%s=\"%s\"\n", name, value)
	}
	return b.String()
}

// current returns the folder that current points to; "" when there is none.
func (t tree) current() (string, error) {
	link := t.path(currentLink)
	target, err := os.Readlink(link)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s is not a link that Stella made (%w); move it away, then deploy again", link, err)
	}
	dir, folder := filepath.Split(filepath.Clean(target))
	if filepath.Clean(dir) != releasesDir && filepath.Clean(dir) != t.path(releasesDir) {
		return "", fmt.Errorf("%s points to %s, which is no release of Stella's; move the link away, then deploy again", link, target)
	}
	return folder, nil
}

// point makes current point to a release; "" removes it.
func (t tree) point(folder string) error {
	if err := os.Remove(t.path(currentTmp)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if folder == "" {
		return remove(t.path(currentLink))
	}
	return symlink(filepath.Join(releasesDir, folder), t.path(currentLink), t.path(currentTmp))
}

// releases are all that are there, the newest first. A folder that says
// nothing of itself is not Stella's and is left out.
func (t tree) releases() ([]*release, error) {
	entries, err := os.ReadDir(t.path(releasesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []*release
	for _, entry := range entries {
		if !entry.IsDir() || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		if r, err := t.read(entry.Name()); err == nil {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b *release) int {
		return cmp.Or(b.DeployedAt.Compare(a.DeployedAt), cmp.Compare(b.Folder, a.Folder))
	})
	return all, nil
}

// prune removes the oldest releases so that keep remain, and what killed
// deployments left; never the current release or the one before it.
func (t tree) prune(keep int) error {
	current, err := t.current()
	if err != nil {
		return err
	}
	all, err := t.releases()
	if err != nil {
		return err
	}
	previous := ""
	for _, r := range all {
		if r.Folder == current {
			previous = r.Previous
		}
	}
	left := len(all)
	for _, r := range slices.Backward(all) {
		if left <= keep {
			break
		}
		if r.Folder == current || r.Folder == previous {
			continue
		}
		if err := os.RemoveAll(t.release(r.Folder)); err != nil {
			return fmt.Errorf("remove the old release %s: %w", r.Folder, err)
		}
		left--
	}
	stale, err := filepath.Glob(t.path(releasesDir, stagingPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range stale {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}
