package task

import (
	"context"
	"fmt"
	"slices"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/secret"
	"stella-ops.org/stella/internal/target"
)

// secretNames are the secrets that a target and a task on it refer to.
func secretNames(tgt *target.Target, sec *content) (ofTarget, ofTask []string, err error) {
	if ofTask, err = secret.InPayload(sec.Payload); err != nil {
		return nil, nil, err
	}
	if c := sec.Credentials; c != nil && c.Registry != nil {
		ofTask = append(ofTask, secret.Names(c.Registry.Username, c.Registry.Password, c.Registry.Token)...)
	}
	return tgt.SecretRefs(), ofTask, nil
}

// checkSecrets refuses a task that refers to a secret that is not there.
func (s *Service) checkSecrets(ctx context.Context, tgt *target.Target, sec *content) error {
	ofTarget, ofTask, err := secretNames(tgt, sec)
	if err != nil {
		return err
	}
	if err := s.secrets.Check(ctx, tgt.TenantID, "body.target", ofTarget); err != nil {
		return err
	}
	return s.secrets.Check(ctx, tgt.TenantID, "body.payload", ofTask)
}

// credentials resolves what a task may know: the values of the secrets that it
// and its target refer to, as they are now.
func (s *Service) credentials(ctx context.Context, tgt *target.Target, sec *content) (*api.Credentials, error) {
	ofTarget, ofTask, err := secretNames(tgt, sec)
	if err != nil {
		return nil, err
	}
	values, err := s.secrets.Values(ctx, tgt.TenantID, append(ofTarget, ofTask...))
	if err != nil {
		return nil, err
	}
	out := &api.Credentials{Secrets: values}
	if c := sec.Credentials; c != nil && c.Registry != nil {
		r := *c.Registry
		for _, field := range []*string{&r.Username, &r.Password, &r.Token} {
			if value, ok := out.Secret(*field); ok {
				*field = value
			}
		}
		out.Registry = &r
	}
	if len(out.Secrets) == 0 && out.Registry == nil {
		return nil, nil //nolint:nilnil // no credentials are none
	}
	return out, nil
}

// Credentials returns the credentials of an attempt again, sealed to the agent's
// key, to the agent that has it or had it last: one that was restarted needs
// them to undo what it had begun, even when the attempt was given up meanwhile.
// They are refused, with a fault of kind Conflict, when another agent has
// changed the target since: nothing that this one had begun may be undone then.
// So they are to an agent that has no key.
func (s *Service) Credentials(ctx context.Context, a *fleet.Agent, ref Ref) (*api.TaskCredentials, error) {
	t, err := s.store.Task(ctx, a.TenantID, ref.ID)
	if err != nil {
		return nil, err
	}
	if t.AgentID != a.ID || ref.Attempt != 0 && ref.Attempt != t.Attempt {
		return nil, fault.New(fault.Conflict, "attempt_replaced",
			"attempt %d at task %s is over: agent %s has taken it up since; leave the target alone", ref.Attempt, t.ID, t.AgentName)
	}
	if t.State.Final() {
		if err := s.untouched(ctx, a, t); err != nil {
			return nil, err
		}
	}
	tgt, err := s.store.Target(ctx, t.TenantID, t.TargetID)
	if err != nil {
		return nil, err
	}
	sec, err := s.openSecret(t.ID, t.Sealed)
	if err != nil {
		return nil, err
	}
	credentials, err := s.credentials(ctx, tgt, sec)
	if err != nil {
		return nil, err
	}
	return s.sealCredentials(ctx, a, t, credentials)
}

// untouched refuses when another agent has changed the task's target since.
func (s *Service) untouched(ctx context.Context, a *fleet.Agent, t *Task) error {
	later, err := s.store.Tasks(ctx, t.TenantID, Filter{TargetID: t.TargetID, Limit: 200})
	if err != nil {
		return fmt.Errorf("look for later tasks on the target: %w", err)
	}
	since := func(l *Task) bool {
		return l.ID != t.ID && l.Changing && l.AgentID != "" && l.AgentID != a.ID && l.AssignedAt.After(t.AssignedAt.Add(-time.Microsecond))
	}
	if i := slices.IndexFunc(later, since); i >= 0 {
		return fault.New(fault.Conflict, "target_changed",
			"agent %s has changed target %s since, by task %s: leave it alone", later[i].AgentName, t.TargetName, later[i].ID)
	}
	return nil
}
