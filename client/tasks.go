package client

import (
	"context"
	"iter"
	"net/http"

	"stella-ops.org/stella/api"
)

const tasksPath = "/api/v1/tasks"

// TaskFilter picks tasks; every field that is set must match.
type TaskFilter struct {
	State api.TaskState
	Type  api.TaskType
	// Target and Agent are ids or names.
	Target string
	Agent  string
	// Filter is what else must match, in the language that docs/filter.md
	// describes, and Sort the order, as in -createdAt,name.
	Filter string
	Sort   string
	// Cursor begins behind a page, and Limit is how long a page may be; the
	// server chooses when it is 0.
	Cursor string
	Limit  int
}

// SubmitTask queues a task. With an idempotency key it is sent again when the
// answer was lost, and a key that was seen returns the first task; without
// one, it is sent once.
func (c *Client) SubmitTask(ctx context.Context, req api.TaskRequest) (*api.Task, error) {
	t := &api.Task{}
	op := call{method: http.MethodPost, path: tasksPath, body: req, into: t, repeat: req.IdempotencyKey != ""}
	if err := c.do(ctx, op); err != nil {
		return nil, err
	}
	return t, nil
}

// TaskPage returns one page of the tasks that match.
func (c *Client) TaskPage(ctx context.Context, f TaskFilter) (*api.TaskList, error) {
	q := newQuery(f.Filter, f.Sort, f.Cursor, f.Limit)
	q.set("state", string(f.State))
	q.set("type", string(f.Type))
	q.set("target", f.Target)
	q.set("agent", f.Agent)
	return get[api.TaskList](ctx, c, tasksPath, q.values)
}

// Tasks walks all tasks that match, a page at a time.
func (c *Client) Tasks(ctx context.Context, f TaskFilter) iter.Seq2[api.Task, error] {
	return pages(func(cursor string) ([]api.Task, string, error) {
		if cursor != "" {
			f.Cursor = cursor
		}
		list, err := c.TaskPage(ctx, f)
		if err != nil {
			return nil, "", err
		}
		return list.Items, list.Next, nil
	})
}

// Task returns a task as it stands.
func (c *Client) Task(ctx context.Context, id string) (*api.Task, error) {
	path, err := item(tasksPath, id)
	if err != nil {
		return nil, err
	}
	return get[api.Task](ctx, c, path, nil)
}

// CancelTask ends a queued task, or asks its agent to stop a running one; the
// state of the answer says which.
func (c *Client) CancelTask(ctx context.Context, id string) (*api.Task, error) {
	path, err := item(tasksPath, id, "cancel")
	if err != nil {
		return nil, err
	}
	return change[api.Task](ctx, c, http.MethodPost, path, nil)
}

// TaskLogs returns the log of a task as far as it is.
func (c *Client) TaskLogs(ctx context.Context, id string) (*api.TaskLogs, error) {
	return c.taskLogs(ctx, id, 0)
}

func (c *Client) taskLogs(ctx context.Context, id string, after int) (*api.TaskLogs, error) {
	path, err := item(tasksPath, id, "logs")
	if err != nil {
		return nil, err
	}
	return get[api.TaskLogs](ctx, c, path, afterEntries(after))
}

// SubmitTasks queues the same task for every target that the selector matches,
// and returns the tasks. With an idempotency key no target gets a second task,
// and the request is repeated when it did not get through.
func (c *Client) SubmitTasks(ctx context.Context, req api.TasksRequest) (*api.TaskList, error) {
	list := &api.TaskList{}
	op := call{method: http.MethodPost, path: tasksPath + "/by-selector", body: req, into: list, repeat: req.IdempotencyKey != ""}
	if err := c.do(ctx, op); err != nil {
		return nil, err
	}
	return list, nil
}
