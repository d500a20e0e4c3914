// Package target knows what is deployed to: targets, how they are reached, and
// which agents may serve them.
//
// It knows no SQL, no HTTP and no executor.
package target

import (
	"context"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// Kinds are the kinds of target that there are executors for.
var Kinds = []string{"docker", "compose", "ssh", "host"}

// Target is something that is deployed to. Either AgentID names the one agent
// that reaches it, or Selector picks the agents that do.
type Target struct {
	ID          string
	TenantID    string
	Name        string
	Kind        string
	AgentID     string
	Selector    *api.AgentSelector
	Environment string
	Labels      map[string]string
	Config      api.TargetConfig
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// ServedBy reports whether an agent may serve the target.
func (t *Target) ServedBy(a *fleet.Agent) bool {
	if t.Selector == nil {
		return t.AgentID == a.ID
	}
	s := t.Selector
	if s.Group != "" && s.Group != a.Group || s.Environment != "" && s.Environment != a.Environment {
		return false
	}
	for k, v := range s.Labels {
		if a.Labels[k] != v {
			return false
		}
	}
	return true
}

// The name is also the default name of a container, so it keeps to Docker's
// letters.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

func (t *Target) validate() error {
	if !namePattern.MatchString(t.Name) {
		return fault.InvalidField("body.name", "give 1 to 128 letters, digits, dots, underscores or hyphens, beginning with a letter or digit")
	}
	if !slices.Contains(Kinds, t.Kind) {
		return fault.InvalidField("body.kind", "%q is no kind of target: use %s", t.Kind, strings.Join(Kinds, " or "))
	}
	if err := fleet.ValidateLabels("body.labels", t.Labels); err != nil {
		return err
	}
	if (t.AgentID == "") == (t.Selector == nil) {
		return fault.InvalidField("body.agent", "say which agent reaches the target: either one by agent, or any that match by agentSelector")
	}
	if s := t.Selector; s != nil && s.Group == "" && s.Environment == "" && len(s.Labels) == 0 {
		return fault.InvalidField("body.agentSelector", "an empty selector would match every agent: give a group, an environment or labels")
	}
	return t.validateConfig()
}

func (t *Target) validateConfig() error {
	c := t.Config
	if t.Kind != "docker" && !isAbsolute(c.Directory) {
		return fault.InvalidField("body.config.directory", "%s target needs the absolute path of the folder that is deployed to",
			map[string]string{"compose": "a compose", "ssh": "an ssh", "host": "a host"}[t.Kind])
	}
	if err := t.validateSSH(); err != nil {
		return err
	}
	if c.Project != "" && (t.Kind != "compose" || !projectPattern.MatchString(c.Project)) {
		return fault.InvalidField("body.config.project", "a compose project's name is made of lower-case letters, digits, hyphens and underscores, and begins with a letter or digit")
	}
	if c.Directory != "" && path.Clean(strings.ReplaceAll(c.Directory, `\`, "/")) == "/" {
		return fault.InvalidField("body.config.directory", "releases cannot live in the root folder itself")
	}
	if c.StickerPath != "" && !isAbsolute(c.StickerPath) {
		return fault.InvalidField("body.config.stickerPath", "give an absolute path")
	}
	if c.StickerLocation == "volume" && c.StickerVolume == "" {
		return fault.InvalidField("body.config.stickerVolume", "a sticker in a volume needs the volume's name")
	}
	return nil
}

// isAbsolute takes the paths of both worlds: the agent may run on Windows.
func isAbsolute(p string) bool {
	return strings.HasPrefix(p, "/") || len(p) > 2 && p[1] == ':' && (p[2] == '\\' || p[2] == '/')
}

// Store keeps targets. A missing one is a fault of kind NotFound, a name that
// is taken one of kind Conflict.
type Store interface {
	InsertTarget(ctx context.Context, t *Target) error
	// Target returns the target with that id, or else with that name.
	Target(ctx context.Context, tenant, idOrName string) (*Target, error)
	// Targets returns a page of targets, in the order of their ids unless the
	// filter says another.
	Targets(ctx context.Context, tenant string, f Filter) ([]*Target, error)
	UpdateTarget(ctx context.Context, t *Target) error
	// DeleteTarget removes the target unless a task on it is not over: that
	// is a fault of kind Conflict. Its ended tasks stay.
	DeleteTarget(ctx context.Context, tenant, id string) error
}
