package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/target"
	"stella-ops.org/stella/internal/task"
)

// submission answers 201 for a new task and 200 for one that was there.
type submission struct {
	Body    api.TaskRequest
	existed bool
}

func (s *submission) status() int {
	if s.existed {
		return http.StatusOK
	}
	return http.StatusCreated
}

// tasks adds what people do with tasks.
func (s *Server) tasks() {
	op := s.operation(http.MethodPost, "/api/v1/tasks", "task.create", "Queue a task for a target", operator)
	op.MaxBodyBytes, op.DefaultStatus = maxTaskBody, http.StatusCreated
	handle(s, op, func(ctx context.Context, in *submission) (api.Task, error) {
		p := principal(ctx)
		t, existed, err := s.Tasks.Submit(ctx, p.TenantID, p.Name, in.Body)
		if err != nil {
			return api.Task{}, err
		}
		in.existed = existed
		return viewTask(t), nil
	})

	type many struct{ Body api.TasksRequest }
	op = s.operation(http.MethodPost, "/api/v1/tasks/by-selector", "task.create-many", "Queue the same task for every target that matches", operator)
	op.MaxBodyBytes, op.DefaultStatus = maxTaskBody, http.StatusCreated
	handle(s, op, func(ctx context.Context, in *many) (api.TaskList, error) {
		p, b := principal(ctx), &in.Body
		if b.Selector.Kind == "" && b.Selector.Environment == "" && len(b.Selector.Labels) == 0 {
			return api.TaskList{}, fault.InvalidField("body.selector", "an empty selector would match every target: give a kind, an environment or labels")
		}
		f := target.Filter{Kind: b.Selector.Kind, Environment: b.Selector.Environment, Labels: b.Selector.Labels}
		found, err := s.Tasks.SubmitMany(ctx, p.TenantID, p.Name, f, api.TaskRequest{
			Type: b.Type, Payload: b.Payload, Credentials: b.Credentials, Timeout: b.Timeout,
			DeliveryTimeout: b.DeliveryTimeout, Priority: b.Priority, IdempotencyKey: b.IdempotencyKey,
		})
		if err != nil {
			return api.TaskList{}, err
		}
		out := api.TaskList{Items: make([]api.Task, len(found))}
		for i, t := range found {
			out.Items[i] = viewTask(t)
		}
		return out, nil
	})

	type listQuery struct {
		Page
		State  string `query:"state" maxLength:"20" doc:"Only tasks in this state, as in running."`
		Type   string `query:"type" maxLength:"30" doc:"Only tasks of this type, as in deploy."`
		Target string `query:"target" maxLength:"255" doc:"The id or name of the target."`
		Agent  string `query:"agent" maxLength:"255" doc:"The id or name of the agent."`
	}
	list(s, s.operation(http.MethodGet, "/api/v1/tasks", "task.list", "List tasks, the newest first", viewer), task.Schema,
		func(ctx context.Context, in *listQuery, q filter.Query) ([]*task.Task, error) {
			tenant := principal(ctx).TenantID
			f := task.Filter{State: api.TaskState(in.State), Type: api.TaskType(in.Type), Query: q, Limit: in.Limit}
			if in.Target != "" {
				t, err := s.Targets.Get(ctx, tenant, in.Target)
				if err != nil {
					return nil, err
				}
				f.TargetID = t.ID
			}
			var err error
			if f.AgentID, err = s.agentID(ctx, tenant, in.Agent); err != nil {
				return nil, err
			}
			return s.Tasks.List(ctx, tenant, f)
		},
		func(_ context.Context, _ *listQuery, found []*task.Task, next string) api.TaskList {
			out := api.TaskList{Items: make([]api.Task, len(found)), Next: next}
			for i, t := range found {
				out.Items[i] = viewTask(t)
			}
			return out
		})

	handle(s, s.operation(http.MethodGet, "/api/v1/tasks/{id}", "task.get", "Show a task", viewer),
		func(ctx context.Context, in *IDPath) (api.Task, error) {
			return oneTask(s.Tasks.Get(ctx, principal(ctx).TenantID, in.ID))
		})

	handle(s, s.operation(http.MethodPost, "/api/v1/tasks/{id}/cancel", "task.cancel", "End a queued task, or ask the agent to stop a running one", operator),
		func(ctx context.Context, in *IDPath) (api.Task, error) {
			p := principal(ctx)
			return oneTask(s.Tasks.Cancel(ctx, p.TenantID, in.ID, p.Name))
		})

	s.taskLogs()
}

type logQuery struct {
	IDPath
	Follow bool `query:"follow" doc:"Stream entries as JSON lines (application/x-ndjson) until the task is over."`
	// After lets a follower that lost its connection go on where it was.
	After int64 `query:"after" minimum:"0" doc:"Skip this many entries from the beginning."`
}

func (s *Server) taskLogs() {
	op := s.operation(http.MethodGet, "/api/v1/tasks/{id}/logs", "task.logs", "Read a task's log, or follow it", viewer)
	op.Responses = map[string]*huma.Response{"200": {
		Description: "The log.",
		Content: map[string]*huma.MediaType{
			"application/json":     {Schema: schemaOf[api.TaskLogs](s.huma.OpenAPI())},
			"application/x-ndjson": items(schemaOf[api.LogEntry](s.huma.OpenAPI()), "With follow=true: JSON values, one on each line.", lines(exampleLogEntries())),
		},
	}}
	huma.Register(s.huma, op, func(ctx context.Context, in *logQuery) (*huma.StreamResponse, error) {
		t, err := s.Tasks.Get(ctx, principal(ctx).TenantID, in.ID)
		if err != nil {
			return nil, s.fail(ctx, op.OperationID, err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) { //nolint:contextcheck // it carries the request's context
			if in.Follow {
				s.followLog(hc, t, in.After)
			} else {
				s.wholeLog(hc, t, in.After)
			}
		}}, nil
	})
}

const logBatch = 1000

func (s *Server) wholeLog(hc huma.Context, t *task.Task, skip int64) {
	ctx := hc.Context()
	out := api.TaskLogs{Entries: []api.LogEntry{}}
	for pos := int64(0); ; {
		es, next, err := s.Tasks.Log(ctx, t.ID, pos, logBatch)
		if err != nil {
			s.refuse(hc, err)
			return
		}
		if len(es) == 0 {
			break
		}
		out.Entries = append(out.Entries, es...)
		pos = next
	}
	out.Entries = out.Entries[min(skip, int64(len(out.Entries))):]
	hc.SetHeader("Content-Type", "application/json")
	hc.SetStatus(http.StatusOK)
	_ = json.NewEncoder(hc.BodyWriter()).Encode(out) // the client is gone otherwise
}

// followLog streams entries as they come, and ends when the task is over and
// its log is out. A wake-up may be lost, so it also looks every two seconds;
// an empty line then keeps the connection open and tells when it is not. When the
// reader's token is good no more, the last line says so.
func (s *Server) followLog(hc huma.Context, t *task.Task, skip int64) {
	ctx := hc.Context()
	changed, stop := s.Followers.Follow(t.ID)
	defer stop()
	hc.SetHeader("Content-Type", "application/x-ndjson")
	hc.SetHeader("Cache-Control", "no-store")
	hc.SetStatus(http.StatusOK)
	_, w := humago.Unwrap(hc)
	control := http.NewResponseController(w)
	// Each part that is sent has its time; between them there is none to keep.
	hurry := func() error { return control.SetWriteDeadline(time.Now().Add(4 * s.bodyTimeout)) }
	flush := func() error { return errors.Join(control.Flush(), control.SetWriteDeadline(time.Time{})) }
	if flush() != nil {
		return
	}
	enc := json.NewEncoder(w)
	tick := time.NewTicker(tokenEvery)
	defer tick.Stop()
	for pos := int64(0); ; {
		// The state is read before the log: an entry that came in between
		// is not missed then.
		cur, err := s.Tasks.Get(ctx, t.TenantID, t.ID)
		if err != nil {
			return
		}
		for {
			es, next, err := s.Tasks.Log(ctx, t.ID, pos, logBatch)
			if err != nil {
				return
			}
			if len(es) == 0 {
				break
			}
			if hurry() != nil {
				return
			}
			for _, e := range es {
				if skip > 0 {
					skip--
					continue
				}
				if err := enc.Encode(e); err != nil {
					return
				}
			}
			pos = next
		}
		if flush() != nil {
			return
		}
		if cur.State.Final() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-s.Stopping:
			return
		case <-changed:
		case <-tick.C:
			if hurry() != nil {
				return
			}
			if why := s.tokenEnded(ctx); why != nil {
				_ = enc.Encode(api.LogEntry{At: s.now(), Stream: "system", Text: why.Message}) // the reader is gone otherwise
				return
			}
			if _, err := w.Write([]byte("\n")); err != nil {
				return
			}
		}
	}
}

func oneTask(t *task.Task, err error) (api.Task, error) {
	if err != nil {
		return api.Task{}, err
	}
	return viewTask(t), nil
}

func viewTask(t *task.Task) api.Task {
	return api.Task{
		ID: t.ID, Type: t.Type, TargetID: t.TargetID, TargetName: t.TargetName, AgentID: t.AgentID, AgentName: t.AgentName,
		State: t.State, Reason: t.Reason, Attempt: t.Attempt, Priority: task.PriorityName(t.Priority), Payload: t.Payload,
		Timeout: int64(t.Timeout / time.Second), IdempotencyKey: t.IdempotencyKey, CancelRequested: t.CancelRequested,
		CreatedBy: t.CreatedBy, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, AssignedAt: timeOrNil(t.AssignedAt),
		StartedAt: timeOrNil(t.StartedAt), FinishedAt: timeOrNil(t.FinishedAt), Result: t.Result,
	}
}
