package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
)

// unwrapper takes what the server sends out of its wrapping: it checks the
// signature first, then that it is for this agent, and opens what is sealed.
// It is safe for concurrent use.
type unwrapper struct {
	agentID string
	server  *serverKeys
	keys    *encryptionKeys
}

func newUnwrapper(id *identity, keys *encryptionKeys, log *slog.Logger) (*unwrapper, error) {
	server, err := newServerKeys(id.ServerPublicKey, log)
	if err != nil {
		return nil, err
	}
	return &unwrapper{agentID: id.AgentID, server: server, keys: keys}, nil
}

// task returns a task with its payload and its credentials in the clear. One
// that must not be run comes with an error, which is a *deploy.Error fit for the
// task's result, and with as much of it as could be read; nil when that is not
// even its id, or when it could not be judged and is to come again.
func (u *unwrapper) task(ctx context.Context, data, signature []byte) (*api.AgentTask, error) {
	var t api.AgentTask
	parsed := json.Unmarshal(data, &t)
	if parsed != nil && t.ID == "" {
		return nil, fmt.Errorf("decode a task: %w", parsed)
	}
	if err := u.server.verify(ctx, api.PurposeTask, data, signature); errors.Is(err, errKeysAway) {
		return nil, fmt.Errorf("task %s: %w", t.ID, err)
	} else if err != nil {
		return &t, deploy.Fail(api.ErrUntrusted, "the agent does not run the task as it got it: %w; nothing was begun: look at what is between the agent and its server, then run the task again", err)
	}
	if parsed != nil {
		return &t, deploy.Fail(api.ErrUntrusted, "the agent cannot read the task, although the server has signed it: %w; update the agent", parsed)
	}
	if t.AgentID != u.agentID {
		return &t, deploy.Fail(api.ErrUntrusted, "the task was made for agent %s and came to agent %s: nothing was begun; look at what is between the agents and their server", t.AgentID, u.agentID)
	}
	if t.Sealed == nil {
		return &t, nil
	}
	plain, err := u.keys.open(t.Sealed, api.SealInfo(api.PurposeTask, t.ID, t.Attempt, u.agentID))
	if err != nil {
		return &t, deploy.Fail(api.ErrUnreadable, "the agent cannot open the task: %w", err)
	}
	var content api.SealedTask
	if err := json.Unmarshal(plain, &content); err != nil {
		return &t, deploy.Fail(api.ErrUnreadable, "the agent cannot read what is sealed in the task: %w", err)
	}
	t.Payload, t.Credentials, t.Sealed = content.Payload, content.Credentials, nil
	return &t, nil
}

// command returns a command that the server has signed for this agent. One that
// must not be run comes with an error that says why, and with its id; nil when
// it has none, or could not be judged.
func (u *unwrapper) command(ctx context.Context, data []byte) (*api.AgentCommand, error) {
	var c api.AgentCommand
	parsed := json.Unmarshal(data, &c)
	if parsed != nil && c.ID == "" {
		return nil, fmt.Errorf("decode a command: %w", parsed)
	}
	if parsed != nil {
		return &c, fmt.Errorf("the agent cannot read it: %w", parsed)
	}
	err := u.server.verify(ctx, api.PurposeCommand, api.CommandText(u.agentID, &c), c.Signature)
	if errors.Is(err, errKeysAway) {
		return nil, fmt.Errorf("command %s: %w", c.ID, err)
	} else if err != nil {
		return &c, fmt.Errorf("%w; look at what is between the agent and its server", err)
	}
	c.Signature = nil // who runs it has no use for it
	return &c, nil
}

// credentials returns the credentials of an attempt at a task.
func (u *unwrapper) credentials(ctx context.Context, taskID string, attempt int64, c *api.TaskCredentials) (*api.Credentials, error) {
	if attempt != 0 && c.Attempt != attempt {
		return nil, fmt.Errorf("the server's answer is about attempt %d, and not %d", c.Attempt, attempt)
	}
	out := &api.Credentials{}
	if c.Sealed == nil {
		return out, nil
	}
	info := api.SealInfo(api.PurposeCredentials, taskID, c.Attempt, u.agentID)
	if err := u.server.verify(ctx, api.PurposeCredentials, append(slices.Clip(info), c.Sealed.Data...), c.Signature); err != nil {
		return nil, err
	}
	plain, err := u.keys.open(c.Sealed, info)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(plain, out); err != nil {
		return nil, fmt.Errorf("decode credentials: %w", err)
	}
	return out, nil
}
