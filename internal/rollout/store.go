package rollout

import (
	"context"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/event"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

// Store keeps rollouts. A missing one is a fault of kind NotFound.
type Store interface {
	// InsertRollout adds a rollout. If the tenant has one with the same
	// idempotency key already, it adds nothing and returns that one; otherwise
	// it returns nil.
	InsertRollout(ctx context.Context, r *Rollout) (first *Rollout, err error)
	// RolloutByKey returns the tenant's rollout with that idempotency key, or
	// nil.
	RolloutByKey(ctx context.Context, tenant, key string) (*Rollout, error)
	Rollout(ctx context.Context, tenant, id string) (*Rollout, error)
	// Rollouts returns a page of rollouts without their payloads, the newest
	// first unless the filter says another order.
	Rollouts(ctx context.Context, tenant string, f Filter) ([]*Rollout, error)
	// UpdateRollout writes a rollout that was read at r.Version, and raises the
	// version; false when somebody has written since.
	UpdateRollout(ctx context.Context, r *Rollout) (bool, error)
	// MovingRollouts returns the ids, with their tenants, of the rollouts that
	// have something to do.
	MovingRollouts(ctx context.Context) ([]Ref, error)
}

// Ref names a rollout.
type Ref struct{ TenantID, ID string }

// Targets are the targets there are.
type Targets interface {
	// Get returns the target with that id, or else with that name.
	Get(ctx context.Context, tenant, idOrName string) (*target.Target, error)
	List(ctx context.Context, tenant string, f target.Filter) ([]*target.Target, error)
}

// Tasks does the work on one target.
type Tasks interface {
	// Check refuses a request that could never run, and returns the task that
	// it would be.
	Check(ctx context.Context, tenant, by string, req api.TaskRequest) (*task.Task, error)
	// Submit queues a task; a key that was seen returns the first one.
	Submit(ctx context.Context, tenant, by string, req api.TaskRequest) (t *task.Task, existed bool, err error)
	Get(ctx context.Context, tenant, id string) (*task.Task, error)
	// Cancel asks for a task's end.
	Cancel(ctx context.Context, tenant, id, by string) (*task.Task, error)
	// ByKey returns the task with that idempotency key, or nil.
	ByKey(ctx context.Context, tenant, key string) (*task.Task, error)
	// Current returns what was deployed last on a target; nil when nothing was.
	Current(ctx context.Context, tenant, targetID string) (*task.Deployment, error)
}

// Sealer encrypts what is kept at rest; what was sealed under one name does not
// open under another.
type Sealer interface {
	Seal(name string, plain []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// Publisher tells people what became of rollouts.
type Publisher = event.Publisher

// Schema is what rollouts can be asked by.
var Schema = &filter.Schema{
	Of: "rollouts", ID: "id", Order: "-id",
	Fields: []filter.Field{
		{Name: "id", Sortable: true},
		{Name: "state", Aliases: []string{"status"}, Kind: filter.Word, Words: []string{
			string(api.RolloutRunning), string(api.RolloutPaused), string(api.RolloutStopped), string(api.RolloutRollingBack), string(api.RolloutCancelling),
			string(api.RolloutSucceeded), string(api.RolloutFailed), string(api.RolloutRolledBack), string(api.RolloutCancelled),
		}},
		{Name: "release", Aliases: []string{"releaseId"}},
		{Name: "reason"},
		{Name: "createdBy", Aliases: []string{"by"}},
		{Name: "createdAt", Aliases: []string{"created"}, Kind: filter.Time, Sortable: true},
		{Name: "updatedAt", Aliases: []string{"updated"}, Kind: filter.Time},
	},
}

var _ filter.Row = (*Rollout)(nil)

// Field implements filter.Row.
func (r *Rollout) Field(name string, _ time.Time) any {
	switch name {
	case "id":
		return r.ID
	case "state":
		return string(r.State)
	case "release":
		return r.ReleaseID
	case "reason":
		return r.Reason
	case "createdBy":
		return r.CreatedBy
	case "createdAt":
		return r.CreatedAt
	case "updatedAt":
		return r.UpdatedAt
	}
	return nil
}

// Filter picks rollouts.
type Filter struct {
	// Query is what must match, the order, and where the page begins.
	Query filter.Query
	Limit int
}
