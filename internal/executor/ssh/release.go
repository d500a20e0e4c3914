package ssh

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/artifact"
	"stella-ops.org/stella/internal/executor/sticker"
)

// Names in a target's folder that are Stella's own; remote.sh has the others.
const (
	metaFile      = ".stella-release.json"
	previousDir   = ".stella-previous"
	backupDir     = ".stella-backup"
	switchingFile = ".stella-switching"
	startLog      = ".stella-start.log"
	startedFile   = ".stella-started"
	stagePrefix   = ".stella-new-"
)

// release is what a target's folder says of the release in it. It holds the
// release's environment and stays on the host, 0600.
type release struct {
	ReleaseID   string            `json:"releaseId"`
	ReleaseName string            `json:"releaseName,omitempty"`
	TaskID      string            `json:"taskId"`
	DeployedAt  time.Time         `json:"deployedAt"`
	Files       []file            `json:"files"`
	Start       string            `json:"start,omitempty"`
	Stop        string            `json:"stop,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
	HealthCheck *api.HealthCheck  `json:"healthCheck,omitempty"`
	// ScriptTimeout is that of the deploy scripts, in seconds.
	ScriptTimeout int64 `json:"scriptTimeout,omitempty"`
}

// file is one of a release's files, as it was deployed.
type file struct {
	Name   string `json:"name"`
	Type   string `json:"type,omitempty"`
	Mode   string `json:"mode"`
	SHA256 string `json:"sha256"`
}

// folder is the file's folder, relative to the target's.
func (f *file) folder() string { return path.Dir(f.Name) }

// runs says whether there is something of the release to stop and start.
func (r *release) runs() bool { return r.Start != "" || r.Stop != "" || len(r.scripts()) > 0 }

func (r *release) scripts() []string {
	var names []string
	for i := range r.Files {
		if r.Files[i].Type == artifact.TypeDeployScript {
			names = append(names, r.Files[i].Name)
		}
	}
	return names
}

// folders are those of the files, the deepest first, without the target's own.
func folders(files []file) []string {
	seen := map[string]bool{}
	var all []string
	for i := range files {
		for dir := files[i].folder(); dir != "." && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			all = append(all, dir)
		}
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	return all
}

// sight is what a look at the target's folder has found.
type sight struct {
	exists   bool
	current  *release // nil: no release of Stella's
	previous *release // what is kept to go back to
	sticker  sticker.Former
	values   map[string]string
}

// look prints what sight holds. The folder may be missing.
const look = `
if [ -d "$dir" ]; then
  cd "$dir" || exit
  value exists yes
  section release .stella-release.json
  section previous .stella-previous/.stella-release.json
fi
if [ -e "$sticker" ] && [ ! -f "$sticker" ]; then die "$sticker is no file; choose another path for the sticker"; fi
section sticker "$sticker"
`

// see looks at the target's folder, and changes nothing. more is a script that
// goes on in the folder, if it is there.
func (r *remote) see(ctx context.Context, stickerPath, more string) (*sight, error) {
	body := "sticker=" + quote(stickerPath) + "\n" + look
	if more != "" {
		body += "[ -d \"$dir\" ] || exit 0\n" + more
	}
	f, err := r.anywhere(ctx, body)
	if err != nil {
		return nil, err
	}
	s := &sight{exists: f.values["exists"] == "yes", values: f.values}
	if s.current, err = f.release("release"); err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", metaFile, r.dir, err)
	}
	if s.previous, err = f.release("previous"); err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", metaFile, path.Join(r.dir, previousDir), err)
	}
	if data, ok := f.files["sticker"]; ok {
		s.sticker = sticker.Former{Existed: true, Data: data}
	}
	return s, nil
}

// release reads the description of a release that a script has printed; nil
// when there was none. Names that lead elsewhere are not believed.
func (f *found) release(name string) (*release, error) {
	data, ok := f.files[name]
	if !ok {
		return nil, nil //nolint:nilnil // no release is none
	}
	r := &release{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, err
	}
	for i := range r.Files {
		if err := artifact.CheckName(r.Files[i].Name); err != nil {
			return nil, err
		}
	}
	return r, nil
}
