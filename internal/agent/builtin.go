package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/agent/command"
	"stella-ops.org/stella/internal/atomicfile"
	"stella-ops.org/stella/internal/executor/ssh"
)

// drainedFile is there while the agent was told to take no new tasks; it
// outlives a restart.
const drainedFile = "drained"

// drainedWords are the reason when none was given.
const drainedWords = "drained by a command"

// builtins are the commands that the agent can do itself. The others of the
// built-in types are for an executable.
func (a *Agent) builtins(run *runner, changed func(), renew func(ctx context.Context, force bool) (*api.CertificateRenewal, error)) map[string]command.Builtin {
	return map[string]command.Builtin{
		"drain": func(_ context.Context, payload json.RawMessage) (any, error) {
			if err := a.drain(payload); err != nil {
				return nil, err
			}
			changed()
			return map[string]any{"accepting": false, "running": run.busyWith()}, nil
		},
		"resume": func(context.Context, json.RawMessage) (any, error) {
			if err := a.resume(); err != nil {
				return nil, err
			}
			changed()
			return map[string]any{"accepting": true, "running": run.busyWith()}, nil
		},
		"ssh-scan": func(ctx context.Context, payload json.RawMessage) (any, error) {
			var req ssh.ScanRequest
			if err := json.Unmarshal(payload, &req); err != nil {
				return nil, fmt.Errorf("the payload of ssh-scan is an object with a host, and a port and jumps if there are any: %w", err)
			}
			return ssh.Scan(ctx, &req)
		},
		"renew-certificate": func(ctx context.Context, payload json.RawMessage) (any, error) {
			var p api.RenewalRequest
			if len(payload) > 0 {
				if err := json.Unmarshal(payload, &p); err != nil {
					return nil, fmt.Errorf("the payload of renew-certificate is an object with an optional force, true or false: %w", err)
				}
			}
			return renew(ctx, p.Force)
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
	// It is shown on one line, wherever agents are listed.
	p.Reason = strings.Join(strings.FieldsFunc(p.Reason, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if p.Reason == "" {
		p.Reason = drainedWords
	}
	if len(p.Reason) > 200 {
		return fmt.Errorf("the reason of %d bytes is longer than the 200 that are taken", len(p.Reason))
	}
	return atomicfile.Write(filepath.Join(a.Config.Data, drainedFile), []byte(p.Reason), 0o600)
}

// resume keeps, durably, that new tasks are wanted again.
func (a *Agent) resume() error {
	err := os.Remove(filepath.Join(a.Config.Data, drainedFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = atomicfile.SyncDir(a.Config.Data)
	}
	if err != nil {
		return fmt.Errorf("take new tasks again: %w", err)
	}
	return nil
}

// drained returns why the agent was told to take no new tasks; empty when it
// was not.
func (a *Agent) drained() string {
	reason, err := os.ReadFile(filepath.Join(a.Config.Data, drainedFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return ""
	case err != nil || len(reason) == 0:
		return drainedWords
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
	fit := lastThatFit(lines, command.MaxResult-1<<10)
	return struct {
		Lines []string  `json:"lines"`
		Lost  int64     `json:"lost" doc:"How many lines before these are kept no more, or did not fit into the answer."`
		At    time.Time `json:"at"`
	}{fit, lost + int64(len(lines)-len(fit)), time.Now().UTC()}, nil
}

// lastThatFit returns the last lines that, as JSON, are no longer than most
// bytes together. What JSON escapes may become six times as long.
func lastThatFit(lines []string, most int) []string {
	for i, line := range slices.Backward(lines) {
		encoded, err := json.Marshal(line)
		if most -= len(encoded) + len(","); err != nil || most < 0 {
			return lines[i+1:]
		}
	}
	return lines
}
