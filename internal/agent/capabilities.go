package agent

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"stella-ops.org/stella/internal/executor"
	"stella-ops.org/stella/internal/fleet"
)

// capabilities are what the agent found to work, not what anybody claims.
type capabilities struct {
	executors []executor.Executor
	commands  func() []string // the types that the agent's user has added
	allowed   []string        // empty: all
	log       *slog.Logger

	mu      sync.Mutex
	found   []string
	missing map[string]string // by kind: why it does not work
}

// probe tries every executor and reports whether anything changed.
func (c *capabilities) probe(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var found []string
	missing := map[string]string{}
	add := func(n string) {
		if len(c.allowed) == 0 || slices.ContainsFunc(c.allowed, func(a string) bool { return fleet.Covers(a, n) }) {
			found = append(found, n)
		}
	}
	if c.commands != nil {
		for _, kind := range c.commands() {
			add("command." + kind)
		}
	}
	for _, e := range c.executors {
		names, why := e.Capabilities(ctx)
		for _, n := range names {
			add(n)
		}
		if why != nil {
			missing[e.Kind()] = why.Error()
		}
	}
	slices.Sort(found)
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Equal(found, c.found) && c.missing != nil {
		return false
	}
	for kind, why := range missing {
		c.log.InfoContext(ctx, "this kind of target does not work here", "kind", kind, "reason", why)
	}
	c.found, c.missing = found, missing
	return true
}

func (c *capabilities) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.found)
}

// broken names what the agent was told to offer and cannot; empty when all is
// well.
func (c *capabilities) broken() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for kind, why := range c.missing {
		if slices.ContainsFunc(c.allowed, func(a string) bool { return a == kind || strings.HasPrefix(a, kind+".") }) {
			out = append(out, kind+": "+why)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}
