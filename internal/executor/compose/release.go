package compose

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"stella-ops.org/stella/api"
)

// The names that a target's folder has.
const (
	envName      = ".stella.env"
	metaName     = ".stella-release.json"
	previousName = ".stella-previous"
	backupName   = ".stella-backup"
	stagingName  = ".stella-new-"
	stickerName  = "version.json"
)

// model is what compose is called with for a release, and what it makes then.
// It goes into the journal.
type model struct {
	Profiles []string  `json:"profiles,omitempty"`
	EnvFiles []string  `json:"envFiles,omitempty"`
	Services []service `json:"services"`
	// Networks are the names that the engine knows them by.
	Networks []string `json:"networks,omitempty"`
}

// service is a service that runs.
type service struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	// Count is how many containers it has.
	Count int `json:"count"`
}

// find returns the service of a name; nil when there is none.
func (m *model) find(name string) *service {
	for i := range m.Services {
		if m.Services[i].Name == name {
			return &m.Services[i]
		}
	}
	return nil
}

// release is what a release says of itself in the target's folder, 0600. Its
// variables are not in it, they have a file of their own.
type release struct {
	ReleaseID   string           `json:"releaseId"`
	ReleaseName string           `json:"releaseName,omitempty"`
	TaskID      string           `json:"taskId"`
	DeployedAt  time.Time        `json:"deployedAt"`
	Project     string           `json:"project"`
	HealthCheck *api.HealthCheck `json:"healthCheck,omitempty"`
	// Files are all files that the release has brought, this one too.
	Files []string `json:"files"`
	model
}

// readRelease returns what the release in a folder says of itself; nil when
// there is none.
func readRelease(dir string) (*release, error) {
	data, err := os.ReadFile(filepath.Join(dir, metaName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no release is none
	}
	if err != nil {
		return nil, fmt.Errorf("read the release in %s: %w", dir, err)
	}
	r := &release{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%s cannot be read (%w); stop the project, move the file away, then deploy again", filepath.Join(dir, metaName), err)
	}
	return r, nil
}

// says is a release as a sentence names it.
func (r *release) says() string {
	if r.ReleaseName != "" && r.ReleaseName != r.ReleaseID {
		return fmt.Sprintf("release %s (%s)", r.ReleaseID, r.ReleaseName)
	}
	return "release " + r.ReleaseID
}
