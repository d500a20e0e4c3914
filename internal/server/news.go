package server

import (
	"slices"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/bus"
)

// taskNews is the bus as tasks see it: it also says when one has ended, to who
// waits for that on this server. What ends on another one is found by looking.
type taskNews struct {
	*bus.Bus
	ended func()
}

// Publish implements event.Publisher.
func (n *taskNews) Publish(tenant string, happened ...api.Event) {
	n.Bus.Publish(tenant, happened...)
	if slices.ContainsFunc(happened, func(e api.Event) bool {
		switch e.Kind {
		case api.EventTaskSucceeded, api.EventTaskFailed, api.EventTaskCancelled, api.EventTaskExpired:
			return true
		}
		return false
	}) {
		n.ended()
	}
}
