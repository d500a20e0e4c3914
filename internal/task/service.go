package task

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/target"
)

// Limits and times that a task does not say itself.
const (
	DefaultTimeout         = 30 * time.Minute
	DefaultDeliveryTimeout = time.Hour
	DefaultMaxActive       = 5
	MaxLogBytes            = 8 << 20
	maxAttempts            = 3
)

// Options are the times that an installation may set.
type Options struct {
	// Lease is how long an agent may be silent about a task.
	Lease time.Duration
}

// Service holds the rules about tasks. It is safe for concurrent use.
type Service struct {
	store   Store
	wake    Waker
	seal    Sealer
	secrets Secrets
	tokens  TokenIssuer
	wrap    Envelope
	audit   access.Auditor
	opts    Options
	now     func() time.Time
	log     *slog.Logger
}

// NewService returns a service over a store.
func NewService(store Store, wake Waker, seal Sealer, secrets Secrets, tokens TokenIssuer, wrap Envelope, audit access.Auditor, opts Options, now func() time.Time, log *slog.Logger) *Service {
	if opts.Lease == 0 {
		opts.Lease = 2 * time.Minute
	}
	return &Service{store: store, wake: wake, seal: seal, secrets: secrets, tokens: tokens, wrap: wrap, audit: audit, opts: opts, now: now, log: log}
}

// Submit queues a task. An idempotency key that was seen returns the first
// task with existed true, whatever the rest of the request says.
func (s *Service) Submit(ctx context.Context, tenant, by string, req api.TaskRequest) (t *Task, existed bool, err error) {
	if req.IdempotencyKey != "" {
		// Before anything is checked: the world may have changed since the
		// first try, which stands all the same.
		first, err := s.store.TaskByKey(ctx, tenant, req.IdempotencyKey)
		if err != nil || first != nil {
			return first, first != nil, err
		}
	}
	tgt, err := s.store.Target(ctx, tenant, req.Target)
	if fault.KindOf(err) == fault.NotFound {
		return nil, false, fault.New(fault.NotFound, "target_not_found",
			"there is no target %q: `stella target list` shows those that are", req.Target)
	} else if err != nil {
		return nil, false, err
	}
	if t, err = s.prepare(ctx, tgt, by, req); err != nil {
		return nil, false, err
	}
	return s.enqueue(ctx, tgt, t)
}

// Check refuses a request that could never run, and returns the task that it
// would be; it queues nothing.
func (s *Service) Check(ctx context.Context, tenant, by string, req api.TaskRequest) (*Task, error) {
	tgt, err := s.store.Target(ctx, tenant, req.Target)
	if err != nil {
		return nil, err
	}
	return s.prepare(ctx, tgt, by, req)
}

// ByKey returns the task with an idempotency key, or nil.
func (s *Service) ByKey(ctx context.Context, tenant, key string) (*Task, error) {
	return s.store.TaskByKey(ctx, tenant, key)
}

// Current returns what was deployed last on a target; nil when nothing was.
func (s *Service) Current(ctx context.Context, tenant, targetID string) (*Deployment, error) {
	history, err := s.store.Deployments(ctx, tenant, targetID, 1)
	if err != nil || len(history) == 0 {
		return nil, err
	}
	return history[0], nil
}

// maxMany is how many targets one submission reaches at the most.
const maxMany = 500

// SubmitMany queues the same task for every target that matches. It checks all
// of them before it queues the first: one that cannot be served refuses the
// whole. Each target's task has its own idempotency key, made from the
// request's and the target, so a retry queues none twice.
func (s *Service) SubmitMany(ctx context.Context, tenant, by string, f target.Filter, req api.TaskRequest) ([]*Task, error) {
	f.Limit = maxMany + 1
	targets, err := s.store.Targets(ctx, tenant, f)
	switch {
	case err != nil:
		return nil, err
	case len(targets) == 0:
		return nil, fault.New(fault.NotFound, "target_not_found", "no target matches the selector: `stella target list` shows those that are")
	case len(targets) > maxMany:
		return nil, fault.InvalidField("body.selector", "more than %d targets match: select fewer", maxMany)
	}
	tasks := make([]*Task, len(targets))
	for i, tgt := range targets {
		one := req
		if req.IdempotencyKey != "" {
			one.IdempotencyKey = req.IdempotencyKey + "/" + tgt.ID
		}
		if tasks[i], err = s.prepare(ctx, tgt, by, one); err != nil {
			if f := fault.As(err); f != nil {
				f.Message = "target " + tgt.Name + ": " + f.Message
			}
			return nil, err
		}
	}
	for i, tgt := range targets {
		if tasks[i], _, err = s.enqueue(ctx, tgt, tasks[i]); err != nil {
			return nil, err
		}
	}
	return tasks, nil
}

// prepare checks a request against its target and makes the task.
func (s *Service) prepare(ctx context.Context, tgt *target.Target, by string, req api.TaskRequest) (*Task, error) {
	kind, ok := types[req.Type]
	if !ok {
		return nil, fault.InvalidField("body.type", "%q is no task type", req.Type)
	}
	capability := tgt.Kind + "." + kind.capability
	var err error
	if err = s.servable(ctx, tgt, capability); err != nil {
		return nil, err
	}
	if req.Type == api.TaskInspect {
		if req.Payload, err = s.defaultContainer(ctx, tgt, req.Payload); err != nil {
			return nil, err
		}
	}
	whole, public, needs, err := check(req.Type, tgt, req.Payload)
	if err != nil {
		return nil, err
	}
	if req.Credentials != nil && len(req.Credentials.Secrets) > 0 {
		return nil, fault.InvalidField("body.credentials.secrets", "the server fills this in: keep a secret with `stella secret set`, and refer to it as secret://name")
	}
	prio, ok := priorities[req.Priority]
	if !ok {
		return nil, fault.InvalidField("body.priority", "%q is no priority: use low, normal, high or critical", req.Priority)
	}
	now := s.now()
	t := &Task{
		ID: uuid.Must(uuid.NewV7()).String(), TenantID: tgt.TenantID, Type: req.Type, TargetID: tgt.ID, TargetName: tgt.Name,
		State: api.TaskQueued, Changing: kind.changing, Capability: capability, Priority: prio,
		Timeout: orDefault(req.Timeout, DefaultTimeout), IdempotencyKey: req.IdempotencyKey,
		CreatedBy: by, CreatedAt: now, ExpiresAt: now.Add(orDefault(req.DeliveryTimeout, DefaultDeliveryTimeout)),
	}
	sec := &content{Payload: whole, Credentials: req.Credentials}
	if req.Type == api.TaskRollback {
		if public, needs, err = s.planRollback(ctx, tgt, sec); err != nil {
			return nil, err
		}
	}
	if t.Artifacts = needs; len(needs) > 0 {
		if err := s.store.CheckArtifacts(ctx, t); err != nil {
			return nil, err
		}
	}
	if err := s.checkSecrets(ctx, tgt, sec); err != nil {
		return nil, err
	}
	if err := s.checkKey(ctx, tgt, sec); err != nil {
		return nil, err
	}
	t.Payload = public
	t.Sealed, err = s.sealSecret(t.ID, sec)
	return t, err
}

// enqueue stores a task, unless its idempotency key was seen, and wakes whoever
// can take it.
func (s *Service) enqueue(ctx context.Context, tgt *target.Target, t *Task) (stored *Task, existed bool, err error) {
	first, err := s.store.InsertTask(ctx, t)
	if err != nil {
		return nil, false, err
	}
	if first != nil {
		return first, true, nil
	}
	s.wake.TaskQueued(t.TenantID, tgt.AgentID)
	s.moved(t, api.TaskQueued, t.Reason)
	return t, false, nil
}

func orDefault(seconds int64, d time.Duration) time.Duration {
	if seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	return d
}

// servable refuses what could never run: better now than queued for nothing.
func (s *Service) servable(ctx context.Context, tgt *target.Target, capability string) error {
	if tgt.Selector != nil {
		return nil // agents that match may come and go
	}
	a, err := s.store.Agent(ctx, tgt.TenantID, tgt.AgentID)
	if fault.KindOf(err) == fault.NotFound || err == nil && a.ID != tgt.AgentID {
		return fault.New(fault.Conflict, "agent_missing",
			"target %s is reached by an agent that was deleted: give it another with PUT /api/v1/targets/%s", tgt.Name, tgt.ID)
	} else if err != nil {
		return err
	}
	if a.Lifecycle == api.LifecycleRevoked {
		return fault.New(fault.Conflict, "agent_revoked",
			"target %s is reached by agent %s, which is revoked: give the target another agent", tgt.Name, a.Name)
	}
	if a.Liveness == api.Live && !a.Can(capability) {
		return fault.New(fault.Conflict, "capability_missing",
			"agent %s does not report %s: what the capability needs does not work on its host; `stella agent show %s` lists what does", a.Name, capability, a.Name)
	}
	return nil
}

// planRollback says what to go back to, from the target's history, for the
// case that the target itself has kept nothing to restore.
func (s *Service) planRollback(ctx context.Context, tgt *target.Target, sec *content) (public json.RawMessage, needs []Artifact, err error) {
	var p rollbackPayload
	if err := json.Unmarshal(sec.Payload, &p); err != nil {
		return nil, nil, fmt.Errorf("decode rollback: %w", err)
	}
	history, err := s.store.Deployments(ctx, tgt.TenantID, tgt.ID, 200)
	if err != nil {
		return nil, nil, err
	}
	if d := previous(history, p.TargetDigest, p.ReleaseID); d != nil {
		old, err := s.openSecret(d.TaskID, d.Sealed)
		if err != nil {
			return nil, nil, err
		}
		var dp deployPayload
		if err := json.Unmarshal(old.Payload, &dp); err != nil {
			return nil, nil, fmt.Errorf("decode deployment of task %s: %w", d.TaskID, err)
		}
		if dp.Config.ReleaseID == "" {
			dp.Config.ReleaseID = d.ReleaseID
		}
		p.Deploy = &dp.DeployPayload
		if sec.Credentials == nil {
			sec.Credentials = old.Credentials
		}
	} else if p.TargetDigest != "" || p.ReleaseID != "" {
		return nil, nil, fault.New(fault.Conflict, "release_unknown",
			"target %s has never run %s%s successfully: `stella task list --target %s` shows what it ran; to deploy something new use `stella deploy`",
			tgt.Name, p.TargetDigest, p.ReleaseID, tgt.Name)
	}
	if sec.Payload, err = json.Marshal(p); err != nil {
		return nil, nil, fmt.Errorf("encode rollback: %w", err)
	}
	public, err = json.Marshal(p.public())
	return public, p.artifacts(), err
}

// previous picks from a history, the newest first: the release asked for, or
// the last one that is not what runs now.
func previous(history []*Deployment, digest, release string) *Deployment {
	for _, d := range history {
		if len(d.Sealed) == 0 {
			continue // restored from what the target had kept; nothing to repeat
		}
		switch {
		case digest != "":
			if d.Digest == digest {
				return d
			}
		case release != "":
			if d.ReleaseID == release {
				return d
			}
		case d.ReleaseID != history[0].ReleaseID:
			return d
		}
	}
	return nil
}

// SealName is what a task's content is sealed under at rest, also where it is
// kept as a deployment.
func SealName(id string) string { return "task/" + id }

func (s *Service) sealSecret(taskID string, sec *content) ([]byte, error) {
	plain, err := json.Marshal(sec)
	if err != nil {
		return nil, fmt.Errorf("encode task %s: %w", taskID, err)
	}
	return s.seal.Seal(SealName(taskID), plain)
}

func (s *Service) openSecret(taskID string, sealed []byte) (*content, error) {
	plain, err := s.seal.Open(SealName(taskID), sealed)
	if err != nil {
		return nil, fmt.Errorf("open task %s: %w", taskID, err)
	}
	var sec content
	if err := json.Unmarshal(plain, &sec); err != nil {
		return nil, fmt.Errorf("decode task %s: %w", taskID, err)
	}
	return &sec, nil
}

// Get returns a task.
func (s *Service) Get(ctx context.Context, tenant, id string) (*Task, error) {
	return s.store.Task(ctx, tenant, id)
}

// Log returns a task's log entries after a position, and the next position.
func (s *Service) Log(ctx context.Context, taskID string, after int64, limit int) ([]api.LogEntry, int64, error) {
	return s.store.Log(ctx, taskID, after, limit)
}

// Cancel ends a queued task at once, and asks the agent to stop one that it
// holds; how that one ends is its result's to say. A task that is over is a
// fault of kind Conflict.
func (s *Service) Cancel(ctx context.Context, tenant, id, by string) (*Task, error) {
	reason := "cancelled by " + by
	now := s.now()
	done, err := s.store.CancelQueued(ctx, tenant, id, reason, now)
	if err != nil {
		return nil, err
	}
	if !done {
		asked, err := s.store.RequestCancel(ctx, tenant, id, now)
		if err != nil {
			return nil, err
		}
		t, err := s.store.Task(ctx, tenant, id)
		if err != nil {
			return nil, err
		}
		if !asked {
			return nil, fault.New(fault.Conflict, "task_finished", "task %s is over: it %s", id, t.State)
		}
		s.wake.TaskCancel(t.AgentID, Ref{t.ID, t.Attempt}, reason)
		return t, nil
	}
	t, err := s.store.Task(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	s.moved(t, api.TaskCancelled, reason)
	return t, nil
}

// active reports whether an agent may be given new tasks.
func active(a *fleet.Agent) bool {
	return a.Lifecycle == api.LifecycleActive
}
