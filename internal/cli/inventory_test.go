package cli

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

func withInventory(t *testing.T) (*fakeAPI, *terminal) {
	t.Helper()
	f := newFakeAPI(t)
	expected := &api.InventoryRelease{ReleaseID: "1.1", Digest: digest, At: at.Add(-time.Hour)}
	f.answer("GET /api/v1/inventory", api.Inventory{Items: []api.InventoryEntry{
		{
			TargetID: "id-a", TargetName: "a", Kind: "docker", Environment: "prod", State: api.InventorySame, Expected: expected,
			Observed: &api.InventoryObservation{Running: true, ReleaseID: "1.1", Digest: digest}, Sticker: &api.VersionSticker{ReleaseID: "1.1"},
		},
		{
			TargetID: "id-b", TargetName: "b", Kind: "docker", State: api.InventoryDiffers, Expected: expected,
			Observed: &api.InventoryObservation{}, Differences: []string{"nothing runs", "there is no sticker"},
		},
		{TargetID: "id-c", TargetName: "c", Kind: "ssh", State: api.InventoryUnknown, Problem: "the last look at it failed: no agent"},
		{TargetID: "id-d", TargetName: "d", Kind: "host", State: api.InventoryNothing, Observed: &api.InventoryObservation{}},
	}})
	f.answer("GET /api/v1/targets", api.TargetList{Items: []api.Target{{ID: "id-a", Name: "a"}, {ID: "id-c", Name: "c"}}})
	f.answer("POST /api/v1/tasks", api.Task{ID: "t1"})
	return f, newTerminal(t, f)
}

func TestInventoryCommand(t *testing.T) {
	t.Parallel()
	f, term := withInventory(t)
	term.must(t, "inventory", "--filter", "env=prod")
	want := `   TARGET  KIND    ENVIRONMENT  SHOULD RUN               STICKER  RUNS                     DIFFERENCES
✓  a       docker  prod         1.1 sha256:e3b0c44298fc  1.1      1.1 sha256:e3b0c44298fc
✗  b       docker               1.1 sha256:e3b0c44298fc  none     nothing                  nothing runs; there is no sticker
?  c       ssh                  nothing                  ?        ?                        the last look at it failed: no agent
·  d       host                 nothing                  none     nothing
`
	if diff := cmp.Diff(want, term.stdout); diff != "" {
		t.Error(diff)
	}
	asked := f.asked()
	looked := 0
	for _, r := range asked {
		if r == "POST /api/v1/tasks" {
			looked++
		}
	}
	if looked != 2 || !slices.Contains(asked, "GET /api/v1/targets?filter=env%3Dprod&limit=500&sort=name") || !strings.HasPrefix(asked[len(asked)-1], "GET /api/v1/inventory?filter=env%3Dprod") {
		t.Errorf("%v", asked)
	}
	req := taken[api.TaskRequest](t, f, "POST /api/v1/tasks")
	if req.Type != api.TaskInspect || req.DeliveryTimeout == 0 || req.IdempotencyKey == "" {
		t.Errorf("%+v", req)
	}
}

func TestInventoryKnown(t *testing.T) {
	t.Parallel()
	f, term := withInventory(t)
	if code := term.run(t.Context(), "inventory", "--known", "--exit-code", "-o", "json"); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	var got api.Inventory
	if err := json.Unmarshal([]byte(term.stdout), &got); err != nil || len(got.Items) != 4 {
		t.Errorf("%s: %v", term.stdout, err)
	}
	if asked := f.asked(); len(asked) != 1 {
		t.Errorf("%v", asked)
	}
	term.must(t, "inventory", "--known")
}

// A target that cannot be looked at does not keep the others from being shown.
func TestInventoryWithoutAnAgent(t *testing.T) {
	t.Parallel()
	f, term := withInventory(t)
	f.answer("POST /api/v1/tasks", &api.Problem{Status: 409, Title: "Conflict", Code: "agent_revoked", Detail: "its agent is revoked"})
	term.must(t, "inventory")
	if !strings.Contains(term.stderr, "a was not looked at: its agent is revoked") || !strings.Contains(term.stdout, "✗  b") {
		t.Errorf("%s%s", term.stdout, term.stderr)
	}
}
