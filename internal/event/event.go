// Package event is what happens, told to those who follow: agents that come,
// go and fall silent, tasks and commands that move on. Events are news and not
// the truth: the store is, and who misses an event reads it there.
//
// It knows nothing of how events travel.
package event

import (
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// Publisher tells events to whoever follows, on every server. It does not
// block, and what it says may be lost.
type Publisher interface {
	Publish(tenant string, events ...api.Event)
}

// Filter picks events.
type Filter struct {
	// Kinds are whole kinds, as in task.failed, or the word before the dot;
	// none stands for all.
	Kinds []string
	// AgentID picks what happened to one agent, and to what it works on.
	AgentID string
}

// Matches reports whether an event passes the filter.
func (f *Filter) Matches(e *api.Event) bool {
	if f.AgentID != "" && e.AgentID != f.AgentID {
		return false
	}
	if len(f.Kinds) == 0 {
		return true
	}
	for _, k := range f.Kinds {
		if e.Kind == k || strings.HasPrefix(e.Kind, k+".") {
			return true
		}
	}
	return false
}

// Validate refuses kinds that no event has: a typo would wait for ever.
func (f *Filter) Validate() error {
	for _, want := range f.Kinds {
		known := false
		for _, kind := range kinds {
			known = known || kind == want || strings.HasPrefix(kind, want+".")
		}
		if !known {
			return fault.InvalidField("query.kind", "%q is no kind of event: use agent, task, command or rollout, or one of %s", clip(want), strings.Join(kinds, ", "))
		}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

var kinds = []string{
	api.EventAgentRegistered, api.EventAgentUpdated, api.EventAgentConnected, api.EventAgentDisconnected,
	api.EventAgentLive, api.EventAgentStale, api.EventAgentDead,
	api.EventAgentActivated, api.EventAgentDeactivated, api.EventAgentRevoked, api.EventAgentDeleted, api.EventAgentCloned,
	api.EventTaskQueued, api.EventTaskAssigned, api.EventTaskRunning,
	api.EventTaskSucceeded, api.EventTaskFailed, api.EventTaskCancelled, api.EventTaskExpired,
	api.EventCommandSent, api.EventCommandDelivered, api.EventCommandAcknowledged, api.EventCommandFailed, api.EventCommandExpired,
	api.EventRolloutRunning, api.EventRolloutPaused, api.EventRolloutStopped, api.EventRolloutRollingBack, api.EventRolloutCancelling,
	api.EventRolloutSucceeded, api.EventRolloutFailed, api.EventRolloutRolledBack, api.EventRolloutCancelled,
}
