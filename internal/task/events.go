package task

import (
	"context"
	"time"

	"stella-ops.org/stella/api"
)

// moved wakes those who follow a task and tells everybody that it is in a state
// now.
func (s *Service) moved(t *Task, to api.TaskState, reason string) {
	s.wake.TaskChanged(t.TenantID, t.ID)
	s.wake.Publish(t.TenantID, api.Event{
		At: s.now().UTC().Truncate(time.Microsecond), Kind: "task." + string(to), TaskID: t.ID, Type: string(t.Type),
		TargetID: t.TargetID, Target: t.TargetName, AgentID: t.AgentID, AgentName: t.AgentName, Reason: reason, By: t.CreatedBy,
	})
}

// movedTo is moved for a task of which only the id is at hand.
func (s *Service) movedTo(ctx context.Context, tenant, id string, to api.TaskState) {
	t, err := s.store.Task(ctx, tenant, id)
	if err != nil {
		t = &Task{ID: id, TenantID: tenant} // that it moved is true all the same
	}
	s.moved(t, to, "")
}
