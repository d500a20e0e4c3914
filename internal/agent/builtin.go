package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"stella-ops.org/stella/internal/agent/command"
	"stella-ops.org/stella/internal/atomicfile"
)

// drainedFile is there while the agent was told to take no new tasks; it
// outlives a restart.
const drainedFile = "drained"

// builtins are the commands that the agent can do itself. The others of the
// built-in types are for an executable.
func (a *Agent) builtins(run *runner, changed func()) map[string]command.Builtin {
	return map[string]command.Builtin{
		"drain": func(_ context.Context, payload json.RawMessage) (any, error) {
			if err := a.drain(payload); err != nil {
				return nil, err
			}
			changed()
			return map[string]any{"accepting": false, "running": run.busyWith()}, nil
		},
		"resume": func(context.Context, json.RawMessage) (any, error) {
			if err := os.Remove(filepath.Join(a.Config.Data, drainedFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("take new tasks again: %w", err)
			}
			changed()
			return map[string]any{"accepting": true, "running": run.busyWith()}, nil
		},
		"collect-logs": func(_ context.Context, payload json.RawMessage) (any, error) { return a.collectLogs(payload) },
	}
}

// drain keeps, durably, that no new task is wanted, and why.
func (a *Agent) drain(payload json.RawMessage) error {
	var p struct {
		Reason string `json:"reason"`
	}
	if len(payload) > 0 {
		if err := json.Unmarshal(payload, &p); err != nil {
			return fmt.Errorf("the payload of drain is an object with an optional reason: %w", err)
		}
	}
	if p.Reason == "" {
		p.Reason = "drained by a command"
	}
	if len(p.Reason) > 200 {
		return errors.New("the reason is longer than 200 bytes")
	}
	return atomicfile.Write(filepath.Join(a.Config.Data, drainedFile), []byte(p.Reason), 0o600)
}

// drained returns why the agent was told to take no new tasks; empty when it
// was not.
func (a *Agent) drained() string {
	reason, err := os.ReadFile(filepath.Join(a.Config.Data, drainedFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return ""
	case err != nil || len(reason) == 0:
		return "drained by a command"
	}
	return string(reason)
}

// collectLogs returns the end of the agent's own log.
func (a *Agent) collectLogs(payload json.RawMessage) (any, error) {
	p := struct {
		Lines int `json:"lines"`
	}{200}
	if len(payload) > 0 {
		if err := json.Unmarshal(payload, &p); err != nil {
			return nil, fmt.Errorf("the payload of collect-logs is an object with an optional number of lines: %w", err)
		}
	}
	if p.Lines < 1 || p.Lines > 10_000 {
		return nil, fmt.Errorf("%d lines are out of range: ask for 1 to 10000", p.Lines)
	}
	lines, lost := a.tail.Lines(p.Lines)
	return struct {
		Lines []string  `json:"lines"`
		Lost  int64     `json:"lost" doc:"How many lines before these are kept no more."`
		At    time.Time `json:"at"`
	}{lines, lost, time.Now().UTC()}, nil
}
