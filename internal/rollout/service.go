package rollout

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/target"
)

// maxTargets is how many targets a rollout has at the most.
const maxTargets = 500

// Service holds the rules about rollouts. It is safe for concurrent use, by
// many servers over one store.
type Service struct {
	store   Store
	targets Targets
	tasks   Tasks
	seal    Sealer
	publish Publisher
	now     func() time.Time
	log     *slog.Logger
	nudge   chan struct{}
}

// NewService returns a service over a store; Run moves its rollouts on.
func NewService(store Store, targets Targets, tasks Tasks, seal Sealer, publish Publisher, now func() time.Time, log *slog.Logger) *Service {
	// What is kept has microseconds.
	kept := func() time.Time { return now().UTC().Truncate(time.Microsecond) }
	return &Service{store: store, targets: targets, tasks: tasks, seal: seal, publish: publish, now: kept, log: log, nudge: make(chan struct{}, 1)}
}

// content is the part of a rollout that is kept encrypted.
type content struct {
	Payload     json.RawMessage  `json:"payload"`
	Credentials *api.Credentials `json:"credentials,omitempty"`
}

// SealName is what a rollout's content is sealed under at rest.
func SealName(id string) string { return "rollout/" + id }

// Preview says what a rollout would do, target by target, and does nothing.
func (s *Service) Preview(ctx context.Context, tenant, by string, req api.RolloutRequest) (*api.RolloutPreview, error) {
	found, err := s.pick(ctx, tenant, req)
	if err != nil {
		return nil, err
	}
	var to api.DeployPayload
	if err := json.Unmarshal(req.Payload, &to); err != nil {
		return nil, fault.InvalidField("body.payload", "it does not parse: %v", err)
	}
	out := &api.RolloutPreview{Targets: make([]api.RolloutPreviewTarget, len(found))}
	for i, t := range found {
		line := &out.Targets[i]
		*line = api.RolloutPreviewTarget{ID: t.ID, Name: t.Name, Kind: t.Kind, Environment: t.Environment, To: to.Config.ReleaseID, ToDigest: to.Digest}
		current, err := s.tasks.Current(ctx, tenant, t.ID)
		if err != nil {
			return nil, err
		}
		if current != nil {
			line.From, line.FromDigest, line.FromAt = current.ReleaseID, current.Digest, &current.At
		}
		if _, err := s.tasks.Check(ctx, tenant, by, req.Task(t.ID)); err != nil {
			f := fault.As(err)
			if f == nil || f.Kind == fault.Unavailable {
				return nil, err
			}
			line.Problem = f.Message
			out.Problems++
		}
	}
	return out, nil
}

// Create begins a rollout. Every target is checked first: one that cannot be
// served refuses the whole. An idempotency key that was seen returns the first
// rollout with existed true.
func (s *Service) Create(ctx context.Context, tenant, by string, req api.RolloutRequest) (r *Rollout, existed bool, err error) {
	if req.IdempotencyKey != "" {
		first, err := s.store.RolloutByKey(ctx, tenant, req.IdempotencyKey)
		if err != nil || first != nil {
			return first, first != nil, err
		}
	}
	plan, err := planOf(&req)
	if err != nil {
		return nil, false, err
	}
	found, err := s.pick(ctx, tenant, req)
	if err != nil {
		return nil, false, err
	}
	now := s.now()
	r = &Rollout{
		ID: uuid.Must(uuid.NewV7()).String(), TenantID: tenant, State: api.RolloutRunning, Plan: plan, Targets: make([]Target, len(found)),
		IdempotencyKey: req.IdempotencyKey, Version: 1, CreatedBy: by, CreatedAt: now, UpdatedAt: now,
	}
	for i, t := range found {
		checked, err := s.tasks.Check(ctx, tenant, by, req.Task(t.ID))
		if err != nil {
			if f := fault.As(err); f != nil {
				f.Message = "target " + t.Name + ": " + f.Message
			}
			return nil, false, err
		}
		r.Payload = checked.Payload
		r.Targets[i] = Target{ID: t.ID, Name: t.Name, State: api.RolloutTargetPending}
	}
	var p api.DeployPayload
	if err := json.Unmarshal(req.Payload, &p); err != nil {
		return nil, false, fault.InvalidField("body.payload", "it does not parse: %v", err)
	}
	r.ReleaseID, r.ReleaseName = p.Config.ReleaseID, p.Config.ReleaseName
	plain, err := json.Marshal(content{Payload: req.Payload, Credentials: req.Credentials})
	if err != nil {
		return nil, false, fmt.Errorf("encode rollout: %w", err)
	}
	if r.Sealed, err = s.seal.Seal(SealName(r.ID), plain); err != nil {
		return nil, false, err
	}
	if first, err := s.store.InsertRollout(ctx, r); err != nil || first != nil {
		return first, first != nil, err
	}
	s.moved(r)
	return r, false, nil
}

func planOf(req *api.RolloutRequest) (Plan, error) {
	p := Plan{
		MaxParallel: cmp.Or(req.MaxParallel, 1), MaxFailures: cmp.Or(req.MaxFailures, 1), PauseAfter: req.PauseAfter,
		OnFailure: cmp.Or(req.OnFailure, api.OnFailureStop), Timeout: req.Timeout, DeliveryTimeout: req.DeliveryTimeout, Priority: req.Priority,
	}
	switch req.Strategy {
	case "", "rolling":
	case "all-at-once":
		if req.MaxParallel > 0 {
			return p, fault.InvalidField("body.maxParallel", "all-at-once has no limit: leave it out, or roll")
		}
		p.MaxParallel = maxTargets
	default:
		return p, fault.InvalidField("body.strategy", "%q is no strategy: use rolling or all-at-once", req.Strategy)
	}
	switch p.OnFailure {
	case api.OnFailureStop, api.OnFailureRollbackFailed, api.OnFailureRollbackAll:
	default:
		return p, fault.InvalidField("body.onFailure", "%q is nothing to do on failure: use stop, rollback-failed or rollback-all", p.OnFailure)
	}
	if p.MaxParallel < 0 || p.MaxFailures < 0 || p.PauseAfter < 0 {
		return p, fault.InvalidField("body", "maxParallel, maxFailures and pauseAfter cannot be less than nothing")
	}
	return p, nil
}

// pick returns the targets that a request means, each once, all of one kind.
func (s *Service) pick(ctx context.Context, tenant string, req api.RolloutRequest) ([]*target.Target, error) {
	if (len(req.Targets) > 0) == (req.Filter != "") {
		return nil, fault.InvalidField("body.targets", "say which targets, either by targets or by filter")
	}
	var found []*target.Target
	if req.Filter != "" {
		q, err := target.Schema.Query(filter.Request{Filter: req.Filter, Sort: "name"}, s.now())
		if err != nil {
			return nil, fault.InvalidField("body.filter", "%v", message(err))
		}
		if found, err = s.targets.List(ctx, tenant, target.Filter{Query: q, Limit: maxTargets + 1}); err != nil {
			return nil, err
		}
	}
	for i, name := range req.Targets {
		t, err := s.targets.Get(ctx, tenant, name)
		if fault.KindOf(err) == fault.NotFound {
			return nil, fault.InvalidField(fmt.Sprintf("body.targets[%d]", i), "there is no target %q: `stella target list` shows those that are", name)
		} else if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(found, func(f *target.Target) bool { return f.ID == t.ID }) {
			return nil, fault.InvalidField(fmt.Sprintf("body.targets[%d]", i), "target %s is there twice", t.Name)
		}
		found = append(found, t)
	}
	switch {
	case len(found) == 0:
		return nil, fault.New(fault.NotFound, "target_not_found", "no target matches the filter: `stella target list` shows those that are")
	case len(found) > maxTargets:
		return nil, fault.InvalidField("body.filter", "more than %d targets match: roll out to fewer at a time", maxTargets)
	}
	for _, t := range found {
		if t.Kind != found[0].Kind {
			return nil, fault.InvalidField("body.filter", "%s is of kind %s, and %s of kind %s: one rollout is for one kind", found[0].Name, found[0].Kind, t.Name, t.Kind)
		}
	}
	return found, nil
}

func message(err error) string {
	if f := fault.As(err); f != nil && len(f.Fields) > 0 {
		return f.Fields[0].Message
	}
	return err.Error()
}

// Get returns a rollout.
func (s *Service) Get(ctx context.Context, tenant, id string) (*Rollout, error) {
	return s.store.Rollout(ctx, tenant, id)
}

// List returns a page of rollouts without their payloads, the newest first
// unless the filter says another order.
func (s *Service) List(ctx context.Context, tenant string, f Filter) ([]*Rollout, error) {
	return s.store.Rollouts(ctx, tenant, f)
}

// moved tells that a rollout came to its state, and has it looked at soon.
func (s *Service) moved(r *Rollout) {
	s.publish.Publish(r.TenantID, r.Event())
	s.Nudge()
}

// Nudge has the rollouts looked at soon: a task has ended. It does not block,
// and who forgets to call it only waits longer.
func (s *Service) Nudge() {
	select {
	case s.nudge <- struct{}{}:
	default: // it will be looked at anyway
	}
}
