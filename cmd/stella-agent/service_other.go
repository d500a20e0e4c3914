//go:build !windows

package main

import (
	"context"

	"stella-ops.org/stella/internal/agent"
)

// serve runs the agent until ctx ends.
func serve(ctx context.Context, a *agent.Agent) error { return a.Run(ctx) }

// reportFailure does nothing: who starts the agent here reads its standard error.
func reportFailure(error) {}
