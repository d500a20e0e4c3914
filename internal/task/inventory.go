package task

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/target"
)

// Inventory compares, for each target, what should run there (what succeeded
// last), what its sticker says, and what really ran when somebody last looked,
// which an inspect task does.
func (s *Service) Inventory(ctx context.Context, targets []*target.Target) ([]api.InventoryEntry, error) {
	out := make([]api.InventoryEntry, len(targets))
	for i, t := range targets {
		e := &out[i]
		*e = api.InventoryEntry{TargetID: t.ID, TargetName: t.Name, Kind: t.Kind, Environment: t.Environment}
		current, err := s.Current(ctx, t.TenantID, t.ID)
		if err != nil {
			return nil, err
		}
		if current != nil {
			e.Expected = &api.InventoryRelease{ReleaseID: current.ReleaseID, Digest: current.Digest, TaskID: current.TaskID, At: current.At}
		}
		looks, err := s.store.Tasks(ctx, t.TenantID, Filter{TargetID: t.ID, Type: api.TaskInspect, Limit: 20})
		if err != nil {
			return nil, err
		}
		look(e, looks)
		compare(e)
	}
	return out, nil
}

// look takes over what the last inspection that is over has found.
func look(e *api.InventoryEntry, looks []*Task) {
	i := slices.IndexFunc(looks, func(k *Task) bool { return k.State.Final() })
	if i < 0 {
		e.Problem = "it was never looked at"
		return
	}
	k := looks[i]
	if k.State != api.TaskSucceeded || k.Result == nil {
		e.Problem = "the last look at it failed: " + k.Reason
		if k.Reason == "" {
			e.Problem = "the last look at it was " + string(k.State)
		}
		return
	}
	if e.Expected != nil && k.FinishedAt.Before(e.Expected.At) {
		e.Problem = "it was not looked at since " + e.Expected.ReleaseID + " was deployed"
		return
	}
	outputs := k.Result.Outputs
	text := func(name string) string { v, _ := outputs[name].(string); return v }
	running, _ := outputs["running"].(bool)
	e.Observed = &api.InventoryObservation{
		Running: running, ReleaseID: text("releaseId"), Digest: text("digest"), State: text("state"), TaskID: k.ID, At: k.FinishedAt.Truncate(time.Millisecond),
	}
	e.Sticker = stickerOf(outputs["sticker"])
	if own, ok := outputs["differences"].([]any); ok {
		for _, d := range own {
			if line, ok := d.(string); ok {
				e.Differences = append(e.Differences, line)
			}
		}
	}
}

func stickerOf(v any) *api.VersionSticker {
	if v == nil {
		return nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	var s api.VersionSticker
	if json.Unmarshal(data, &s) != nil || s.ReleaseID == "" {
		return nil
	}
	return &s
}

// compare says how what should run, what runs and what the sticker says differ.
func compare(e *api.InventoryEntry) {
	if e.Observed == nil {
		e.State = api.InventoryUnknown
		return
	}
	say := func(format string, args ...any) { e.Differences = append(e.Differences, fmt.Sprintf(format, args...)) }
	want, have := e.Expected, e.Observed
	switch {
	case want == nil && !have.Running && e.Sticker == nil && len(e.Differences) == 0:
		e.State = api.InventoryNothing
		return
	case want == nil && have.Running:
		say("%s runs, which was not deployed by Stella", named(have.ReleaseID, have.Digest))
	case want == nil:
	case !have.Running:
		say("nothing runs, and %s should%s", want.ReleaseID, because(have.State))
	case have.ReleaseID != "" && have.ReleaseID != want.ReleaseID:
		say("release %s runs, and %s should", have.ReleaseID, want.ReleaseID)
	}
	if want != nil && have.Running && want.Digest != "" && have.Digest != "" && want.Digest != have.Digest {
		say("the image %s runs, and %s should", have.Digest, want.Digest)
	}
	switch st := e.Sticker; {
	case want != nil && st == nil:
		say("there is no sticker")
	case st == nil:
	case want == nil:
		say("the sticker says %s, which was not deployed by this Stella", st.ReleaseID)
	case st.ReleaseID != want.ReleaseID:
		say("the sticker says %s, and %s was deployed", st.ReleaseID, want.ReleaseID)
	case want.Digest != "" && st.Digest != "" && st.Digest != want.Digest:
		say("the sticker says the image %s, and %s was deployed", st.Digest, want.Digest)
	}
	e.State = api.InventorySame
	if len(e.Differences) > 0 {
		e.State = api.InventoryDiffers
	}
}

func named(release, digest string) string {
	switch {
	case release != "":
		return "release " + release
	case digest != "":
		return "the image " + digest
	}
	return "something"
}

func because(state string) string {
	if state == "" || strings.EqualFold(state, "running") {
		return ""
	}
	return ": the container is " + state
}

// defaultContainer fills in the container's name that was deployed under, for an
// inspection that does not say one.
func (s *Service) defaultContainer(ctx context.Context, tgt *target.Target, raw json.RawMessage) (json.RawMessage, error) {
	var p api.InspectPayload
	if tgt.Kind != "docker" || len(raw) > 0 && json.Unmarshal(raw, &p) != nil || p.ContainerName != "" {
		return raw, nil //nolint:nilerr // what is wrong with a payload is said where it is checked
	}
	current, err := s.Current(ctx, tgt.TenantID, tgt.ID)
	if err != nil || current == nil {
		return raw, err
	}
	var d api.DeployPayload
	if json.Unmarshal(current.Payload, &d) != nil || d.Config.ContainerName == "" {
		return raw, nil //nolint:nilerr // a history that says nothing leaves the name as it is
	}
	p.ContainerName = d.Config.ContainerName
	return json.Marshal(p)
}
