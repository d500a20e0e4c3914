package task

import (
	"context"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/filter"
)

// Schema is what tasks can be asked by.
var Schema = &filter.Schema{
	Of: "tasks", ID: "id", Order: "-id",
	Fields: []filter.Field{
		{Name: "id", Sortable: true},
		{Name: "type", Kind: filter.Word, Sortable: true, Words: []string{
			string(api.TaskDeploy), string(api.TaskRollback), string(api.TaskHealthCheck), string(api.TaskInspect),
			string(api.TaskExecuteCommand), string(api.TaskUploadFiles), string(api.TaskWriteSticker), string(api.TaskReadSticker),
		}},
		{Name: "state", Aliases: []string{"status"}, Kind: filter.Word, Sortable: true, Words: []string{
			string(api.TaskQueued), string(api.TaskAssigned), string(api.TaskRunning), string(api.TaskSucceeded),
			string(api.TaskFailed), string(api.TaskCancelled), string(api.TaskExpired),
		}},
		{Name: "target", Aliases: []string{"targetId"}, Kind: filter.Ref},
		{Name: "targetName"},
		{Name: "agent", Aliases: []string{"agentId"}, Kind: filter.Ref},
		{Name: "agentName"},
		{Name: "priority", Kind: filter.Word, Words: []string{
			string(api.PriorityLow), string(api.PriorityNormal), string(api.PriorityHigh), string(api.PriorityCritical),
		}},
		{Name: "attempt", Kind: filter.Number},
		{Name: "reason"},
		{Name: "cancelRequested", Kind: filter.Bool},
		{Name: "createdBy", Aliases: []string{"by"}},
		{Name: "createdAt", Aliases: []string{"created"}, Kind: filter.Time, Sortable: true},
		{Name: "startedAt", Aliases: []string{"started"}, Kind: filter.Time},
		{Name: "finishedAt", Aliases: []string{"finished"}, Kind: filter.Time, Sortable: true},
		{Name: "expiresAt", Aliases: []string{"expires"}, Kind: filter.Time},
	},
}

var _ filter.Row = (*Task)(nil)

// Field implements filter.Row.
func (t *Task) Field(name string, _ time.Time) any {
	switch name {
	case "id":
		return t.ID
	case "type":
		return string(t.Type)
	case "state":
		return string(t.State)
	case "target":
		return t.TargetID
	case "targetName":
		return t.TargetName
	case "agent":
		return t.AgentID
	case "agentName":
		return t.AgentName
	case "priority":
		return string(PriorityName(t.Priority))
	case "attempt":
		return t.Attempt
	case "reason":
		return t.Reason
	case "cancelRequested":
		return t.CancelRequested
	case "createdBy":
		return t.CreatedBy
	case "createdAt":
		return t.CreatedAt
	case "startedAt":
		return t.StartedAt
	case "finishedAt":
		return t.FinishedAt
	case "expiresAt":
		return t.ExpiresAt
	}
	return nil
}

// Filter picks tasks; the newest come first.
type Filter struct {
	State    api.TaskState
	Type     api.TaskType
	TargetID string
	AgentID  string
	// Query is what else must match, the order, and where the page begins.
	Query filter.Query
	Limit int
}

// Where is all that a task must match, as one expression.
func (f *Filter) Where() filter.Expr {
	return filter.All(
		filter.Is("state", string(f.State)), filter.Is("type", string(f.Type)),
		filter.Is("target", f.TargetID), filter.Is("agent", f.AgentID), f.Query.Where)
}

// List returns a page of tasks, the newest first unless the filter says
// another order.
func (s *Service) List(ctx context.Context, tenant string, f Filter) ([]*Task, error) {
	for field, find := range map[string]func(name string) (string, error){
		"target": func(name string) (string, error) {
			t, err := s.store.Target(ctx, tenant, name)
			if err != nil {
				return "", err
			}
			return t.ID, nil
		},
		"agent": func(name string) (string, error) {
			a, err := s.store.Agent(ctx, tenant, name)
			if err != nil {
				return "", err
			}
			return a.ID, nil
		},
	} {
		var err error
		if f.Query.Where, err = filter.Refer(f.Query.Where, field, find); err != nil {
			return nil, err
		}
	}
	return s.store.Tasks(ctx, tenant, f)
}
