package task_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/target"
)

// inventory is the entry of the one target d.
func (b *bench) inventory() api.InventoryEntry {
	b.t.Helper()
	tgt, err := b.tgts.Get(b.ctx, tenant, "d")
	must(b.t, err)
	list, err := b.Inventory(b.ctx, []*target.Target{tgt})
	must(b.t, err)
	return list[0]
}

func TestInventory(t *testing.T) {
	t.Parallel()
	good := map[string]any{
		"running": true, "releaseId": "r1", "digest": digest("r1"), "state": "running",
		"sticker": api.VersionSticker{ReleaseID: "r1", Digest: digest("r1"), TargetID: "t"},
	}
	with := func(change map[string]any) map[string]any {
		out := maps.Clone(good)
		for k, v := range change {
			if out[k] = v; v == nil {
				delete(out, k)
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		deployed bool
		found    map[string]any
		state    api.InventoryState
		says     string // all differences
	}{
		"as it should be":    {true, good, api.InventorySame, ""},
		"nothing at all":     {false, map[string]any{"running": false}, api.InventoryNothing, ""},
		"stopped":            {true, with(map[string]any{"running": false, "state": "exited"}), api.InventoryDiffers, "nothing runs, and r1 should: the container is exited"},
		"another release":    {true, with(map[string]any{"releaseId": "r0"}), api.InventoryDiffers, "release r0 runs, and r1 should"},
		"another image":      {true, with(map[string]any{"digest": digest("x")}), api.InventoryDiffers, "the image " + digest("x") + " runs, and " + digest("r1") + " should"},
		"no sticker":         {true, with(map[string]any{"sticker": nil}), api.InventoryDiffers, "there is no sticker"},
		"an older sticker":   {true, with(map[string]any{"sticker": map[string]any{"releaseId": "r0"}}), api.InventoryDiffers, "the sticker says r0, and r1 was deployed"},
		"a foreign sticker":  {false, with(map[string]any{"running": false}), api.InventoryDiffers, "the sticker says r1, which was not deployed by this Stella"},
		"foreign":            {false, with(map[string]any{"sticker": nil}), api.InventoryDiffers, "release r1 runs, which was not deployed by Stella"},
		"by its own account": {true, with(map[string]any{"differences": []string{"app.conf was changed"}}), api.InventoryDiffers, "app.conf was changed"},
		"broken sticker":     {true, with(map[string]any{"sticker": "yes"}), api.InventoryDiffers, "there is no sticker"},
		"a simple agent":     {true, map[string]any{"running": true, "sticker": good["sticker"]}, api.InventorySame, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			a := b.agent("a")
			b.target("d", a.ID)
			if c.deployed {
				b.submit(deploy("d", "r1", digest("r1")))
				b.run(a, map[string]any{"releaseId": "r1", "digest": digest("r1")})
				b.pass(time.Minute)
			}
			b.submit(api.TaskRequest{Type: api.TaskInspect, Target: "d"})
			b.run(a, c.found)
			e := b.inventory()
			if got := strings.Join(e.Differences, "; "); e.State != c.state || got != c.says {
				t.Errorf("%s: %q, want %s: %q", e.State, got, c.state, c.says)
			}
			if e.Problem != "" || (e.Expected != nil) != c.deployed || e.Observed == nil {
				t.Errorf("%+v", e)
			}
		})
	}
}

// What nobody has looked at since is not claimed.
func TestInventoryUnknown(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	unknown := func(want string) {
		t.Helper()
		if e := b.inventory(); e.State != api.InventoryUnknown || !strings.Contains(e.Problem, want) || e.Observed != nil {
			t.Errorf("%+v, want %q", e, want)
		}
	}
	unknown("it was never looked at")
	b.submit(api.TaskRequest{Type: api.TaskInspect, Target: "d"})
	b.run(a, map[string]any{"running": false})
	b.pass(time.Minute)
	b.submit(deploy("d", "r1", digest("r1")))
	b.run(a, map[string]any{"releaseId": "r1", "digest": digest("r1")})
	unknown("it was not looked at since r1 was deployed")
	b.pass(time.Minute)
	b.submit(api.TaskRequest{Type: api.TaskInspect, Target: "d"})
	b.finish(a, b.next(a), &api.TaskResult{Error: "the engine is away", ErrorType: api.ErrTargetUnreachable})
	unknown("the last look at it failed: the engine is away")
}

// An inspection looks at the container that was deployed, whatever it is called.
func TestInspectLooksWhereItWasDeployed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	b.target("d", a.ID)
	req := deploy("d", "r1", digest("r1"))
	req.Payload = encode(api.DeployPayload{Image: "reg.test/app", Digest: digest("r1"), Config: api.DeployConfig{ContainerName: "shop", ReleaseID: "r1"}})
	b.submit(req)
	b.run(a, map[string]any{"releaseId": "r1"})
	for given, want := range map[string]string{"": "shop", "other": "other"} {
		b.submit(api.TaskRequest{Type: api.TaskInspect, Target: "d", Payload: encode(api.InspectPayload{ContainerName: given})})
		k := b.next(a)
		var p api.InspectPayload
		if err := json.Unmarshal(k.Payload, &p); err != nil || p.ContainerName != want {
			t.Errorf("%q: %s, %v", given, k.Payload, err)
		}
		b.finish(a, k, &api.TaskResult{Success: true})
	}
}
