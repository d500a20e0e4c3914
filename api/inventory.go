package api

import "time"

// InventoryState says in a word how what should run on a target and what runs
// there compare.
type InventoryState string

// The states of a target in the inventory.
const (
	InventorySame    InventoryState = "same"    // what should run runs, and the sticker says so
	InventoryDiffers InventoryState = "differs" // Differences says how
	InventoryUnknown InventoryState = "unknown" // nobody has looked since; Problem says why
	InventoryNothing InventoryState = "nothing" // nothing was deployed there, and nothing runs
)

// InventoryEntry is what should run on a target, what its sticker says, and
// what really ran when it was looked at last.
type InventoryEntry struct {
	TargetID    string                `json:"targetId" doc:"The target's id."`
	TargetName  string                `json:"targetName" doc:"The target's name."`
	Kind        string                `json:"kind" doc:"docker, compose, ssh or host."`
	Environment string                `json:"environment,omitempty" doc:"The target's environment."`
	State       InventoryState        `json:"state" enum:"same,differs,unknown,nothing" doc:"How they compare."`
	Expected    *InventoryRelease     `json:"expected,omitempty" doc:"What should run: what was deployed or rolled back to last, with success."`
	Observed    *InventoryObservation `json:"observed,omitempty" doc:"What really ran when the target was looked at last."`
	Sticker     *VersionSticker       `json:"sticker,omitempty" doc:"What the target said of itself then."`
	Differences []string              `json:"differences,omitempty" doc:"In which ways they differ, in words."`
	Problem     string                `json:"problem,omitempty" doc:"Why it is unknown, in words."`
}

// InventoryRelease is what should run.
type InventoryRelease struct {
	ReleaseID string    `json:"releaseId" doc:"The release's id."`
	Digest    string    `json:"digest,omitempty" doc:"docker: the image's digest."`
	TaskID    string    `json:"taskId" doc:"The task that brought it."`
	At        time.Time `json:"at" doc:"Since when."`
}

// InventoryObservation is what really ran.
type InventoryObservation struct {
	Running   bool      `json:"running" doc:"Whether anything ran."`
	ReleaseID string    `json:"releaseId,omitempty" doc:"The release that ran, as far as it could be told."`
	Digest    string    `json:"digest,omitempty" doc:"docker: the image's digest."`
	State     string    `json:"state,omitempty" doc:"docker: the container's state."`
	TaskID    string    `json:"taskId" doc:"The task that looked."`
	At        time.Time `json:"at" doc:"When it looked."`
}

// Inventory is the answer of GET /api/v1/inventory.
type Inventory struct {
	Items []InventoryEntry `json:"items" nullable:"false" doc:"The targets of this page."`
	Next  string           `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
}
