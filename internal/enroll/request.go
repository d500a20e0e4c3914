package enroll

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// describe makes the agent that a request speaks of.
func describe(req *api.RegisterRequest, csr *Request, tenant string, now time.Time) *fleet.Agent {
	return &fleet.Agent{
		ID: req.ID, TenantID: tenant, Name: req.Name, Version: req.Version,
		Lifecycle: api.LifecycleActive, Liveness: api.Live,
		Group: req.Group, Environment: req.Environment, Platform: req.Platform,
		Labels: req.Labels, Capabilities: req.Capabilities, Routes: req.Routes,
		EncryptionKey: req.EncryptionPublicKey, PublicKeyHash: csr.PublicKeyHash, SignsHeartbeats: req.SignsHeartbeats,
		LastHeartbeat: now, CreatedAt: now, UpdatedAt: now,
	}
}

// keep carries over what a new registration does not change: what people
// decided, and labels that they may have set.
func keep(a, old *fleet.Agent) {
	a.Lifecycle, a.CreatedAt = old.Lifecycle, old.CreatedAt
	if a.Labels == nil {
		a.Labels = old.Labels
	}
}

// bind puts what the token binds over what the agent says. Capabilities are
// cut down to those that both name; labels are merged.
func (t *Token) bind(req *api.RegisterRequest) error {
	if t.AgentID != "" && req.ID != "" && t.AgentID != req.ID {
		return fault.InvalidField("body.id", "the token is bound to %q, the agent says %q", t.AgentID, req.ID)
	}
	if t.Platform != "" && req.Platform != "" && system(t.Platform) != system(req.Platform) {
		return fault.InvalidField("body.platform", "the token is for an agent on %s, and this one is on %s: make one for it with `stella agent bootstrap --platform %s`", t.Platform, req.Platform, system(req.Platform))
	}
	override := func(field *string, bound string) {
		if bound != "" {
			*field = bound
		}
	}
	override(&req.ID, t.AgentID)
	override(&req.Name, t.Name)
	override(&req.Environment, t.Environment)
	override(&req.Group, t.Group)
	override(&req.Platform, t.Platform)
	if len(t.Capabilities) > 0 {
		req.Capabilities = slices.DeleteFunc(slices.Clone(req.Capabilities), func(c string) bool {
			return !slices.ContainsFunc(t.Capabilities, func(have string) bool { return fleet.Covers(have, c) })
		})
	}
	if len(t.Labels) > 0 {
		req.Labels = withLabels(req.Labels, t.Labels)
	}
	if req.Name == "" {
		return fault.InvalidField("body.name", "neither the agent nor its token gives a name")
	}
	return nil
}

// system is the operating system of a platform. An agent in a container cannot
// always tell that it is in one.
func system(platform string) string {
	if platform == "docker" {
		return "linux"
	}
	return platform
}

// withLabels puts labels over others, and leaves both as they are.
func withLabels(labels, over map[string]string) map[string]string {
	merged := make(map[string]string, len(labels)+len(over))
	maps.Copy(merged, labels)
	maps.Copy(merged, over)
	return merged
}

func validateWords(words map[string]string) error {
	for _, location := range slices.Sorted(maps.Keys(words)) {
		if err := fleet.ValidateWord(location, words[location]); err != nil {
			return err
		}
	}
	return nil
}

func validate(req *api.RegisterRequest) error {
	if req.ID != "" {
		if err := fleet.ValidateID(req.ID); err != nil {
			return err
		}
	}
	if req.Name != "" {
		if err := fleet.ValidateName(req.Name); err != nil {
			return err
		}
	}
	if err := validateWords(map[string]string{
		"body.version": req.Version, "body.group": req.Group, "body.environment": req.Environment, "body.platform": req.Platform,
	}); err != nil {
		return err
	}
	for i, r := range req.Routes {
		if err := fleet.ValidateWord(fmt.Sprintf("body.routes[%d]", i), r); err != nil {
			return err
		}
	}
	if err := fleet.ValidateLabels("body.labels", req.Labels); err != nil {
		return err
	}
	return fleet.ValidateCapabilities("body.capabilities", req.Capabilities)
}
