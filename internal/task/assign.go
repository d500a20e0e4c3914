package task

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/target"
)

// Signed is a task as it goes to its agent: the very bytes, without escapes for
// HTML and in one line, and the server's signature on them. Whatever carries
// them must not write them anew.
func (s *Service) Signed(t *api.AgentTask) (data, signature []byte, err error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(t); err != nil {
		return nil, nil, fmt.Errorf("encode task %s: %w", t.ID, err)
	}
	data = bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	return data, s.wrap.Sign(api.PurposeTask, data), nil
}

// assign makes what an agent gets of a task that it was given. An attempt that
// could only wait for ever, because a secret or the agent's key is missing, is
// ended; then there is nothing to give.
func (s *Service) assign(ctx context.Context, a *fleet.Agent, t *Task) (*api.AgentTask, error) {
	assigned, err := s.assignment(ctx, a, t)
	switch code := fault.CodeOf(err); code {
	case "secret_not_found":
		return nil, s.unresolved(ctx, a, t, api.ErrSecretMissing, err)
	case keyMissing:
		return nil, s.unresolved(ctx, a, t, api.ErrKeyMissing, err)
	}
	return assigned, err
}

// assignment makes what the agent gets.
func (s *Service) assignment(ctx context.Context, a *fleet.Agent, t *Task) (*api.AgentTask, error) {
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
	// The agent ends the attempt by its own clock; what it says later than
	// this, with the time to undo a deployment on top, nobody waits for.
	until := t.AssignedAt.Add(t.Timeout + 15*time.Minute)
	token, err := s.tokens.TaskToken(t.TenantID, a.ID, a.CertificateFingerprint, t.ID, t.TargetID, t.Attempt, until)
	if err != nil {
		return nil, err
	}
	out := &api.AgentTask{
		ID: t.ID, AgentID: a.ID, Attempt: t.Attempt, Type: t.Type, TargetID: t.TargetID,
		Target:  api.AgentTarget{Name: tgt.Name, Kind: tgt.Kind, Environment: tgt.Environment, Config: tgt.Config},
		Timeout: int64(t.Timeout / time.Second), Priority: PriorityName(t.Priority), IdempotencyKey: t.IdempotencyKey,
		AssignedAt: t.AssignedAt, ExpiresAt: until, Token: token,
	}
	key, err := s.keyOf(ctx, a)
	switch {
	case err != nil:
		return nil, err
	case key == "" && credentials != nil:
		return nil, noKey(a)
	case key == "":
		out.Payload = sec.Payload // over the agent's own mTLS alone
		return out, nil
	}
	out.Sealed, err = s.sealTo(a, key, api.PurposeTask, t, api.SealedTask{Payload: sec.Payload, Credentials: credentials})
	return out, err
}

// sealCredentials makes the answer to an agent that asks again.
func (s *Service) sealCredentials(ctx context.Context, a *fleet.Agent, t *Task, c *api.Credentials) (*api.TaskCredentials, error) {
	out := &api.TaskCredentials{Attempt: t.Attempt}
	key, err := s.keyOf(ctx, a)
	if err != nil {
		return nil, err
	}
	if key == "" {
		if c != nil {
			return nil, noKey(a)
		}
		return out, nil
	}
	if c == nil {
		c = &api.Credentials{}
	}
	if out.Sealed, err = s.sealTo(a, key, api.PurposeCredentials, t, c); err != nil {
		return nil, err
	}
	out.Signature = s.wrap.Sign(api.PurposeCredentials, append(api.SealInfo(api.PurposeCredentials, t.ID, t.Attempt, a.ID), out.Sealed.Data...))
	return out, nil
}

func (s *Service) sealTo(a *fleet.Agent, key, purpose string, t *Task, v any) (*api.Sealed, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode what is sealed of task %s: %w", t.ID, err)
	}
	id, data, err := s.wrap.SealTo(key, api.SealInfo(purpose, t.ID, t.Attempt, a.ID), plain)
	if err != nil {
		return nil, fault.Wrap(err, fault.Conflict, keyMissing,
			"the encryption key that agent "+a.Name+" has registered is none: restart the agent, so that it registers anew")
	}
	return &api.Sealed{KeyID: id, Data: data}, nil
}

// keyOf returns the key that an agent has registered last, and not the one of
// when its link was made: a link may stand for longer than a key is kept.
func (s *Service) keyOf(ctx context.Context, a *fleet.Agent) (string, error) {
	now, err := s.store.Agent(ctx, a.TenantID, a.ID)
	if err != nil {
		return "", err
	}
	return now.EncryptionKey, nil
}

const keyMissing = "encryption_key_missing"

func noKey(a *fleet.Agent) error {
	return fault.New(fault.Conflict, keyMissing,
		"the task has credentials (a secret, a registry login or an SSH key), and agent %s has registered no encryption key to seal them to: "+
			"register it anew with encryptionPublicKey, or give the target an agent that has one", a.Name)
}

// checkKey refuses a task with credentials whose one agent could not get them.
func (s *Service) checkKey(ctx context.Context, tgt *target.Target, sec *content) error {
	if tgt.Selector != nil || !needsKey(tgt, sec) {
		return nil
	}
	a, err := s.store.Agent(ctx, tgt.TenantID, tgt.AgentID)
	if err != nil {
		return err
	}
	if a.EncryptionKey == "" {
		return noKey(a)
	}
	return nil
}

// needsKey reports whether there are credentials to be sealed.
func needsKey(tgt *target.Target, sec *content) bool {
	ofTarget, ofTask, err := secretNames(tgt, sec)
	return err == nil && len(ofTarget)+len(ofTask) > 0 || sec.Credentials != nil && sec.Credentials.Registry != nil
}

// leaveToAnother reports whether an agent without a key should leave a queued
// task to another one: the task has credentials, and another one that serves
// the target has a key.
func (s *Service) leaveToAnother(ctx context.Context, a *fleet.Agent, id string) (bool, error) {
	t, err := s.store.Task(ctx, a.TenantID, id)
	if err != nil {
		return false, err
	}
	tgt, err := s.store.Target(ctx, t.TenantID, t.TargetID)
	if fault.KindOf(err) == fault.NotFound {
		return false, nil // claiming it will say so
	} else if err != nil {
		return false, err
	}
	sec, err := s.openSecret(t.ID, t.Sealed)
	if err != nil {
		return false, err
	}
	if tgt.Selector == nil || !needsKey(tgt, sec) {
		return false, nil
	}
	agents, err := s.store.Agents(ctx, t.TenantID, fleet.Filter{Limit: 1000})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(agents, func(other *fleet.Agent) bool {
		return other.EncryptionKey != "" && active(other) && other.Can(t.Capability) && tgt.ServedBy(other)
	}), nil
}

// unresolved ends an attempt for which something is missing that will not come
// by waiting.
func (s *Service) unresolved(ctx context.Context, a *fleet.Agent, t *Task, errorType string, cause error) error {
	now := s.now()
	reason := fault.As(cause).Message + "; then run the task again"
	done, err := s.store.FinishTask(ctx, Finish{
		Ref: Ref{t.ID, t.Attempt}, AgentID: a.ID, State: api.TaskFailed, Reason: reason, At: now,
		Result: &api.TaskResult{TaskID: t.ID, Attempt: t.Attempt, StartedAt: t.AssignedAt, CompletedAt: now, Error: reason, ErrorType: errorType},
	})
	if done {
		s.moved(t, api.TaskFailed, reason)
	}
	return err
}
